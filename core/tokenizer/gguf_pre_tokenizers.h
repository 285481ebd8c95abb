// What a GGUF file's "tokenizer.ggml.pre" stands for: the patterns that cut text before byte-level BPE.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

struct GgufPreTokenizer {
  std::vector<std::string_view> patterns;  // applied one after another, each isolating its matches
  bool ignore_merges = false;              // a piece that is a token as a whole is not merged
  bool add_bos = false;                    // unless the file says otherwise
};

// UNIMPLEMENTED (TOKENIZER_UNSUPPORTED) names a `name` that is not known.
absl::StatusOr<GgufPreTokenizer> FindGgufPreTokenizer(std::string_view name);

}  // namespace qamserve
