// Names under which models are served: of served models and of aliases, which share one space of names.
#pragma once

#include <cstddef>
#include <string_view>

#include "core/base/status.h"

namespace qamserve {

inline constexpr size_t kMaxModelNameBytes = 63;

// 1 to 63 of a-z, 0-9, '-', '.', '_'; else INVALID_ARGUMENT (MODEL_NAME).
absl::Status CheckModelName(std::string_view name);
// The same, with ALIAS_NAME.
absl::Status CheckAliasName(std::string_view name);

}  // namespace qamserve
