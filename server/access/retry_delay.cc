#include "server/access/retry_delay.h"

#include <absl/strings/cord.h>
#include <absl/strings/numbers.h>

#include <algorithm>
#include <string>

namespace qamserve {
namespace {

constexpr char kDelayUrl[] = "qamserve/retry_delay_seconds";

}  // namespace

absl::Status WithRetryDelay(absl::Status status, int64_t seconds) {
  status.SetPayload(kDelayUrl, absl::Cord(std::to_string(std::max<int64_t>(seconds, 1))));
  return status;
}

std::optional<int64_t> RetryDelaySecondsOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kDelayUrl);
  int64_t seconds = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &seconds)) return std::nullopt;
  return seconds;
}

}  // namespace qamserve
