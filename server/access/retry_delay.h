// How long a caller should wait before it tries again, carried by a status. It becomes google.rpc.RetryInfo at the gRPC
// boundary and Retry-After at the HTTP one.
#pragma once

#include <cstdint>
#include <optional>

#include "core/base/status.h"

namespace qamserve {

// `status` with the delay in whole seconds, at least 1. Annotate() drops it.
absl::Status WithRetryDelay(absl::Status status, int64_t seconds);
std::optional<int64_t> RetryDelaySecondsOf(const absl::Status& status);

}  // namespace qamserve
