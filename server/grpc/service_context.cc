#include "server/grpc/service_context.h"

#include <utility>

namespace qamserve {

uint64_t DrainSignal::Subscribe(std::function<void()> on_drain) {
  absl::MutexLock lock(&mutex_);
  const uint64_t id = next_id_++;
  if (raised_) {
    on_drain();
  } else {
    listeners_[id] = std::move(on_drain);
  }
  return id;
}

void DrainSignal::Unsubscribe(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  listeners_.erase(id);
}

void DrainSignal::Raise() {
  absl::MutexLock lock(&mutex_);
  raised_ = true;
  for (const auto& [id, on_drain] : listeners_) on_drain();
  listeners_.clear();
}

}  // namespace qamserve
