// tokenizer_config.json: the fields that change ids or prompts.
#pragma once

#include <string>
#include <string_view>

#include "core/tokenizer/json_fields.h"

namespace qamserve {

// A key of our own, written for tokenizers that come from a GGUF file: see BpeOptions::gguf_rules.
inline constexpr std::string_view kMergeRulesKey = "qamserve_merge_rules";
inline constexpr std::string_view kGgufMergeRules = "gguf";

struct TokenizerConfig {
  std::string bos_token;
  std::string eos_token;
  bool add_bos_token = false;
  bool add_eos_token = false;
  bool gguf_rules = false;
  // "chat_template" as a string, or the one named "default" (else the first) of a list of {name, template}.
  std::string chat_template;
};

// An empty text is an empty configuration. INVALID_ARGUMENT (TOKENIZER_CONFIG_INVALID) otherwise.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view text);

}  // namespace qamserve
