// Guesses what comes next in a text from what came next before: after the longest ending that stood in the text
// already, the tokens that followed it there (prompt lookup decoding, Saxena 2023). Answers that quote their prompt
// (code that is edited, text that is summed up) are guessed well, and a guess costs a scan of the text. Pure and
// thread-safe.
#pragma once

#include <cstdint>
#include <span>

namespace qamserve {

// At most `most` tokens that lie in `tokens`; empty if its last kLookupMin tokens never stood there before. Of several
// places the one with the longest match counts (up to kLookupMax tokens), then the last.
inline constexpr int64_t kLookupMin = 2;
inline constexpr int64_t kLookupMax = 8;
std::span<const int32_t> LookUpDraft(std::span<const int32_t> tokens, int64_t most);

}  // namespace qamserve
