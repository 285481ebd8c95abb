// A few threads that do what must not be done on gRPC's own: disk, SQLite, tokenizers, loading. Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

class Executor {
 public:
  // `threads` >= 1; at most `max_queued` tasks wait.
  Executor(int threads, size_t max_queued);
  // As Stop.
  ~Executor();

  // Queues `task`; tasks start in order. RESOURCE_EXHAUSTED (SERVER_BUSY) if the queue is full, UNAVAILABLE
  // (SHUTTING_DOWN) after Stop.
  absl::Status Run(std::function<void()> task);
  // The same without a limit, for the next piece of a stream that is already under way: each stream has one at most.
  absl::Status RunNext(std::function<void()> task);
  // Runs what is queued, then ends the threads. Idempotent.
  void Stop();

 private:
  absl::Status Queue(std::function<void()> task, bool limited);
  void Loop();
  bool Wake() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !tasks_.empty(); }

  const size_t max_queued_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace qamserve
