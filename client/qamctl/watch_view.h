// A job as it goes: a table redrawn in place on a tty, else a line now and then, or JSON.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "client/qamctl/session.h"

namespace qamserve::qamctl {

// Not thread-safe.
class WatchView {
 public:
  explicit WatchView(Session& session)
      : session_(session), start_(session.terminal().now_seconds()), live_(session.terminal().out) {}
  // With --json prints the job; else draws it, at most ten times a second.
  absl::Status Update(const v1::Job& job);
  void Retry(const absl::Status& status);
  // Draws the table once more if there is one: time goes on and windows change their size while the job is silent.
  void Refresh();

 private:
  void Learn(const v1::Job& job);
  std::string PlainLine() const;
  std::vector<std::string> Lines(const ScreenSize& screen) const;
  void AddTensors(const ScreenSize& screen, std::vector<std::string>& lines) const;
  void Redraw();
  double Fraction() const;
  double BpwSoFar() const;
  double WeightsPerSecond() const;

  Session& session_;
  double start_;
  v1::Job job_;                        // as it was sent last, without tensors
  std::deque<v1::TensorReport> last_;  // the newest at the end
  int tensors_done_ = 0;
  double bits_ = 0;
  double weights_ = 0;
  double rate_start_ = -1;  // when weights were first seen to grow, and how many there were
  int64_t rate_weights_ = 0;
  double rate_end_ = -1;
  int64_t rate_end_weights_ = 0;
  double last_change_ = 0;
  double last_drawn_ = -1e9;
  std::string last_stage_;
  LiveLines live_;
};

// Follows the job to its end and tells how it ended: SUCCEEDED is OK; a job that ended otherwise is ABORTED with its
// reason. Ctrl-C leaves the job running and says so.
absl::Status WatchToEnd(Session& session, const std::string& name);

// State and numbers of a job that is over, and what to type next. `terminal().out`; nothing with --json.
void PrintOutcome(Session& session, const v1::Job& job);

// The answer to a request that was only to be checked: a job that holds an estimate.
absl::Status PrintEstimate(Session& session, const v1::Job& job);

// A line for each artifact that the job measured, where it measured several.
void PrintCandidates(Session& session, const v1::Job& job);

// Perplexities, KL and top-1 as lines, each beginning with a word and aligned with the others.
void PrintQuality(Session& session, const v1::QualityReport& quality);

std::string StateName(v1::JobState state);

}  // namespace qamserve::qamctl
