// What a fleet serves, at one moment, as the metadata store tells it, and what follows from that. Plain data and pure
// functions, but for ReadFleetState.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "server/serving/alias_rules.h"
#include "server/store/metadata_store.h"

namespace qamserve {

// The name under which MetadataStore::Exclusive guards decisions about served models, aliases and replicas.
inline constexpr char kServingLock[] = "serving";

struct FleetState {
  std::map<std::string, ServedModelRecord, std::less<>> models;
  AliasMap aliases;
  std::map<std::string, InstanceRecord, std::less<>> instances;             // by id
  std::map<std::string, std::vector<ReplicaRecord>, std::less<>> replicas;  // by model, then instance
};

// The errors of the store.
absl::StatusOr<FleetState> ReadFleetState(MetadataStore& store);

// Whether requests may go there: its instance is there and takes them, and it is READY, or its instance was asked to
// drain and keeps it until another has it.
bool IsUsable(const FleetState& state, const ReplicaRecord& replica);
// Whether the instance was asked to drain: its replicas are for requests that nobody else can answer.
bool IsLastResort(const FleetState& state, const std::string& instance);
// A served model over all of its replicas: READY if one is usable, FAILED if all that there are have failed; sums of
// memory and requests. `error` says what keeps it from having all the replicas that it wants, also when it is READY.
ServedModelView ViewOf(const FleetState& state, const ServedModelRecord& model);
std::vector<ServedModelView> ViewsOf(const FleetState& state);  // by name
// `state` must outlive what is returned.
NamesInUse NamesOf(const FleetState& state);
// Instances that serve models and are not about to go.
size_t CountInferenceInstances(const FleetState& state);

}  // namespace qamserve
