#include "server/fleet/fleet_state.h"

#include <algorithm>
#include <span>

namespace qamserve {
namespace {

std::span<const ReplicaRecord> ReplicasOf(const FleetState& state, std::string_view model) {
  const auto it = state.replicas.find(model);
  if (it == state.replicas.end()) return {};
  return it->second;
}

std::string HostOf(const FleetState& state, const std::string& instance) {
  const auto it = state.instances.find(instance);
  return it == state.instances.end() ? instance : it->second.host;
}

// What is told of those that count.
struct Counts {
  int32_t ready = 0;
  int32_t loading = 0;
  int32_t failed = 0;
  absl::Status error;  // of one that failed
};

Counts Count(const FleetState& state, std::span<const ReplicaRecord> replicas) {
  Counts counts;
  for (const ReplicaRecord& replica : replicas) {
    if (IsUsable(state, replica)) ++counts.ready;
    if (replica.state == ReplicaState::kLoading) ++counts.loading;
    if (replica.state != ReplicaState::kFailed) continue;
    ++counts.failed;
    if (counts.error.ok()) {
      counts.error = Annotate(StatusFromError(replica.error), fmt::format("on {}", HostOf(state, replica.instance)));
    }
  }
  return counts;
}

ServedModelState StateOf(const ServedModelRecord& model, const Counts& counts) {
  if (model.replicas == 0) return ServedModelState::kDraining;
  if (counts.ready > 0) return ServedModelState::kReady;
  return counts.failed > 0 && counts.loading == 0 ? ServedModelState::kFailed : ServedModelState::kLoading;
}

}  // namespace

absl::StatusOr<FleetState> ReadFleetState(MetadataStore& store) {
  FleetState state;
  ASSIGN_OR_RETURN(const std::vector<ServedModelRecord> models, store.ListServedModels());
  ASSIGN_OR_RETURN(const std::vector<AliasRecord> aliases, store.ListAliases());
  ASSIGN_OR_RETURN(const std::vector<ReplicaRecord> replicas, store.ListReplicas());
  // Last: whose replica is there is there as well, or has gone meanwhile.
  ASSIGN_OR_RETURN(const std::vector<InstanceRecord> instances, store.ListInstances());
  for (const ServedModelRecord& model : models) state.models[model.name] = model;
  for (const AliasRecord& alias : aliases) state.aliases[alias.name] = alias;
  for (const ReplicaRecord& replica : replicas) state.replicas[replica.model].push_back(replica);
  for (const InstanceRecord& instance : instances) state.instances[instance.id] = instance;
  return state;
}

bool IsUsable(const FleetState& state, const ReplicaRecord& replica) {
  const auto it = state.instances.find(replica.instance);
  if (it == state.instances.end() || it->second.draining || it->second.address.empty()) return false;
  if (replica.state == ReplicaState::kReady) return true;
  return replica.state == ReplicaState::kDraining && it->second.drain_requested && replica.ready_ms > 0;
}

bool IsLastResort(const FleetState& state, const std::string& instance) {
  const auto it = state.instances.find(instance);
  return it != state.instances.end() && it->second.drain_requested;
}

ServedModelView ViewOf(const FleetState& state, const ServedModelRecord& model) {
  const std::span<const ReplicaRecord> replicas = ReplicasOf(state, model.name);
  const Counts counts = Count(state, replicas);
  ServedModelView view;
  view.name = model.name;
  view.source = model.source;
  view.context_tokens = model.context_tokens;
  view.replicas = model.replicas;
  view.ready_replicas = counts.ready;
  view.state = StateOf(model, counts);
  double kv_used = 0;
  for (const ReplicaRecord& replica : replicas) {
    view.memory_bytes += replica.memory_bytes;
    view.running += replica.running;
    view.waiting += replica.waiting;
    if (!IsUsable(state, replica)) continue;
    kv_used += replica.kv_used_ratio;
    view.chat = view.chat || replica.chat;
    view.context_tokens = replica.context_tokens;
    if (view.ready_ms == 0 || replica.ready_ms < view.ready_ms) view.ready_ms = replica.ready_ms;
  }
  if (counts.ready > 0) view.kv_used_ratio = kv_used / counts.ready;
  if (counts.ready < model.replicas) view.error = counts.error;
  if (view.error.ok() && view.state == ServedModelState::kLoading && counts.loading == 0) {
    view.error = Unavailable("NO_REPLICA", "no inference instance has taken it yet; there are {}",
                             CountInferenceInstances(state));
  }
  return view;
}

std::vector<ServedModelView> ViewsOf(const FleetState& state) {
  std::vector<ServedModelView> views;
  views.reserve(state.models.size());
  for (const auto& [name, model] : state.models) views.push_back(ViewOf(state, model));
  return views;
}

NamesInUse NamesOf(const FleetState& state) {
  NamesInUse names{.models = {}, .aliases = state.aliases};
  for (const auto& [name, model] : state.models) {
    names.models[name] = StateOf(model, Count(state, ReplicasOf(state, name)));
  }
  return names;
}

size_t CountInferenceInstances(const FleetState& state) {
  return static_cast<size_t>(std::count_if(state.instances.begin(), state.instances.end(), [](const auto& entry) {
    const InstanceRecord& instance = entry.second;
    return !instance.TakesNothingNew() &&
           std::find(instance.roles.begin(), instance.roles.end(), "inference") != instance.roles.end();
  }));
}

}  // namespace qamserve
