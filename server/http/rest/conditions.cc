#include "server/http/rest/conditions.h"

#include <absl/strings/match.h>

#include <algorithm>
#include <limits>

#include "core/base/digest.h"
#include "server/http/rest/errors.h"

namespace qamserve::rest {
namespace {

constexpr size_t kETagDigits = 32;  // 128 bits: no two answers meet by chance
// Offsets are int64 in the API.
constexpr uint64_t kMaxOffset = std::numeric_limits<int64_t>::max();

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// Digits and nothing else; what is larger than any offset is kMaxOffset.
std::optional<uint64_t> ParseOffset(std::string_view text) {
  if (text.empty()) return std::nullopt;
  uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    const auto digit = static_cast<uint64_t>(c - '0');
    value = value > (kMaxOffset - digit) / 10 ? kMaxOffset : value * 10 + digit;
  }
  return value;
}

// What follows "bytes" and `separator`; nothing if the unit is another.
std::optional<std::string_view> AfterUnit(std::string_view header, char separator) {
  constexpr std::string_view kUnit = "bytes";
  header = Trim(header);
  if (header.size() <= kUnit.size() || header[kUnit.size()] != separator) return std::nullopt;
  if (!absl::EqualsIgnoreCase(absl::string_view(header.data(), kUnit.size()), "bytes")) return std::nullopt;
  return Trim(header.substr(kUnit.size() + 1));
}

std::string_view WithoutWeak(std::string_view tag) { return tag.substr(0, 2) == "W/" ? tag.substr(2) : tag; }

}  // namespace

std::string ETagOfBytes(std::string_view bytes) {
  return fmt::format("\"{}\"", Sha256Hex(bytes).substr(0, kETagDigits));
}

std::string ETagOfValue(std::string_view value) {
  const bool fits = std::all_of(value.begin(), value.end(), [](char c) { return c > 0x20 && c < 0x7F && c != '"'; });
  return fits && !value.empty() ? fmt::format("\"{}\"", value) : ETagOfBytes(value);
}

bool NamesETag(std::string_view if_none_match, std::string_view etag) {
  if (Trim(if_none_match) == "*") return true;
  while (!if_none_match.empty()) {
    const std::string_view tag = if_none_match.substr(0, if_none_match.find(','));
    if_none_match.remove_prefix(std::min(if_none_match.size(), tag.size() + 1));
    if (WithoutWeak(Trim(tag)) == WithoutWeak(etag)) return true;
  }
  return false;
}

bool RangeStands(std::string_view if_range, std::string_view etag) {
  return Trim(if_range).empty() || Trim(if_range) == etag;
}

RangeKind ParseRange(std::string_view header, uint64_t size, ByteRange* range) {
  const std::optional<std::string_view> spec = AfterUnit(header, '=');
  if (!spec || spec->find(',') != std::string_view::npos) return RangeKind::kWhole;
  const size_t dash = spec->find('-');
  if (dash == std::string_view::npos) return RangeKind::kWhole;
  const std::string_view first = Trim(spec->substr(0, dash));
  const std::string_view last = Trim(spec->substr(dash + 1));
  const std::optional<uint64_t> to = ParseOffset(last);
  if (!last.empty() && !to) return RangeKind::kWhole;
  if (first.empty()) {  // the last `to` bytes
    if (!to) return RangeKind::kWhole;
    if (*to == 0 || size == 0) return RangeKind::kUnsatisfiable;
    *range = {size - std::min(*to, size), size};
    return RangeKind::kPart;
  }
  const std::optional<uint64_t> from = ParseOffset(first);
  if (!from || (to && *to < *from)) return RangeKind::kWhole;
  if (*from >= size) return RangeKind::kUnsatisfiable;
  *range = {*from, to && *to < size ? *to + 1 : size};
  return RangeKind::kPart;
}

absl::StatusOr<ContentRange> ParseContentRange(std::string_view header) {
  const auto error = [header] {
    return WithField(
        InvalidArgument("CONTENT_RANGE",
                        "Content-Range is '{}'; it must be 'bytes FIRST-LAST/TOTAL' or 'bytes FIRST-LAST/*'",
                        header.substr(0, 80)),
        "Content-Range");
  };
  const std::optional<std::string_view> spec = AfterUnit(header, ' ');
  if (!spec) return error();
  const size_t dash = spec->find('-');
  const size_t slash = spec->find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || slash < dash) return error();
  const std::optional<uint64_t> first = ParseOffset(spec->substr(0, dash));
  const std::optional<uint64_t> last = ParseOffset(spec->substr(dash + 1, slash - dash - 1));
  const std::string_view total = spec->substr(slash + 1);
  ContentRange range;
  if (total != "*") {
    range.total = ParseOffset(total);
    if (!range.total) return error();
  }
  if (!first || !last || *last < *first || *last >= kMaxOffset || (range.total && *last >= *range.total))
    return error();
  range.begin = *first;
  range.end = *last + 1;
  return range;
}

}  // namespace qamserve::rest
