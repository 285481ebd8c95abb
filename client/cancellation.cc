#include "client/cancellation.h"

#include <absl/time/time.h>
#include <grpcpp/client_context.h>

namespace qamserve {

void Cancellation::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  if (running_ != nullptr) running_->TryCancel();
}

bool Cancellation::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

bool Cancellation::SleepFor(int64_t milliseconds) {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&cancelled_), absl::Milliseconds(milliseconds));
}

CancellableCall::CancellableCall(Cancellation* cancellation, grpc::ClientContext& context)
    : cancellation_(cancellation) {
  if (cancellation_ == nullptr) return;
  absl::MutexLock lock(&cancellation_->mutex_);
  cancellation_->running_ = &context;
  if (cancellation_->cancelled_) context.TryCancel();
}

CancellableCall::~CancellableCall() {
  if (cancellation_ == nullptr) return;
  absl::MutexLock lock(&cancellation_->mutex_);
  cancellation_->running_ = nullptr;
}

}  // namespace qamserve
