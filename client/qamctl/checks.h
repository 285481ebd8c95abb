// Checks of what was typed or piped in, with messages for people.
#pragma once

#include <CLI/CLI.hpp>
#include <string_view>

#include "core/base/status.h"

namespace qamserve::qamctl {

// Finite numbers. CLI11's own checks name the largest double, with all of its 309 digits, and let NaN pass.
CLI::Validator Positive();
CLI::Validator NotNegative();

// Text that goes to the server: protobuf sends UTF-8 only. Not for paths, which may have other bytes.
CLI::Validator Utf8();
// INVALID_ARGUMENT (TEXT_NOT_UTF8) names `what` and the byte.
absl::Status CheckUtf8(std::string_view what, std::string_view text);

}  // namespace qamserve::qamctl
