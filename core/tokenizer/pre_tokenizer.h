// The "pre_tokenizer" of tokenizer.json: Split, Digits, ByteLevel, Metaspace and Sequences of them. It cuts a text
// into the pieces within which tokens are merged. Thread safety: const after Create.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tokenizer/json_fields.h"
#include "core/tokenizer/regex.h"

namespace qamserve {

// Pieces in order. They view the text that was cut or a string in `owned`.
struct Pieces {
  std::vector<std::string_view> views;
  std::deque<std::string> owned;
};

class PreTokenizer {
 public:
  // `component` may be null: the text is one piece. UNIMPLEMENTED (TOKENIZER_UNSUPPORTED) names a type that is not
  // known, INVALID_ARGUMENT (TOKENIZER_INVALID) a pattern that does not compile.
  static absl::StatusOr<PreTokenizer> Create(const Json* component);

  // `at_start`: `text` begins the whole input, which Metaspace's "first" scheme asks.
  // REQUIRES: IsRepairedUtf8(text) if needs_utf8(). `text` must outlive the result.
  Pieces Split(std::string_view text, bool at_start) const;

  // Pieces are bytes that the vocabulary writes in the byte alphabet.
  bool byte_level() const { return byte_level_; }
  bool needs_utf8() const { return needs_utf8_; }

 private:
  enum class Kind { kSplit, kByteLevel, kMetaspace };
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    Kind kind = Kind::kSplit;
    std::optional<Regex> regex;  // kSplit; without one, `literal`
    std::string literal;         // kSplit, or Metaspace's replacement
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
    bool prefix_always = false;  // kByteLevel, kMetaspace
    bool prefix_first = false;   // kMetaspace
    bool split = true;           // kMetaspace
  };

  absl::Status Add(const Json& component, int depth);
  absl::Status AddSplit(const Json& component);
  absl::Status AddDigits(const Json& component);
  absl::Status AddByteLevel(const Json& component);
  absl::Status AddMetaspace(const Json& component);
  static void Cut(const Step& step, std::string_view text, std::vector<std::string_view>& out);
  static std::string_view Rewrite(const Step& step, std::string_view text, bool at_start, Pieces& pieces);

  std::vector<Step> steps_;
  bool byte_level_ = false;
  bool needs_utf8_ = false;
};

}  // namespace qamserve
