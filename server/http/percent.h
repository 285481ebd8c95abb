// Percent-encoding of URLs (RFC 3986, section 2.1).
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

// INVALID_ARGUMENT (PERCENT_ENCODING): a '%' without two hex digits after it, a NUL, or bytes that are not UTF-8.
absl::StatusOr<std::string> PercentDecode(std::string_view text);

inline constexpr size_t kMaxQueryParameters = 256;
// "a=1&b=x%20y" in its order; '+' is a space, a name without '=' has an empty value. The error of PercentDecode;
// INVALID_ARGUMENT (QUERY_PARAMETERS) names the limit.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseQuery(std::string_view query);

}  // namespace qamserve
