// The progress of an upload or a download on the error stream: one line redrawn in place on a tty, else a line every
// few seconds.
#pragma once

#include <string>

#include "client/client.h"
#include "client/qamctl/session.h"

namespace qamserve::qamctl {

// Not thread-safe. Draws nothing with --json.
class TransferMeter {
 public:
  // `verb` is what the transfer does: "sending" or "receiving".
  TransferMeter(Session& session, std::string verb) : session_(session), verb_(std::move(verb)) {}
  // Leaves the cursor on a line of its own.
  ~TransferMeter();
  void Update(const TransferProgress& progress);

 private:
  std::string Line(const TransferProgress& progress) const;
  void Draw(const std::string& line);
  void EndLine();

  Session& session_;
  std::string verb_;
  TransferProgress::Phase phase_ = TransferProgress::Phase::kRetry;
  double phase_start_ = 0;
  double last_drawn_ = 0;
  uint64_t phase_first_byte_ = 0;  // done_bytes when the phase began: the rate counts what came after
  bool line_open_ = false;
};

}  // namespace qamserve::qamctl
