// Gauges of what is in the metadata store: queue, instances, replicas, the newest artifact. Every process that shares
// the store would say the same, so only those with the role api do.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "server/store/metadata_store.h"
#include "server/telemetry/metrics.h"

namespace qamserve {

// One moment of a store.
struct StoreFacts {
  int64_t now_ms = 0;  // by the store's clock
  QueueCounts queue;
  std::vector<InstanceRecord> instances;
  std::vector<ReplicaRecord> replicas;
  std::vector<ServedModelRecord> served_models;
  std::optional<double> last_artifact_bpw;
  std::optional<double> last_artifact_kl_nats;
};
absl::StatusOr<StoreFacts> LoadStoreFacts(MetadataStore& store);

// Jobs that no worker among the instances takes: `pool` has none, or none of those has the codec version.
struct StrandedJobs {
  int64_t by_pool = 0;
  int64_t by_codec = 0;
};
StrandedJobs CountStrandedJobs(const StoreFacts& facts);

void WriteStoreGauges(const StoreFacts& facts, Metrics::GaugeWriter& writer);

}  // namespace qamserve
