// The three streams of a command, what is known of the screen behind them, and Ctrl-C. Tests hand in string streams.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <functional>
#include <istream>
#include <ostream>
#include <string>
#include <vector>

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

struct ScreenSize {
  int columns = 100;
  int rows = 24;
};

struct Terminal {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  Interrupts& interrupts;
  std::function<double()> now_seconds;  // monotonic
  // A person is at the other end; of an output, one whose screen can go back over what it shows.
  bool in_tty = false;
  bool out_tty = false;
  bool err_tty = false;
  bool color = false;  // bold, green and red where a stream is a tty
  // Asked each time something is drawn, since windows change their size. May be left out.
  std::function<ScreenSize()> screen_size;

  ScreenSize screen() const { return screen_size ? screen_size() : ScreenSize(); }
};

// Lines at the end of a stream that are drawn over again in place. The cursor stands below them, so that whatever ends
// the program leaves it there. Not thread-safe.
class LiveLines {
 public:
  explicit LiveLines(std::ostream& out) : out_(out) {}
  // Draws `lines` over those drawn last, as many as the screen has room for, each cut to its width.
  void Draw(const std::vector<std::string>& lines, const ScreenSize& screen);
  // Those drawn last stay as they are; the next Draw begins below whatever has come since.
  void Keep() { drawn_.clear(); }

 private:
  std::ostream& out_;
  std::vector<int> drawn_;  // columns of the lines drawn last
};

}  // namespace qamserve::qamctl
