#include "server/fleet/ticker.h"

#include <algorithm>
#include <chrono>

namespace qamserve {

int64_t SteadyMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Ticker::~Ticker() { Stop(); }

void Ticker::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void Ticker::Wake() {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
}

void Ticker::Hasten(absl::Duration pause) {
  absl::MutexLock lock(&mutex_);
  pause_ = std::min(pause_, pause);
}

void Ticker::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Ticker::Loop() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      pause_ = interval_;
    }
    work_();
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(this, &Ticker::Due), pause_);
    if (stopping_) return;
    woken_ = false;
  }
}

}  // namespace qamserve
