// What a GGUF file's "tokenizer.ggml.pre" stands for: the patterns that cut text before byte-level BPE.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/json_fields.h"

namespace qamserve {

struct GgufPreTokenizer {
  std::vector<std::string_view> patterns;  // applied one after another, each isolating its matches
  bool ignore_merges = false;              // a piece that is a token as a whole is not merged
  bool add_bos = false;                    // unless the file says otherwise
};

// One name of each pre-tokenizer that is known, the most common ones first.
std::vector<std::string_view> GgufPreTokenizerNames();

// UNIMPLEMENTED (TOKENIZER_UNSUPPORTED) names a `name` that is not known.
absl::StatusOr<GgufPreTokenizer> FindGgufPreTokenizer(std::string_view name);

// The "pre_tokenizer" of tokenizer.json that cuts as these patterns do, ByteLevel last.
Json PreTokenizerJson(const GgufPreTokenizer& pre);
// That ByteLevel, which is the decoder too.
Json PlainByteLevelJson();

}  // namespace qamserve
