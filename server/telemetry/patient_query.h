// A question to somebody who may take long to answer, such as a store that is away, for askers who cannot wait: each
// waits for as long as it likes and goes on without an answer. Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

namespace qamserve {

template <typename T>
class PatientQuery {
 public:
  // `ask` runs on a thread of the query, once at a time; no value says that it failed.
  explicit PatientQuery(std::function<std::optional<T>()> ask) : ask_(std::move(ask)), thread_([this] { Run(); }) {}
  // Waits for a running `ask`.
  ~PatientQuery() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
      changed_.SignalAll();
    }
    thread_.join();
  }
  PatientQuery(const PatientQuery&) = delete;
  PatientQuery& operator=(const PatientQuery&) = delete;

  // An answer to a question that was put after this call began. No value if it failed or took longer than `limit`.
  std::optional<T> Ask(absl::Duration limit) {
    const absl::Time end = absl::Now() + limit;
    absl::MutexLock lock(&mutex_);
    if (stopping_) return std::nullopt;
    // The one that is being answered may have been put too early.
    const uint64_t wanted = asked_ + 1;
    wanted_ = wanted;
    changed_.SignalAll();
    while (answered_ < wanted && !stopping_) {
      if (changed_.WaitWithDeadline(&mutex_, end) && absl::Now() >= end) break;
    }
    return answered_ >= wanted ? answer_ : std::nullopt;
  }

 private:
  void Run() {
    absl::MutexLock lock(&mutex_);
    while (!stopping_) {
      if (wanted_ <= asked_) {
        changed_.Wait(&mutex_);
        continue;
      }
      const uint64_t question = ++asked_;
      mutex_.Unlock();
      std::optional<T> answer = ask_();
      mutex_.Lock();
      answer_ = std::move(answer);
      answered_ = question;
      changed_.SignalAll();
    }
  }

  const std::function<std::optional<T>()> ask_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t wanted_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t asked_ ABSL_GUARDED_BY(mutex_) = 0;     // questions that were put
  uint64_t answered_ ABSL_GUARDED_BY(mutex_) = 0;  // the last one with an answer
  std::optional<T> answer_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace qamserve
