#include "server/store/postgres_clock.h"

#include <cstdlib>
#include <ctime>

namespace qamserve {
namespace {

// Quartz is good for 50 parts in a million; two of them may differ by twice that.
constexpr int64_t kDriftPerMillion = 100;

int64_t Drift(int64_t elapsed_us) { return elapsed_us * kDriftPerMillion / 1'000'000; }

}  // namespace

int64_t BootTimeUs() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
}

void PostgresClock::Add(const Sample& sample) {
  const int64_t middle_us = sample.asked_us + (sample.answered_us - sample.asked_us) / 2;
  const Reading reading{.offset_us = sample.server_us - middle_us,
                        .error_us = (sample.answered_us - sample.asked_us) / 2 + 1,
                        .taken_us = sample.answered_us,
                        .server_start_us = sample.server_start_us};
  absl::MutexLock lock(&mutex_);
  if (!reading_ || reading_->server_start_us != reading.server_start_us) {
    reading_ = reading;
    return;
  }
  const int64_t error_now_us = reading_->error_us + Drift(reading.taken_us - reading_->taken_us);
  const bool better = reading.error_us <= error_now_us;
  const bool was_set = std::abs(reading.offset_us - reading_->offset_us) > reading.error_us + error_now_us;
  if (better || was_set) reading_ = reading;
}

int64_t PostgresClock::NowMs() const {
  absl::MutexLock lock(&mutex_);
  return reading_ ? (BootTimeUs() + reading_->offset_us) / 1000 : 0;
}

}  // namespace qamserve
