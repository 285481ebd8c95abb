#include "server/fleet/instance.h"

#include <utility>

namespace qamserve {

absl::StatusOr<std::unique_ptr<Instance>> Instance::Start(InstanceOptions options, MetadataStore& store) {
  auto instance = std::unique_ptr<Instance>(new Instance(std::move(options), store));
  RETURN_IF_ERROR(instance->Put());
  instance->ticker_.Start();
  return instance;
}

Instance::~Instance() { Leave(); }

absl::Status Instance::Put() {
  InstanceRecord record = options_.record;
  {
    absl::MutexLock lock(&mutex_);
    record.draining = draining_;
  }
  {
    // For a row that others have removed.
    absl::MutexLock lock(&request_mutex_);
    record.drain_requested = drain_requested_;
  }
  ASSIGN_OR_RETURN(const bool requested, store_.PutInstance(record));
  NoteDrainRequest(requested);
  return absl::OkStatus();
}

void Instance::NoteDrainRequest(bool requested) {
  absl::MutexLock lock(&request_mutex_);
  if (drain_requested_ == requested) return;
  drain_requested_ = requested;
  if (on_request_) on_request_(requested);
}

void Instance::FollowDrainRequests(std::function<void(bool requested)> on_request) {
  absl::MutexLock lock(&request_mutex_);
  on_request_ = std::move(on_request);
  on_request_(drain_requested_);
}

void Instance::Beat() {
  const absl::Status status = Put();
  const int64_t now_ms = SteadyMs();
  // The store was away for a while, or this process was stopped: others may have had no chance to show themselves.
  const int64_t late_ms = absl::ToInt64Milliseconds(options_.settle) / 2;
  const bool late = last_beat_ms_.has_value() && now_ms - *last_beat_ms_ > late_ms;
  last_beat_ms_ = now_ms;
  if (status.ok() != reachable_) {
    reachable_ = status.ok();
    if (options_.on_store) options_.on_store(status);
  }
  if (!status.ok()) {
    reachable_since_ms_.reset();
    return;
  }
  if (late || !reachable_since_ms_.has_value()) reachable_since_ms_ = now_ms;
  const bool settled = now_ms - reachable_since_ms_.value_or(now_ms) >= absl::ToInt64Milliseconds(options_.settle);
  if (options_.sweep && settled) options_.sweep();
}

void Instance::SetDraining() {
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) return;
    draining_ = true;
  }
  ticker_.Wake();
}

void Instance::Leave() {
  {
    absl::MutexLock lock(&mutex_);
    if (left_) return;
    left_ = true;
  }
  ticker_.Stop();
  // Whatever comes of it: others remove the row when it has been silent for long enough.
  store_.DeleteInstance(options_.record.id).IgnoreError();
}

}  // namespace qamserve
