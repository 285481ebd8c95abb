// A list of texts, one of which is the answer.
#pragma once

#include <string_view>

#include "core/constraint/grammar.h"

namespace qamserve::constraint {

// `text` is a JSON array of strings that are not empty. The rule that matches one of them. INVALID_ARGUMENT
// (CONSTRAINT_INVALID) names the entry.
absl::StatusOr<uint32_t> AddChoices(std::string_view text, Grammar& grammar);

}  // namespace qamserve::constraint
