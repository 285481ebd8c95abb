// The "decoder" of tokenizer.json: from tokens back to bytes. ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip
// and Sequences of them. Thread safety: const after Create.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tokenizer/json_fields.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {

class Decoder {
 public:
  // `component` may be null: tokens are their own text. UNIMPLEMENTED (TOKENIZER_UNSUPPORTED) names a type that is
  // not known.
  static absl::StatusOr<Decoder> Create(const Json* component);

  // What a token adds to a text that it does not begin. `added` tokens are not written in the byte alphabet.
  std::string TokenBytes(std::string_view token, bool added) const;
  // The same for the token that begins a text.
  std::string FirstTokenBytes(std::string_view token, bool added) const;
  // A begun text loses its first byte if this is set and it is a space.
  bool strips_leading_space() const { return strip_; }

 private:
  absl::Status Add(const Json& component, int depth);

  ByteAlphabet alphabet_;
  std::vector<std::pair<std::string, std::string>> replace_;
  std::string metaspace_;  // the mark that a first token drops, or ""
  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool fused_ = false;
  bool strip_ = false;
};

}  // namespace qamserve
