// Entity tags, conditions and ranges of RFC 9110 (sections 8.8.3, 13, 14). Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace qamserve::rest {

// `"..."` of a digest of the bytes.
std::string ETagOfBytes(std::string_view bytes);
// `"value"`, or of its digest where it has characters that a tag cannot have.
std::string ETagOfValue(std::string_view value);

// Whether If-None-Match ("*", or tags with commas between them) names `etag`; weak comparison.
bool NamesETag(std::string_view if_none_match, std::string_view etag);
// Whether If-Range lets a Range stand: it is absent or the strong tag `etag`. A date never does: nothing here has one.
bool RangeStands(std::string_view if_range, std::string_view etag);

// Bytes [begin, end).
struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
};
enum class RangeKind { kWhole, kPart, kUnsatisfiable };
// Of a Range header on `size` bytes. kWhole: there is none, its unit is not bytes, it is malformed or has several
// ranges; all of these may be ignored.
RangeKind ParseRange(std::string_view header, uint64_t size, ByteRange* range);

// "bytes 0-99/1234", "bytes 0-99/*". INVALID_ARGUMENT (CONTENT_RANGE).
struct ContentRange {
  uint64_t begin = 0;
  uint64_t end = 0;  // one past the last byte
  std::optional<uint64_t> total;
};
absl::StatusOr<ContentRange> ParseContentRange(std::string_view header);

}  // namespace qamserve::rest
