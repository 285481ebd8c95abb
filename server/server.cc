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
#include "server/serving/core_model_loader.h"

namespace qamserve {
namespace {

constexpr int64_t kMib = int64_t{1} << 20;
// Short tasks; two so that one long tokenization does not hold up the rest of a small machine.
constexpr int kQuickThreads = 4;
// Loads, checks of uploads and scores that run at once.
constexpr int kSlowThreads = 4;
// In a fleet more of both wait for others: for the metadata store, and for replicas that are being loaded.
constexpr int kFleetQuickThreads = 16;
constexpr int kFleetSlowThreads = 32;
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
  RETURN_IF_ERROR(server->OpenTraces());
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

void Server::StartModels(const ServerParts& parts) {
  own_loader_ = std::make_unique<CoreModelLoader>(EngineOptionsOf(options_));
  RegistryOptions registry_options;
  registry_options.memory_limit_bytes = MemoryLimitOf(options_);
  registry_options.on_change = [this](const ServedModelView& model) { OnModelChange(model); };
  registry_options.owns_rows = !in_fleet_;
  models_ = std::make_unique<ModelRegistry>(registry_options, *catalog_,
                                            parts.loader != nullptr ? *parts.loader : *own_loader_);
}

absl::Status Server::StartJobs(TaskRunner& runner) {
  JobManagerOptions job_options;
  job_options.work_dir = data_dir_.work();
  job_options.threads = ThreadsOf(options_);
  job_options.lease_ms = int64_t{options_.lease_seconds} * 1000;
  job_options.shared = in_fleet_;
  job_signals_ = std::make_unique<JobSignals>(metrics_, *log_, *tracer_);
  job_options.on_notice = [this](const JobNotice& notice) { OnJobNotice(notice); };
  jobs_ = std::make_unique<JobManager>(job_options, *store_, *catalog_, runner);
  if (in_fleet_ && !ServesApi() && !options_.HasRole("worker")) return absl::OkStatus();  // others see to the jobs
  OpenLoadWishes();
  RETURN_IF_ERROR(jobs_->Start());
  if (!options_.HasRole("worker")) return absl::OkStatus();
  WorkerOptions worker_options;
  worker_options.name = in_fleet_ ? instance_id_ : fmt::format("local-{}", getpid());
  worker_options.pools = options_.WorkerPools();
  worker_options.threads = ThreadsOf(options_);
  worker_options.lease_ms = job_options.lease_ms;
  worker_options.nice = options_.worker_nice;
  worker_options.on_lease_lost = [this](const TaskLease& lease) {
    log_->Warning("lease_lost", {{"job", lease.job}, {"task", lease.index}, {"worker", lease.worker}});
  };
  worker_options.on_store_fault = [this](const absl::Status& error, const TaskLease* lease) {
    Log::Fields fields = {{"reason", ReasonOf(error)}, {"message", MessageOf(error)}};
    if (lease != nullptr) {
      fields["job"] = lease->job;
      fields["task"] = lease->index;
      fields["worker"] = lease->worker;
    }
    log_->Warning("store_waited_for", fields);
  };
  worker_options.on_device_lost = [this](const absl::Status& error) {
    log_->Error("quantize_device_lost", {{"reason", ReasonOf(error)}, {"message", MessageOf(error)}});
  };
  worker_ = std::make_unique<Worker>(worker_options, *jobs_, runner);
  return absl::OkStatus();
}

absl::Status Server::StartWork(const ServerParts& parts) {
  RETURN_IF_ERROR(CheckModelDevice(options_));
  StartModels(parts);
  if (!in_fleet_) RETURN_IF_ERROR(models_->RestoreNames());
  RETURN_IF_ERROR(OpenServing());
  metrics_.SetKnownModels([this](std::string_view name) {
    return models_->IsServed(name) || (router_ != nullptr && router_->state()->models.contains(name));
  });
  quick_ = std::make_unique<Executor>(in_fleet_ ? kFleetQuickThreads : kQuickThreads, kMaxQuickQueued);
  slow_ = std::make_unique<Executor>(in_fleet_ ? kFleetSlowThreads : kSlowThreads, kMaxSlowQueued);
  transfers_ = std::make_unique<Executor>(kTransferThreads, kMaxTransfersQueued);
  ASSIGN_OR_RETURN(const std::shared_ptr<QuantizeDevice> quantize_device, QuantizeDeviceOf(options_));
  own_runner_ = std::make_unique<CoreTaskRunner>(*catalog_, quantize_device);
  RETURN_IF_ERROR(StartJobs(parts.runner != nullptr ? *parts.runner : *own_runner_));
  context_ = std::unique_ptr<ServiceContext>(new ServiceContext{.catalog = *catalog_,
                                                                .jobs = *jobs_,
                                                                .models = *models_,
                                                                .serving = *serving_,
                                                                .metrics = metrics_,
                                                                .log = *log_,
                                                                .quick = *quick_,
                                                                .slow = *slow_,
                                                                .transfers = *transfers_,
                                                                .drain = drain_,
                                                                .access = *access_,
                                                                .limits = parts.limits,
                                                                .see_to_load_wishes = [this] { WakeLoadWishes(); },
                                                                .system = DescribeSystem(),
                                                                .tracer = tracer_,
                                                                .fleet = fleet_context_.get()});
  AddGauges();
  return absl::OkStatus();
}

absl::Status Server::Listen(const ServerParts& parts) {
  RpcServerOptions rpc;
  rpc.listen = options_.listen;
  rpc.store_services = ServesApi();
  rpc.serving_services = ServesInference();
  rpc.inference_service = ServesInference() || options_.HasRole("inference");
  rpc.access_service = !in_fleet_ || ServesApi();
  rpc.tls = tls_.get();
  ASSIGN_OR_RETURN(rpc_, RpcServer::Start(rpc, *context_));
  RETURN_IF_ERROR(ListenHttp());
  StartTlsWatch(parts.tls_reload_interval);
  if (in_fleet_) return JoinFleet();
  if (!options_.HasRole("inference")) {
    restored_ = true;
    WakeLoadWishes();
    return absl::OkStatus();
  }
  return slow_->Run([this] {
    const absl::Status restored = models_->Restore();
    if (!restored.ok()) log_->Error("restore_failed", {{"message", MessageOf(restored)}});
    restored_ = true;
    WakeLoadWishes();
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
  // First of all: the others stop sending requests here.
  if (instance_ != nullptr) instance_->SetDraining();
  if (keeper_ != nullptr) keeper_->BeginDrain();
  if (rpc_ != nullptr) rpc_->SetNotServing();
  drain_.Raise();
  // Beside the generations: a task ends at its next progress report, which may take a while.
  std::thread work([this] {
    if (worker_ != nullptr) worker_->Stop();
    if (jobs_ != nullptr) jobs_->Stop();
  });
  if (models_ != nullptr) models_->DrainAll(deadline);
  // Generations that run elsewhere on behalf of calls here have as long as those that run here.
  const bool forwards = router_ != nullptr;
  const absl::Time cut = (forwards ? std::max(deadline, absl::Now()) : absl::Now()) + grace;
  if (http_ != nullptr) http_->Shutdown(cut);  // its requests are calls of rpc_
  if (rpc_ != nullptr) rpc_->Shutdown(cut);
  work.join();
  if (transfers_ != nullptr) transfers_->Stop();
  if (slow_ != nullptr) slow_->Stop();
  if (quick_ != nullptr) quick_->Stop();
  if (load_wishes_ != nullptr) load_wishes_->Stop();
  if (keeper_ != nullptr) keeper_->Stop();
  // A model whose loading had begun before the drain.
  if (models_ != nullptr) models_->DrainAll(absl::InfinitePast());
  if (instance_ != nullptr) instance_->Leave();
  if (router_ != nullptr) router_->Stop();
}

}  // namespace qamserve
