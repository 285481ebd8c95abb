// Texts as the bytes that a store takes, and texts that are large.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace qamserve {

inline std::span<const std::byte> BytesOf(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Bytes in which a shifted or missing part shows.
inline std::string PatternOf(size_t bytes, char first) {
  std::string text(bytes, first);
  for (size_t i = 0; i < bytes; i += 101) text[i] = static_cast<char>('a' + i / 101 % 26);
  return text;
}

}  // namespace qamserve
