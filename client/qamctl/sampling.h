// The flags that generate and chat share, and the printing of what a model says.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "client/qamctl/session.h"

namespace qamserve::qamctl {

struct SamplingFlags {
  v1::SamplingParams params;
  double temperature = -1;  // < 0: not given
  double top_p = -1;
  double repetition_penalty = -1;
  int priority = 0;
  double timeout_seconds = 0;
  bool stats = false;
};

// `flags` must live as long as `app` parses.
void AddSamplingFlags(CLI::App& app, std::shared_ptr<SamplingFlags> flags);
v1::SamplingParams ToParams(const SamplingFlags& flags);

// Prints responses as they come: text without added line breaks, or JSON lines. Not thread-safe.
class StreamPrinter {
 public:
  StreamPrinter(Session& session, bool stats) : session_(session), stats_(stats) {}
  void operator()(const v1::GenerateResponse& response);
  // Ends the line and tells the speed if asked to. Returns the first error of printing.
  absl::Status Finish();
  const std::string& text() const { return text_; }

 private:
  void PrintLogprobs(const v1::GenerateResponse& response);

  Session& session_;
  bool stats_;
  bool listed_ = false;  // token by token, with log-probabilities: what trails behind has stood in the list
  std::string text_;
  std::string finish_;
  std::string model_;
  std::optional<v1::Usage> usage_;  // once it is told
  absl::Status status_;
};

// The argument, or all of standard input if it is "-". More than 16 MiB is RESOURCE_EXHAUSTED (INPUT_TOO_LARGE).
absl::StatusOr<std::string> TextOrStdin(Session& session, const std::string& argument);

}  // namespace qamserve::qamctl
