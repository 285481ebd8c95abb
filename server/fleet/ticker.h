// A thread that does something now and then, and at once when it is woken. Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <thread>
#include <utility>

namespace qamserve {

// Milliseconds of a clock that nobody sets.
int64_t SteadyMs();

class Ticker {
 public:
  // After Start, calls `work` on its own thread: first at once, then `interval` after each call's end, or when Wake is
  // called.
  Ticker(absl::Duration interval, std::function<void()> work) : interval_(interval), work_(std::move(work)) {}
  // As Stop.
  ~Ticker();

  void Start();
  // The next call begins at once; one that is under way is followed by another. Cheap, and never blocks for `work`.
  void Wake();
  // The next call begins no later than this from now. For `work`.
  void Hasten(absl::Duration pause);
  // Waits for the call that is under way. Idempotent; not to be called by `work`.
  void Stop();

 private:
  void Loop();
  bool Due() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || woken_; }

  const absl::Duration interval_;
  const std::function<void()> work_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration pause_ ABSL_GUARDED_BY(mutex_);  // until the next call
  std::thread thread_;
};

}  // namespace qamserve
