#include "client/qamctl/terminal.h"

namespace qamserve::qamctl {

bool Interrupts::Fire() {
  absl::MutexLock lock(&mutex_);
  if (armed_ == nullptr || armed_->cancelled()) return false;
  armed_->Cancel();
  return true;
}

Interruptible::Interruptible(Interrupts& interrupts) : interrupts_(interrupts) {
  absl::MutexLock lock(&interrupts_.mutex_);
  interrupts_.armed_ = &cancellation_;
}

Interruptible::~Interruptible() {
  absl::MutexLock lock(&interrupts_.mutex_);
  interrupts_.armed_ = nullptr;
}

}  // namespace qamserve::qamctl
