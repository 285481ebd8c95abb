// tokenizer.json taken apart: its two large tables as plain vectors, the rest as JSON. The tables never become a JSON
// tree, which would take ten times the memory of the text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/json_fields.h"

namespace qamserve {

// No published vocabulary has more than 300 thousand tokens; ids beyond this are a damaged or hostile file.
inline constexpr int64_t kMaxTokens = int64_t{1} << 22;
// Gemma, the largest known, has 580 thousand.
inline constexpr size_t kMaxMerges = size_t{1} << 24;

struct TokenizerSpec {
  Json root;  // without model.vocab and model.merges
  std::vector<std::pair<std::string, int32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
};

// INVALID_ARGUMENT (TOKENIZER_INVALID): not JSON, ids outside [0, kMaxTokens), merges that are not pairs.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view text);

}  // namespace qamserve
