// A tokenizer.json as the tokenizer keys of a GGUF file: the inverse of TokenizerFilesFromGguf. What GGUF cannot say is
// UNIMPLEMENTED (TOKENIZER_UNSUPPORTED); what readers of GGUF leave out for every model is left out here too: Unicode
// normalization (NFC), and white space that special tokens take with them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"

namespace qamserve {

// Values of tokenizer.ggml.token_type.
inline constexpr int32_t kGgufNormal = 1;
inline constexpr int32_t kGgufUnknown = 2;
inline constexpr int32_t kGgufControl = 3;
inline constexpr int32_t kGgufUserDefined = 4;
inline constexpr int32_t kGgufUnused = 5;
inline constexpr int32_t kGgufByte = 6;

struct GgufVocabulary {
  std::string model;                // tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece)
  std::string pre;                  // tokenizer.ggml.pre
  std::vector<std::string> tokens;  // by id
  std::vector<int32_t> types;       // by id
  std::vector<std::string> merges;  // gpt2 only: "left right", best first
  std::vector<float> scores;        // llama only: by id
  bool add_space_prefix = false;    // llama only
  std::optional<int32_t> bos, eos, unknown;
  bool add_bos = false;
  bool add_eos = false;
  std::string chat_template;  // may be empty
};

// Ids from the tokenizer's size to `vocab_size` (rows of the embedding) become unused tokens, for readers want as many
// tokens as rows. `origin` is what messages call the tokenizer.
absl::StatusOr<GgufVocabulary> GgufVocabularyOf(const TokenizerFiles& files, int64_t vocab_size,
                                                const std::string& origin);

// A text that tells pre-tokenizers apart: white space, digits, contractions, cases, scripts, punctuation. In NFC.
std::string_view TokenizerProbe();

// OK if two tokenizers give the same ids for the probe and put the same tokens around a text; else UNIMPLEMENTED
// (TOKENIZER_UNSUPPORTED) with the first difference.
absl::Status CheckSameIds(const Tokenizer& expected, const Tokenizer& actual);

}  // namespace qamserve
