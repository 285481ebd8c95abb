// A byte-level BPE vocabulary for tests: three special tokens, 256 bytes, then merged pairs up to the wanted size.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace qamserve {

inline constexpr int32_t kTinyEndOfText = 0;  // <|endoftext|>
inline constexpr int32_t kTinyImStart = 1;    // <|im_start|>
inline constexpr int32_t kTinyImEnd = 2;      // <|im_end|>, which ends a turn and is eos_token
inline constexpr int32_t kTinySpecials = 3;

struct TinyVocabulary {
  std::vector<std::string> tokens;  // by id, in the alphabet of byte-level BPE
  std::vector<std::pair<std::string, std::string>> merges;
};

// REQUIRES: 259 <= size <= 60000.
TinyVocabulary MakeTinyVocabulary(int64_t size);
std::string TinyTokenizerJson(const TinyVocabulary& vocabulary);
// With the ChatML template.
std::string TinyTokenizerConfigJson();
std::string TinyChatTemplate();

}  // namespace qamserve
