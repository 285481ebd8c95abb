#include "core/engine/prompt_lookup.h"

#include <algorithm>

namespace qamserve {

std::span<const int32_t> LookUpDraft(std::span<const int32_t> tokens, int64_t most) {
  const auto n = static_cast<int64_t>(tokens.size());
  if (most <= 0) return {};
  const auto at = [&](int64_t i) { return tokens[static_cast<size_t>(i)]; };
  int64_t best_length = kLookupMin - 1;
  int64_t best_next = 0;
  for (int64_t next = n - 1; next >= kLookupMin && best_length < kLookupMax; --next) {
    int64_t length = 0;
    while (length < kLookupMax && length < next && at(next - 1 - length) == at(n - 1 - length)) ++length;
    if (length > best_length) best_length = length, best_next = next;
  }
  if (best_next == 0) return {};
  return tokens.subspan(static_cast<size_t>(best_next), static_cast<size_t>(std::min(most, n - best_next)));
}

}  // namespace qamserve
