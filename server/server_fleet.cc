// The server as one process of several that share their stores.
#include <absl/time/clock.h>

#include "core/base/file.h"
#include "core/kernels/cuda/device.h"
#include "core/model/cuda/open.h"
#include "server/server.h"
#include "server/serving/local_serving.h"

namespace qamserve {
namespace {

constexpr uint64_t kMaxCaBytes = uint64_t{1} << 20;
// After a change of its own an api process lets its router see it before it answers.
constexpr absl::Duration kOwnChangeLimit = absl::Seconds(1);

// "cpu", "cuda:0 (NVIDIA H200, 139.8 GiB)".
std::string WithMemory(const std::string& device) {
  const absl::StatusOr<int> ordinal = ParseDevice(device);
  if (!ordinal.ok() || *ordinal < 0) return device;
  const std::string gpu = DescribeCudaDevice(FindCudaDevices(), *ordinal);
  return gpu.empty() ? device : fmt::format("{} ({})", device, gpu);
}

}  // namespace

absl::Status Server::OpenServing() {
  if (!in_fleet_) {
    serving_ = std::make_unique<LocalServing>(*models_);
    return absl::OkStatus();
  }
  FleetModelsOptions serving;
  if (ServesApi()) RETURN_IF_ERROR(OpenRouter(serving));
  auto fleet_models = std::make_unique<FleetModels>(std::move(serving), *store_);
  fleet_models_ = fleet_models.get();
  serving_ = std::move(fleet_models);
  return absl::OkStatus();
}

absl::Status Server::OpenRouter(FleetModelsOptions& serving) {
  InstanceChannelOptions channels;
  channels.tls = tls_.get();
  if (!options_.fleet_ca.empty()) {
    absl::StatusOr<std::string> ca = ReadFile(options_.fleet_ca, kMaxCaBytes);
    if (!ca.ok()) return Annotate(ca.status(), "--fleet-ca");
    channels.ca_pem = *std::move(ca);
  }
  channels_ = std::make_unique<InstanceChannels>(std::move(channels));
  RouterOptions router;
  router.on_refresh = [this](const FleetState& state) { OnFleetState(state); };
  ASSIGN_OR_RETURN(router_, Router::Start(std::move(router), *store_));
  serving.snapshot = [this] { return router_->state(); };
  serving.on_written = [this] { router_->AwaitRefresh(kOwnChangeLimit); };
  fleet_context_ = std::make_unique<FleetContext>(
      FleetContext{.router = *router_, .channels = *channels_, .instance = instance_id_});
  return absl::OkStatus();
}

InstanceRecord Server::DescribeInstance() const {
  const SystemFacts& facts = context_->system;
  InstanceRecord record;
  record.id = instance_id_;
  record.host = HostName();
  record.roles = options_.roles;
  if (options_.HasRole("worker")) record.pools = options_.WorkerPools();
  record.version = facts.version;
  record.codec_version = facts.codec_version;
  record.kernels = facts.kernels;
  record.device = options_.HasRole("inference") ? facts.device : facts.quantize_device;
  record.threads = facts.threads;
  // Nothing limits a worker but the machine.
  record.memory_bytes = options_.HasRole("inference") ? models_->memory_limit_bytes() : MachineMemoryBytes();
  record.started_ms = store_->NowMs();
  return record;
}

absl::Status Server::JoinFleet() {
  InstanceOptions instance;
  instance.record = DescribeInstance();
  // The others know no more of this machine than the row.
  instance.record.device = WithMemory(instance.record.device);
  ASSIGN_OR_RETURN(instance.record.address, AdvertisedAddress(options_, port()));
  instance.on_store = [this](const absl::Status& status) {
    if (status.ok()) return log_->Info("metadata_store_back");
    log_->Warning("metadata_store_lost", {{"reason", ReasonOf(status)}, {"message", MessageOf(status)}});
  };
  if (ServesApi()) instance.sweep = [this] { SweepFleet(); };
  const std::string address = instance.record.address;
  ASSIGN_OR_RETURN(instance_, Instance::Start(std::move(instance), *store_));
  log_->Info("joined_fleet", {{"instance", instance_id_}, {"address", address}});
  if (options_.HasRole("inference")) {
    ReplicaKeeperOptions keeper;
    keeper.instance = instance_id_;
    keeper.drain_seconds = options_.drain_seconds;
    keeper.on_error = [this](const std::string& model, const absl::Status& error) {
      log_->Warning("replica_failed", {{"model", model}, {"reason", ReasonOf(error)}, {"message", MessageOf(error)}});
    };
    keeper_ = std::make_unique<ReplicaKeeper>(std::move(keeper), *store_, *models_);
  }
  instance_->FollowDrainRequests([this](bool requested) { OnDrainRequest(requested); });
  if (router_ != nullptr) {
    {
      absl::MutexLock lock(&health_mutex_);
      tells_health_ = true;
    }
    OnFleetState(*router_->state());
  }
  restored_ = true;
  WakeLoadWishes();
  return absl::OkStatus();
}

// Readiness stays as it is: calls, streams and metrics of this process are as good as before.
void Server::OnDrainRequest(bool requested) {
  if (requested || drain_requested_) log_->Info(requested ? "drain_requested" : "drain_request_undone");
  drain_requested_ = requested;
  if (worker_ != nullptr) worker_->SetDraining(requested);
  if (keeper_ != nullptr) keeper_->SetDrainRequested(requested);
}

void Server::SweepFleet() {
  const absl::StatusOr<int64_t> gone = fleet_models_->Sweep(kInstanceSilenceMs);
  if (!gone.ok() || *gone == 0) return;
  metrics_.Add(Metric::kInstancesGoneTotal, {}, static_cast<double>(*gone));
  log_->Warning("instances_gone", {{"count", *gone}, {"silent_ms", kInstanceSilenceMs}});
}

// Connections go with their instances; health tells what is served by the fleet.
void Server::OnFleetState(const FleetState& state) {
  std::set<std::string> addresses;
  for (const auto& [id, instance] : state.instances) addresses.insert(instance.address);
  channels_->Keep(addresses);
  std::set<std::string> ready;
  for (const ServedModelView& model : ViewsOf(state)) {
    if (model.state == ServedModelState::kReady) ready.insert(model.name);
  }
  absl::MutexLock lock(&health_mutex_);
  if (!tells_health_ || draining_) return;
  for (const std::string& model : ready) {
    if (!healthy_.contains(model)) rpc_->SetModelHealth(model, true);
  }
  for (const std::string& model : healthy_) {
    if (!ready.contains(model)) rpc_->SetModelHealth(model, false);
  }
  healthy_ = std::move(ready);
}

std::string Server::NotStarted() const {
  if (restored_) return "";
  return in_fleet_ ? "the process is joining the others" : "served models are being loaded";
}

std::string Server::NotReady() const {
  if (draining_) return "the server is shutting down";
  if (!restored_) return NotStarted();
  // What it took up at first; later loads do not keep it from serving what it has.
  return keeper_ != nullptr && !keeper_->settled() ? "served models are being loaded" : "";
}

}  // namespace qamserve
