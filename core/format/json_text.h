// JSON texts that somebody sent. The library reads any nesting, but copies, compares and prints by recursion, so that
// a megabyte of brackets would overflow the stack later on.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace qamserve {

// More than any published config nests.
inline constexpr int kMaxJsonDepth = 64;

// Discarded (is_discarded()) if `text` is not JSON or nests deeper than kMaxJsonDepth.
nlohmann::json ParseJson(std::string_view text);

}  // namespace qamserve
