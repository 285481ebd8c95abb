#include <algorithm>
#include <bit>

#include "core/base/digest.h"
#include "core/evaluate/evaluate.h"

namespace qamserve {

absl::StatusOr<std::vector<std::vector<int32_t>>> CutWindows(const std::vector<int32_t>& tokens, int32_t windows,
                                                             int32_t window_tokens, std::optional<int32_t> bos) {
  if (windows < 1 || window_tokens < 2) {
    return InvalidArgument("SPEC_FIELD", "{} windows of {} tokens; at least 1 of 2 are needed", windows, window_tokens);
  }
  const int64_t needed = int64_t{windows} * window_tokens;
  if (static_cast<int64_t>(tokens.size()) < needed) {
    return InvalidArgument("TEXT_TOO_SHORT", "the text has {} tokens; {} windows of {} need {}", tokens.size(), windows,
                           window_tokens, needed);
  }
  std::vector<std::vector<int32_t>> out;
  for (int32_t i = 0; i < windows; ++i) {
    const auto begin = tokens.begin() + int64_t{i} * window_tokens;
    out.emplace_back(begin, begin + window_tokens);
    if (bos.has_value()) out.back().front() = *bos;
  }
  return out;
}

std::string TokensDigest(const std::vector<std::vector<int32_t>>& windows) {
  static_assert(std::endian::native == std::endian::little);
  Sha256 digest;
  for (const std::vector<int32_t>& window : windows) digest.Update(std::as_bytes(std::span(window)));
  return digest.Finish();
}

}  // namespace qamserve
