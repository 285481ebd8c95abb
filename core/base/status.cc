#include "core/base/status.h"

#include <absl/strings/cord.h>

namespace qamserve {
namespace {

constexpr char kReasonUrl[] = "qamserve/reason";

absl::string_view AsAbsl(std::string_view s) { return absl::string_view(s.data(), s.size()); }

}  // namespace

absl::Status MakeError(absl::StatusCode code, std::string_view reason, std::string message) {
  absl::Status status(code, message);
  status.SetPayload(kReasonUrl, absl::Cord(AsAbsl(reason)));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  if (status.ok()) return "";
  if (auto payload = status.GetPayload(kReasonUrl)) return std::string(*payload);
  return absl::StatusCodeToString(status.code());
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  return MakeError(status.code(), ReasonOf(status), fmt::format("{}: {}", context, MessageOf(status)));
}

}  // namespace qamserve
