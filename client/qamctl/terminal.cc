#include "client/qamctl/terminal.h"

#include <fmt/format.h>

#include <algorithm>

#include "client/qamctl/text.h"

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

void LiveLines::Draw(const std::vector<std::string>& lines, const ScreenSize& screen) {
  const int columns = std::max(2, screen.columns);
  // A window that was made narrower since has wrapped them.
  int up = 0;
  for (const int width : drawn_) up += std::max(1, (width + columns - 1) / columns);
  // To the start of the line first: the terminal may have put ^C there.
  std::string frame = "\r";
  if (up > 0) frame += fmt::format("\x1b[{}A", up);
  frame += "\x1b[J";
  drawn_.clear();
  // One row is the cursor's; a line that filled its row would wrap, and one that scrolled out cannot be drawn over.
  const size_t room = static_cast<size_t>(std::max(1, screen.rows - 1));
  for (size_t i = 0; i < std::min(room, lines.size()); ++i) {
    const std::string line = Clip(lines[i], columns - 1);
    frame += line + "\n";
    drawn_.push_back(Columns(line));
  }
  out_ << frame << std::flush;
}

}  // namespace qamserve::qamctl
