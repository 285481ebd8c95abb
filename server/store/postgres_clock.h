// The clock of a PostgreSQL server, kept beside a clock of this machine that only runs on (CLOCK_BOOTTIME): how this
// machine's time of day is set, or when it jumps, does not matter. Thread-safe. Internal to server/store.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <optional>

namespace qamserve {

// Microseconds since this machine was started, suspended or not.
int64_t BootTimeUs();

class PostgresClock {
 public:
  // What a server said its time was, between two readings of BootTimeUs.
  struct Sample {
    int64_t server_start_us = 0;  // when the server was started, by its clock: names it
    int64_t server_us = 0;
    int64_t asked_us = 0;
    int64_t answered_us = 0;
  };

  // The time is known to half a round trip and gets worse by the drift of both clocks: a sample takes the place of the
  // one before when it is the better one by now, when the clock of the server was set, or when it is another server.
  void Add(const Sample& sample);
  // Milliseconds since 1970 by the server's clock. Before the first sample: 0.
  int64_t NowMs() const;

 private:
  struct Reading {
    int64_t offset_us = 0;
    int64_t error_us = 0;  // when it was taken
    int64_t taken_us = 0;
    int64_t server_start_us = 0;
  };

  mutable absl::Mutex mutex_;
  std::optional<Reading> reading_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qamserve
