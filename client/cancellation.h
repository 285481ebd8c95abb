// A handle by which one thread stops the call that another is waiting in: Ctrl-C, a closed window, a test's end.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>

namespace grpc {
class ClientContext;
}

namespace qamserve {

// Thread-safe. Once cancelled it stays so: every later call that is given it returns CANCELLED at once.
class Cancellation {
 public:
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);
  bool cancelled() const ABSL_LOCKS_EXCLUDED(mutex_);
  // False if it was cancelled before `milliseconds` were over.
  bool SleepFor(int64_t milliseconds) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class CancellableCall;
  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// While it lives, Cancel() reaches `context`. `cancellation` may be null. A Cancellation guards one call at a time.
class CancellableCall {
 public:
  CancellableCall(Cancellation* cancellation, grpc::ClientContext& context);
  ~CancellableCall();
  CancellableCall(const CancellableCall&) = delete;
  CancellableCall& operator=(const CancellableCall&) = delete;

 private:
  Cancellation* cancellation_;
};

}  // namespace qamserve
