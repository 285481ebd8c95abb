// The formats of strings that JSON schemas name, as regular expressions (pattern.h). They match a part of what their
// RFC allows, never more. Thread-safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qamserve::constraint {

std::optional<std::string_view> FormatPattern(std::string_view format);
// For messages: "date, date-time, ...".
std::string FormatNames();

}  // namespace qamserve::constraint
