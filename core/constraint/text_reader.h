// A text that a parser reads code point by code point, knowing where it is. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/base/status.h"
#include "core/tokenizer/utf8.h"

namespace qamserve::constraint {

class TextReader {
 public:
  // REQUIRES: valid UTF-8.
  explicit TextReader(std::string_view text) : text_(text) {}

  bool done() const { return at_ == text_.size(); }
  size_t at() const { return at_; }
  void set_at(size_t at) { at_ = at; }
  std::string_view rest() const { return text_.substr(at_); }
  // The next byte, or '\0' at the end.
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  bool Skip(std::string_view expected) {
    if (!rest().starts_with(expected)) return false;
    at_ += expected.size();
    return true;
  }
  // REQUIRES: !done().
  uint32_t Next() {
    const std::optional<Utf8Char> next = DecodeUtf8(rest());
    at_ += next ? next->length : 1;
    return next ? next->code_point : 0xFFFD;
  }
  // From `least` to `most` hexadecimal digits; nothing, and nothing read, if there are fewer.
  std::optional<uint32_t> Hex(size_t least, size_t most) {
    uint32_t value = 0;
    size_t digits = 0;
    for (; digits < most; ++digits) {
      const char c = peek(digits);
      if (c >= '0' && c <= '9') {
        value = value * 16 + static_cast<uint32_t>(c - '0');
      } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
        value = value * 16 + static_cast<uint32_t>((c | 0x20) - 'a' + 10);
      } else {
        break;
      }
    }
    if (digits < least) return std::nullopt;
    at_ += digits;
    return value;
  }
  // Decimal digits; nothing if there are none. UINT32_MAX for all larger numbers.
  std::optional<uint32_t> Number() {
    if (peek() < '0' || peek() > '9') return std::nullopt;
    uint64_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      value = std::min<uint64_t>(UINT32_MAX, value * 10 + static_cast<uint64_t>(peek() - '0'));
      ++at_;
    }
    return static_cast<uint32_t>(value);
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace qamserve::constraint
