// What an alias may be, and the choice among its targets. Pure functions; the aliases themselves are in ModelRegistry.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/rng.h"
#include "server/store/records.h"

namespace qamserve {

// Each is a row of the store and a line of a list; nobody canaries more at once.
inline constexpr size_t kMaxAliases = 256;
// More than any canary needs, and few enough that an error can name all of them.
inline constexpr size_t kMaxAliasTargets = 16;
// A millionth is the finest share; the sum over an alias stays far below 2^31.
inline constexpr int32_t kMaxAliasWeight = 1'000'000;

// INVALID_ARGUMENT: ALIAS_TARGETS (none, too many, or a model twice), MODEL_NAME, ALIAS_WEIGHT (out of range, or all
// 0).
absl::Status CheckAliasTargets(const std::vector<AliasTarget>& targets);

// An index by weight: i with probability weights[i] / sum. No value if no weight is above 0; none may be below.
std::optional<size_t> PickByWeight(std::span<const int32_t> weights, Rng& rng);

}  // namespace qamserve
