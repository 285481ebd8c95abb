#include "server/server.h"

#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "core/base/file.h"
#include "core/kernels/cuda/device.h"
#include "core/kernels/cuda/forward/forward_device.h"
#include "core/kernels/kernels.h"
#include "core/model/cuda/open.h"
#include "core/quantize/cuda/quantize_device.h"
#include "server/import_sources.h"
#include "server/serving/core_model_loader.h"
#include "server/store/sqlite_metadata_store.h"

namespace qamserve {
namespace {

constexpr int64_t kMib = int64_t{1} << 20;
// Short tasks; two so that one long tokenization does not hold up the rest of a small machine.
constexpr int kQuickThreads = 4;
// Loads, checks of uploads and scores that run at once.
constexpr int kSlowThreads = 4;
// Imports from hubs and stores that run at once; they wait for networks.
constexpr int kTransferThreads = 2;
constexpr size_t kMaxQuickQueued = 4096;
constexpr size_t kMaxSlowQueued = 64;
constexpr size_t kMaxTransfersQueued = 16;
// What calls get to end by themselves once no generation runs: last messages on their way, pieces of uploads.
constexpr absl::Duration kCallGrace = absl::Seconds(2);

int ThreadsOf(const ServerOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

EngineOptions EngineOptionsOf(const ServerOptions& options) {
  EngineOptions engine;
  engine.max_running = options.max_running;
  engine.max_waiting = options.max_waiting;
  engine.kv_bytes = options.kv_mib * kMib;
  engine.kv.type = options.kv_type == "int8" ? KvType::kInt8 : KvType::kF32;
  engine.prefix_cache = !options.no_prefix_cache;
  engine.draft_tokens = options.draft_tokens;
  engine.threads = ThreadsOf(options);
  engine.device = options.device;
  return engine;
}

// A server without its device would refuse every model later: it does not start.
absl::Status CheckModelDevice(const ServerOptions& options) {
  ASSIGN_OR_RETURN(const int device, ParseDevice(options.device));
  if (device < 0 || !options.HasRole("inference")) return absl::OkStatus();
  const absl::Status opened = OpenCudaForwardDevice(device).status();
  return opened.ok() ? opened : Annotate(opened, "--device");
}

// Null: the CPU.
absl::StatusOr<std::shared_ptr<QuantizeDevice>> QuantizeDeviceOf(const ServerOptions& options) {
  ASSIGN_OR_RETURN(const int device, ParseDevice(options.quantize_device));
  if (device < 0 || !options.HasRole("worker")) return nullptr;
  absl::StatusOr<std::shared_ptr<QuantizeDevice>> opened = OpenCudaQuantizeDevice(device);
  if (opened.ok()) return opened;
  return Annotate(opened.status(), "--quantize-device");
}

int64_t MemoryLimitOf(const ServerOptions& options) {
  return options.memory_limit_mib > 0 ? options.memory_limit_mib * kMib : MachineMemoryBytes() / 4 * 3;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, std::shared_ptr<Log> log,
                                                      const ServerParts& parts) {
  RETURN_IF_ERROR(ValidateOptions(options));
  ASSIGN_OR_RETURN(DataDir data_dir, DataDir::Open(options.data_dir));
  auto server = std::unique_ptr<Server>(new Server(options, std::move(log), std::move(data_dir)));
  RETURN_IF_ERROR(server->OpenTls());
  RETURN_IF_ERROR(server->OpenStores(parts));
  RETURN_IF_ERROR(server->OpenAccess());
  RETURN_IF_ERROR(server->StartWork(parts));
  RETURN_IF_ERROR(server->Listen(parts));
  server->log_->Info("started", {{"address", server->address()},
                                 {"http", server->http_url()},
                                 {"metrics_port", server->metrics_port()},
                                 {"data_dir", options.data_dir},
                                 {"roles", options.roles}});
  server->log_->Info("kernels", {{"cpu", std::string(BestKernels().name)}, {"cuda", DescribeCuda(FindCudaDevices())}});
  return server;
}

Server::Server(const ServerOptions& options, std::shared_ptr<Log> log, DataDir data_dir)
    : options_(options), log_(std::move(log)), data_dir_(std::move(data_dir)) {}

Server::~Server() { DrainUntil(absl::InfinitePast(), absl::ZeroDuration()); }

std::string Server::address() const {
  const std::string host = options_.listen.substr(0, options_.listen.rfind(':'));
  return fmt::format("{}:{}", host, port());
}

absl::Status Server::OpenStores(const ServerParts& parts) {
  ASSIGN_OR_RETURN(store_, OpenSqliteMetadataStore(data_dir_.database()));
  DirectoryBlobStoreOptions blob_options;
  blob_options.root = data_dir_.blobs();
  blob_options.reserve_bytes = static_cast<uint64_t>(options_.disk_reserve_mib * kMib);
  ASSIGN_OR_RETURN(blobs_, DirectoryBlobStore::Open(blob_options));
  CatalogOptions catalog_options;
  catalog_options.import_root = options_.import_root;
  ASSIGN_OR_RETURN(catalog_options.remote, RemoteOptionsOf(options_));
  catalog_options.import_spool = data_dir_.imports();
  catalog_options.import_mode = options_.import_mode == "reference" ? ImportMode::kReference : ImportMode::kCopy;
  catalog_options.upload_retention_ms = int64_t{options_.upload_retention_hours} * 3600 * 1000;
  if (parts.inspect) catalog_options.inspect = parts.inspect;
  catalog_ = std::make_unique<Catalog>(catalog_options, *store_, *blobs_);
  return absl::OkStatus();
}

SystemFacts Server::DescribeSystem() const {
  return {.version = QAMSERVE_VERSION,
          .codec_version = kCodecVersion,
          .start_ms = SystemNowMs(),
          .roles = options_.roles,
          .kernels = std::string(BestKernels().name),
          .device = options_.device,
          .quantize_device = options_.quantize_device,
          .threads = ThreadsOf(options_),
          .data_dir = data_dir_.path()};
}

absl::Status Server::StartWork(const ServerParts& parts) {
  RETURN_IF_ERROR(CheckModelDevice(options_));
  own_loader_ = std::make_unique<CoreModelLoader>(EngineOptionsOf(options_));
  ASSIGN_OR_RETURN(const std::shared_ptr<QuantizeDevice> quantize_device, QuantizeDeviceOf(options_));
  own_runner_ = std::make_unique<CoreTaskRunner>(*catalog_, quantize_device);
  TaskRunner& runner = parts.runner != nullptr ? *parts.runner : *own_runner_;
  RegistryOptions registry_options;
  registry_options.memory_limit_bytes = MemoryLimitOf(options_);
  registry_options.on_change = [this](const ServedModelView& model) { OnModelChange(model); };
  models_ = std::make_unique<ModelRegistry>(registry_options, *catalog_,
                                            parts.loader != nullptr ? *parts.loader : *own_loader_);
  RETURN_IF_ERROR(models_->RestoreNames());
  metrics_.SetKnownModels([this](std::string_view name) { return models_->IsServed(name); });
  quick_ = std::make_unique<Executor>(kQuickThreads, kMaxQuickQueued);
  slow_ = std::make_unique<Executor>(kSlowThreads, kMaxSlowQueued);
  transfers_ = std::make_unique<Executor>(kTransferThreads, kMaxTransfersQueued);

  JobManagerOptions job_options;
  job_options.work_dir = data_dir_.work();
  job_options.threads = ThreadsOf(options_);
  job_options.lease_ms = int64_t{options_.lease_seconds} * 1000;
  job_options.on_notice = [this](const JobNotice& notice) { OnJobNotice(notice); };
  jobs_ = std::make_unique<JobManager>(job_options, *store_, *catalog_, runner);
  RETURN_IF_ERROR(jobs_->Start());
  if (options_.HasRole("worker")) {
    WorkerOptions worker_options;
    worker_options.name = fmt::format("local-{}", getpid());
    worker_options.threads = ThreadsOf(options_);
    worker_options.lease_ms = job_options.lease_ms;
    worker_ = std::make_unique<Worker>(worker_options, *jobs_, runner);
  }
  context_ = std::unique_ptr<ServiceContext>(
      new ServiceContext{*catalog_, *jobs_, *models_, metrics_, *log_, *quick_, *slow_, *transfers_, drain_, *access_, parts.limits,
                         [this](std::string name, std::string source) { LoadLater(name, source); }, DescribeSystem()});
  metrics_.AddGaugeSource([this](Metrics::GaugeWriter& writer) { WriteJobGauges(writer); });
  metrics_.AddGaugeSource([this](Metrics::GaugeWriter& writer) { WriteModelGauges(writer); });
  return absl::OkStatus();
}

absl::Status Server::Listen(const ServerParts& parts) {
  const bool inference = options_.HasRole("inference");
  ASSIGN_OR_RETURN(rpc_, RpcServer::Start({options_.listen, options_.HasRole("api"), inference, tls_.get()}, *context_));
  RETURN_IF_ERROR(ListenHttp());
  StartTlsWatch(parts.tls_reload_interval);
  if (!inference) {
    restored_ = true;
    return absl::OkStatus();
  }
  return slow_->Run([this] {
    const absl::Status restored = models_->Restore();
    if (!restored.ok()) log_->Error("restore_failed", {{"message", MessageOf(restored)}});
    restored_ = true;
  });
}

void Server::Drain() {
  log_->Info("draining", {{"seconds", options_.drain_seconds}});
  DrainUntil(absl::Now() + absl::Seconds(options_.drain_seconds), kCallGrace);
  log_->Info("drained");
}

void Server::PutBackTasks() {
  log_->Warning("ending_at_once");
  const absl::Status status = jobs_->PutBackTasks();
  // Their leases then end at the next start, and each attempt counts.
  if (!status.ok()) log_->Error("tasks_not_put_back", {{"message", MessageOf(status)}});
}

// Also takes down a server that was only half started.
void Server::DrainUntil(absl::Time deadline, absl::Duration grace) {
  draining_ = true;
  if (rpc_ != nullptr) rpc_->SetNotServing();
  drain_.Raise();
  // Beside the generations: a task ends at its next progress report, which may take a while.
  std::thread work([this] {
    if (worker_ != nullptr) worker_->Stop();
    if (jobs_ != nullptr) jobs_->Stop();
  });
  if (models_ != nullptr) models_->DrainAll(deadline);
  const absl::Time cut = absl::Now() + grace;
  if (http_ != nullptr) http_->Shutdown(cut);  // its requests are calls of rpc_
  if (rpc_ != nullptr) rpc_->Shutdown(cut);
  work.join();
  if (transfers_ != nullptr) transfers_->Stop();
  if (slow_ != nullptr) slow_->Stop();
  if (quick_ != nullptr) quick_->Stop();
  // A model whose loading had begun before the drain.
  if (models_ != nullptr) models_->DrainAll(absl::InfinitePast());
}

}  // namespace qamserve
