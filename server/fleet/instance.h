// This process among those that share a metadata store: its row, written again every few seconds as a sign of life and
// removed at the end. Start here for server/fleet, then replica_keeper.h (an inference process) and router.h (an api
// process). Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "server/fleet/ticker.h"
#include "server/store/metadata_store.h"

namespace qamserve {

// An instance that has not been seen for so long is gone, as far as the others are concerned: seven signs of life were
// missed. Less would take a process that is only slow for dead; more leaves its models unserved for longer.
inline constexpr int64_t kInstanceSilenceMs = 15'000;

struct InstanceOptions {
  InstanceRecord record;  // what is told; `id` must be set
  absl::Duration interval = absl::Seconds(2);
  // Called, on the instance's thread, after each sign of life once the store has been reachable for `settle` without a
  // break, to remove what others have left. Null = this instance leaves that to others. After a break of the store
  // every row looks old, and the others are given time to write theirs.
  std::function<void()> sweep;
  absl::Duration settle = absl::Milliseconds(kInstanceSilenceMs);
  // Called once for each break of the store, and with OK when it is over.
  std::function<void(const absl::Status&)> on_store;
};

class Instance {
 public:
  // Registers it. `store` must outlive the instance. The errors of the store.
  static absl::StatusOr<std::unique_ptr<Instance>> Start(InstanceOptions options, MetadataStore& store);
  // As Leave.
  ~Instance();

  const std::string& id() const { return options_.record.id; }
  // Tells the others, at once, that this instance takes nothing new.
  void SetDraining();
  // Calls `on_request` now and after each change, one call after the other: whether somebody wants this instance to
  // take nothing new (MetadataStore::RequestDrain), as the last sign of life found it. Not to be called by
  // `on_request`, which must be good until Leave has returned. Once.
  void FollowDrainRequests(std::function<void(bool requested)> on_request);
  // Removes the row, and with it those of the instance's replicas. No sign of life comes afterwards. Idempotent. If the
  // store cannot be reached the others remove the row in their time.
  void Leave();

 private:
  Instance(InstanceOptions options, MetadataStore& store)
      : options_(std::move(options)), store_(store), ticker_(options_.interval, [this] { Beat(); }) {}
  absl::Status Put();
  void Beat();
  void NoteDrainRequest(bool requested);

  const InstanceOptions options_;
  MetadataStore& store_;
  absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool left_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Mutex request_mutex_;  // held while on_request_ runs
  bool drain_requested_ ABSL_GUARDED_BY(request_mutex_) = false;
  std::function<void(bool)> on_request_ ABSL_GUARDED_BY(request_mutex_);
  // Of the ticker's thread only.
  bool reachable_ = true;
  std::optional<int64_t> reachable_since_ms_;  // of SteadyMs, as the next one
  std::optional<int64_t> last_beat_ms_;
  Ticker ticker_;
};

}  // namespace qamserve
