// What the server tells the outside of itself: metrics, traces, log and health.
#include <absl/strings/ascii.h>
#include <absl/strings/str_join.h>

#include <array>
#include <map>
#include <string>

#include "core/kernels/cuda/device.h"
#include "core/model/cuda/open.h"
#include "server/server.h"
#include "server/serving/load_wishes.h"
#include "server/telemetry/otlp_exporter.h"
#include "server/telemetry/process_stats.h"

namespace qamserve {
namespace {

// A scrape goes on without the numbers of a store that is slow or away; Prometheus itself waits 10 s by default.
constexpr absl::Duration kStoreFactsLimit = absl::Seconds(3);

// A process on its own is told of every wish, and looks at its start. In a fleet the one that made it may be gone.
constexpr absl::Duration kWishInterval = absl::Hours(1);
constexpr absl::Duration kFleetWishInterval = absl::Seconds(30);
constexpr absl::Duration kWishRetry = absl::Seconds(5);

constexpr std::array<ServedModelState, 4> kModelStates = {ServedModelState::kLoading, ServedModelState::kReady,
                                                          ServedModelState::kDraining, ServedModelState::kFailed};

constexpr std::array<std::pair<ServedModelState, ReplicaState>, 4> kReplicaStates = {
    {{ServedModelState::kLoading, ReplicaState::kLoading},
     {ServedModelState::kReady, ReplicaState::kReady},
     {ServedModelState::kDraining, ReplicaState::kDraining},
     {ServedModelState::kFailed, ReplicaState::kFailed}}};

std::string Lower(std::string_view text) {
  std::string lower(text);
  absl::AsciiStrToLower(&lower);
  return lower;
}

}  // namespace

absl::Status Server::OpenTraces() {
  log_->SetInstance(instance_id_);
  tracer_ = std::make_shared<Tracer>();
  if (options_.otlp_endpoint.empty()) return absl::OkStatus();
  OtlpOptions otlp;
  otlp.endpoint = options_.otlp_endpoint;
  otlp.resource = {{"service.instance.id", instance_id_}, {"qamserve.roles", absl::StrJoin(options_.roles, ",")}};
  otlp.on_count = [this](size_t exported, size_t dropped) {
    metrics_.Add(Metric::kTraceSpansTotal, {"exported"}, static_cast<double>(exported));
    metrics_.Add(Metric::kTraceSpansTotal, {"dropped"}, static_cast<double>(dropped));
  };
  otlp.on_error = [log = log_](const absl::Status& error) {
    log->Warning("traces_not_sent", {{"reason", ReasonOf(error)}, {"message", MessageOf(error)}});
  };
  ASSIGN_OR_RETURN(std::shared_ptr<SpanSink> exporter, OtlpExporter::Start(std::move(otlp)));
  tracer_ = std::make_shared<Tracer>(options_.trace_ratio, std::move(exporter));
  return absl::OkStatus();
}

void Server::OnJobNotice(const JobNotice& notice) {
  job_signals_->Tell(notice);
  const JobRecord& job = notice.job;
  if (notice.kind != JobNotice::Kind::kJobState || job.state != JobState::kSucceeded) return;
  if (HasLoadWish(job)) WakeLoadWishes();
}

void Server::OpenLoadWishes() {
  load_wishes_ = std::make_unique<Ticker>(in_fleet_ ? kFleetWishInterval : kWishInterval, [this] { LookForWishes(); });
  load_wishes_->Start();
}

void Server::WakeLoadWishes() {
  if (load_wishes_ != nullptr) load_wishes_->Wake();
}

// Not before models that were served come back (ModelRegistry::Restore), so that nothing is loaded by both.
void Server::LookForWishes() {
  if (!restored_ || draining_) return;
  LoadWishOptions options;
  options.load = [this](const LoadArgs& args) {
    // In a fleet it is written down, and whoever takes it up tells how it went.
    return in_fleet_ ? fleet_models_->Want(args) : models_->Load(args).status();
  };
  options.on_error = [this](const LoadArgs& args, const absl::Status& error, bool again) {
    log_->Warning(again ? "load_put_off" : "load_failed", {{"model", args.name},
                                                           {"source", args.source},
                                                           {"reason", ReasonOf(error)},
                                                           {"message", MessageOf(error)}});
  };
  const absl::StatusOr<int> left = SeeToLoadWishes(options, *store_, [this] { return draining_.load(); });
  if (!left.ok()) {
    log_->Warning("load_wishes_unknown", {{"reason", ReasonOf(left.status())}, {"message", MessageOf(left.status())}});
  }
  if (!left.ok() || *left > 0) load_wishes_->Hasten(kWishRetry);
}

void Server::OnModelChange(const ServedModelView& model) {
  Log::Fields fields = {{"model", model.name}, {"source", model.source}, {"state", ServedModelStateName(model.state)}};
  if (!model.error.ok()) {
    fields["reason"] = ReasonOf(model.error);
    fields["message"] = MessageOf(model.error);
  }
  log_->Info("model_state", fields);
  if (model.state == ServedModelState::kReady && !model.chat_error.ok()) {
    log_->Warning(
        "chat_not_offered",
        {{"model", model.name}, {"reason", ReasonOf(model.chat_error)}, {"message", MessageOf(model.chat_error)}});
  }
  // An api process of a fleet tells what the fleet serves (OnFleetState).
  if (router_ == nullptr && rpc_ != nullptr) rpc_->SetModelHealth(model.name, model.state == ServedModelState::kReady);
}

void Server::AddGauges() {
  if (options_.HasRole("api")) {
    store_facts_ = std::make_unique<PatientQuery<StoreFacts>>([this]() -> std::optional<StoreFacts> {
      absl::StatusOr<StoreFacts> facts = LoadStoreFacts(*store_);
      if (!facts.ok()) return std::nullopt;
      return *std::move(facts);
    });
    metrics_.AddGaugeSource([this](Metrics::GaugeWriter& writer) {
      std::optional<StoreFacts> facts = store_facts_->Ask(kStoreFactsLimit);
      if (!facts) return;
      if (!in_fleet_) AddToFacts(*facts);
      WriteStoreGauges(*facts, writer);
    });
  }
  metrics_.AddGaugeSource([this](Metrics::GaugeWriter& writer) { store_metrics_->WriteGauges(writer); });
  metrics_.AddGaugeSource([this](Metrics::GaugeWriter& writer) { WriteDiskStats(data_dir_.path(), writer); });
  metrics_.AddGaugeSource([this](Metrics::GaugeWriter& writer) { WriteGpuGauges(writer); });
  metrics_.AddGaugeSource([this](Metrics::GaugeWriter& writer) { WriteModelGauges(writer); });
}

// A process on its own has no rows of instances and replicas. It counts as a fleet of one.
void Server::AddToFacts(StoreFacts& facts) const {
  InstanceRecord& instance = facts.instances.emplace_back(DescribeInstance());
  instance.draining = draining_;
  instance.seen_ms = facts.now_ms;
  for (const ServedModelView& model : models_->List()) {
    for (const auto& [state, replica_state] : kReplicaStates) {
      if (model.state != state) continue;
      ReplicaRecord& replica = facts.replicas.emplace_back();
      replica.model = model.name;
      replica.instance = instance_id_;
      replica.state = replica_state;
    }
  }
}

// Of the GPUs that this process was given.
void Server::WriteGpuGauges(Metrics::GaugeWriter& writer) {
  std::map<int, std::string> devices;
  for (const auto& [role, name] :
       {std::pair("inference", options_.device), std::pair("worker", options_.quantize_device)}) {
    const absl::StatusOr<int> ordinal = ParseDevice(name);
    if (options_.HasRole(role) && ordinal.ok() && *ordinal >= 0) devices[*ordinal] = name;
  }
  for (const auto& [ordinal, name] : devices) {
    const absl::StatusOr<CudaMemory> memory = CudaMemoryOf(ordinal);
    if (!memory.ok()) continue;
    writer.Set(Metric::kGpuMemoryBytes, {name}, static_cast<double>(memory->bytes));
    writer.Set(Metric::kGpuMemoryUsedBytes, {name}, static_cast<double>(memory->used_bytes));
  }
}

void Server::WriteModelGauges(Metrics::GaugeWriter& writer) {
  writer.Set(Metric::kModelMemoryLimitBytes, {}, static_cast<double>(models_->memory_limit_bytes()));
  std::map<ServedModelState, int64_t> by_state;
  for (const ServedModelView& model : models_->List()) {
    ++by_state[model.state];
    writer.Set(Metric::kModelMemoryBytes, {model.name}, static_cast<double>(model.memory_bytes));
    writer.Set(Metric::kRequestsRunning, {model.name}, model.running);
    writer.Set(Metric::kRequestsWaiting, {model.name}, model.waiting);
    writer.Set(Metric::kKvCacheUsageRatio, {model.name}, model.kv_used_ratio);
    writer.Set(Metric::kKvCacheBlocks, {model.name}, static_cast<double>(model.kv_blocks_total));
    writer.Set(Metric::kKvCacheBlocksUsed, {model.name}, static_cast<double>(model.kv_blocks_used));
    writer.Set(Metric::kKvCacheBlocksCached, {model.name}, static_cast<double>(model.kv_blocks_cached));
    writer.Set(Metric::kDecodeStepsTotal, {model.name}, static_cast<double>(model.decode_steps));
    writer.Set(Metric::kDecodeStepSecondsTotal, {model.name}, model.decode_seconds);
    writer.Set(Metric::kDecodeWeightBytesTotal, {model.name}, static_cast<double>(model.decode_weight_bytes));
    writer.Set(Metric::kGraphsRefusedTotal, {model.name}, static_cast<double>(model.graphs_refused));
  }
  for (const ServedModelState state : kModelStates) {
    writer.Set(Metric::kServedModels, {Lower(ServedModelStateName(state))}, static_cast<double>(by_state[state]));
  }
}

}  // namespace qamserve
