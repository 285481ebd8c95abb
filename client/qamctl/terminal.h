// The three streams of a command, what is known of the screen behind them, and Ctrl-C. Tests hand in string streams.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <functional>
#include <istream>
#include <ostream>

#include "client/cancellation.h"

namespace qamserve::qamctl {

// Where Ctrl-C goes: to the call in progress, if one asked for it. Thread-safe.
class Interrupts {
 public:
  // Cancels what is armed. False if nothing is, or if it was cancelled before: the program should end.
  bool Fire() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class Interruptible;
  absl::Mutex mutex_;
  Cancellation* armed_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// While it lives, Ctrl-C cancels its cancellation instead of ending the program. One at a time.
class Interruptible {
 public:
  explicit Interruptible(Interrupts& interrupts);
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

  Cancellation* cancellation() { return &cancellation_; }
  bool interrupted() const { return cancellation_.cancelled(); }

 private:
  Interrupts& interrupts_;
  Cancellation cancellation_;
};

struct Terminal {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  Interrupts& interrupts;
  std::function<double()> now_seconds;  // monotonic
  bool in_tty = false;
  bool out_tty = false;
  bool err_tty = false;
  bool color = false;  // bold, green and red where a stream is a tty
  int width = 100;     // columns of the screen
};

}  // namespace qamserve::qamctl
