// JSON schemas (draft 2020-12 and what earlier drafts and OpenAPI 3 add) as grammars of the texts that satisfy them.
// What is supported, and what is narrower than the schema allows, is in docs/structured_output.md; whatever a grammar
// matches satisfies the schema. Thread-safe.
#pragma once

#include <string_view>

#include "core/constraint/grammar.h"

namespace qamserve::constraint {

// The rule that matches what satisfies the schema `text`. INVALID_ARGUMENT (CONSTRAINT_INVALID) names the JSON pointer
// of what is wrong or not supported, RESOURCE_EXHAUSTED (CONSTRAINT_SIZE) a limit; those of `grammar` apply.
absl::StatusOr<uint32_t> AddJsonSchema(std::string_view text, Grammar& grammar);

}  // namespace qamserve::constraint
