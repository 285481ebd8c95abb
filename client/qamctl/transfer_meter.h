// The progress of an upload or a download on the error stream: a line redrawn in place on a tty, else one every few
// seconds.
#pragma once

#include <string>
#include <vector>

#include "client/client.h"
#include "client/qamctl/session.h"

namespace qamserve::qamctl {

// Not thread-safe. Draws nothing with --json.
class TransferMeter {
 public:
  // `verb` is what the transfer does: "sending" or "receiving".
  TransferMeter(Session& session, std::string verb)
      : session_(session), verb_(std::move(verb)), live_(session.terminal().err) {}
  void Update(const TransferProgress& progress);

 private:
  // What a line is made of; on a narrow screen, several.
  std::vector<std::string> Parts(const TransferProgress& progress) const;

  Session& session_;
  std::string verb_;
  TransferProgress::Phase phase_ = TransferProgress::Phase::kRetry;
  double phase_start_ = 0;
  double last_drawn_ = 0;
  uint64_t phase_first_byte_ = 0;  // done_bytes when the phase began: the rate counts what came after
  LiveLines live_;
};

}  // namespace qamserve::qamctl
