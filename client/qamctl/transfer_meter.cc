#include "client/qamctl/transfer_meter.h"

#include <fmt/ranges.h>

#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

// Smooth to the eye, nothing to the CPU.
constexpr double kRedrawSeconds = 0.1;
// A log of a long upload stays short.
constexpr double kLineSeconds = 3;
constexpr int kBarCells = 20;

}  // namespace

std::vector<std::string> TransferMeter::Parts(const TransferProgress& progress) const {
  if (progress.phase == TransferProgress::Phase::kCheck) {
    return {progress.file.empty() ? "checking what has arrived" : "checking " + Shown(progress.file)};
  }
  const double seconds = session_.terminal().now_seconds() - phase_start_;
  const double moved = static_cast<double>(progress.done_bytes) - static_cast<double>(phase_first_byte_);
  const double rate = seconds > 0 ? std::max(0.0, moved) / seconds : 0;
  const auto total = static_cast<double>(progress.total_bytes);
  const auto done = static_cast<double>(progress.done_bytes);
  const double fraction = total > 0 ? done / total : 1;
  const std::string eta = rate > 0 ? HumanSeconds((total - done) / rate) : "?";
  return {
      fmt::format("{} {}", progress.phase == TransferProgress::Phase::kHash ? "reading" : verb_, Shown(progress.file)),
      fmt::format("{} {:3.0f}%", Bar(fraction, kBarCells), 100 * fraction),
      fmt::format("{} of {}", HumanBytes(done), HumanBytes(total)), HumanBytes(rate) + "/s", "ETA " + eta};
}

void TransferMeter::Update(const TransferProgress& progress) {
  if (session_.json()) return;
  const double now = session_.terminal().now_seconds();
  if (progress.phase == TransferProgress::Phase::kRetry) {
    live_.Keep();
    session_.Note(fmt::format("connection lost ({}); going on in {}", MessageOf(progress.error),
                              HumanSeconds(static_cast<double>(progress.retry_in_ms) / 1000)));
    phase_ = progress.phase;
    return;
  }
  const bool new_phase = progress.phase != phase_;
  if (new_phase) {
    phase_ = progress.phase;
    phase_start_ = now;
    phase_first_byte_ = progress.done_bytes;
    if (!session_.terminal().err_tty) last_drawn_ = now;
  }
  const bool done = progress.done_bytes == progress.total_bytes;
  const double pause = session_.terminal().err_tty ? kRedrawSeconds : kLineSeconds;
  if (now - last_drawn_ < pause && !(done && session_.terminal().err_tty)) return;
  last_drawn_ = now;
  Terminal& terminal = session_.terminal();
  if (terminal.err_tty) {
    const ScreenSize screen = terminal.screen();
    live_.Draw(Flow(Parts(progress), screen.columns - 1), screen);
  } else {
    terminal.err << fmt::format("{}\n", fmt::join(Parts(progress), "  ")) << std::flush;
  }
}

}  // namespace qamserve::qamctl
