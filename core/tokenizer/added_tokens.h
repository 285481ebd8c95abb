// "added_tokens" of tokenizer.json: texts that are found before anything else is done to the input. Where several fit,
// the leftmost and there the longest is taken. Thread safety: const after Create.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/tokenizer/json_fields.h"

namespace qamserve {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;   // looked for after the normalizer instead of before
  bool strip_left = false;   // takes the white space before it
  bool strip_right = false;  // takes the white space after it
  bool single_word = false;  // only where no word character touches it
};

// `list` may be null. INVALID_ARGUMENT (TOKENIZER_INVALID): no id or content, an id outside [0, kMaxTokens).
absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const Json* list);

// A part of a text: an added token, or text between them (id < 0).
struct Section {
  std::string_view text;
  int32_t id = -1;
};

class AddedTokenMatcher {
 public:
  // Tokens with an empty content are never found.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // Special tokens count as text unless `parse_special`. `text` must outlive the result.
  std::vector<Section> Split(std::string_view text, bool parse_special) const;
  bool empty() const { return tokens_.empty(); }

 private:
  // A trie of bytes; the children of a node are sorted.
  struct Node {
    std::vector<std::pair<unsigned char, uint32_t>> children;
    int32_t token = -1;  // index into tokens_
  };
  void Insert(const std::string& content, int32_t token);
  // The longest token that starts at `at` and may be taken there, or null.
  const AddedToken* Longest(std::string_view text, size_t at, bool parse_special) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
};

}  // namespace qamserve
