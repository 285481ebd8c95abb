// A vocabulary for tests of constraints, and shorthands.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "core/constraint/constraint.h"
#include "tests/core/tokenizer/small_tokenizers.h"

namespace qamserve {

// Byte-level, with tokens as trained vocabularies have them: pieces of words and of JSON, with spaces and line ends
// before and within, several brackets at once, halves of characters.
inline std::shared_ptr<const Tokenizer> SmallTokenizer() {
  const std::vector<std::string> words = {
      "the",  "name", "ing", "true",  "false", "null", "\": ", "\":",  "\",",  "\", \"", "{\"",      "\"}",
      "\"}}", "}}",   "]}",  "[[",    "]]",    "],",   "},",   "{}",   "[]",   "  ",     "    ",     "\n\n",
      "\n  ", "{\n",  ",\n", " \"",   " {",    " the", " a",   "12",   "100",  "2024",   "-0",       "0.5",
      "e+",   "\\\"", "\\n", "\\u",   "\\u00", "ab",   "abc",  "aaaa", "é",    "日本",   "\xE6\x97", "\x97\xA5",
      "😀",    "yes",  "no",  "\"a\"", "\"b",   "1,",   ", 2",  "]}\n", "\"\"", "red",    "green"};
  const ByteAlphabet alphabet;
  std::vector<std::pair<std::string, std::string>> merges;
  for (const std::string& word : words) {
    // A merge of all but the last byte and the last one, for every beginning.
    for (size_t size = 2; size <= word.size(); ++size) {
      merges.emplace_back(alphabet.Encode(std::string_view(word).substr(0, size - 1)),
                          alphabet.Encode(std::string_view(word).substr(size - 1, 1)));
    }
  }
  auto tokenizer = Make(ByteLevelJson(merges), {{"eos_token", "<|end|>"}});
  EXPECT_TRUE(tokenizer.ok()) << MessageOf(tokenizer.status());
  return *tokenizer;
}

// SmolLM2's, if QAMSERVE_SMOLLM2 names its folder; null otherwise.
inline std::shared_ptr<const Tokenizer> SmolLmTokenizer() {
  const char* path = std::getenv("QAMSERVE_SMOLLM2");
  if (path == nullptr) return nullptr;
  const auto files = FileSet::FromPath(path);
  if (!files.ok()) return nullptr;
  const auto texts = ReadTokenizerFiles(*files);
  if (!texts.ok()) return nullptr;
  const auto tokenizer = Tokenizer::Create(*texts, path);
  return tokenizer.ok() ? *tokenizer : nullptr;
}

inline std::shared_ptr<const TokenTrie> SmallTrie() { return TokenTrie::Create(SmallTokenizer()); }

inline absl::StatusOr<std::shared_ptr<const Constraint>> CompileWith(ConstraintKind kind, std::string text,
                                                                     std::shared_ptr<const TokenTrie> trie) {
  return Constraint::Compile({kind, std::move(text)}, std::move(trie));
}

// Compiles over the small vocabulary; a constraint that does not compile fails the test.
class Compiled {
 public:
  Compiled(ConstraintKind kind, std::string text) {
    auto compiled = CompileWith(kind, text, SmallTrie());
    EXPECT_TRUE(compiled.ok()) << text << ": " << MessageOf(compiled.status());
    if (compiled.ok()) constraint_ = *compiled;
  }
  bool Matches(std::string_view text) const {
    if (constraint_ == nullptr) return false;
    const absl::StatusOr<bool> matches = constraint_->Matches(text);
    EXPECT_TRUE(matches.ok()) << MessageOf(matches.status());
    return matches.ok() && *matches;
  }
  const std::shared_ptr<const Constraint>& constraint() const { return constraint_; }

 private:
  std::shared_ptr<const Constraint> constraint_;
};

inline absl::Status CompileError(ConstraintKind kind, std::string text) {
  return CompileWith(kind, std::move(text), SmallTrie()).status();
}

}  // namespace qamserve
