// UTF-8 as tokenizers meet it: mostly valid, sometimes not. Thread safety: pure functions and immutable tables.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qamserve {

// The space mark of SentencePiece vocabularies, U+2581.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

// Bytes of the character that starts with `lead`, judged by that byte alone: 1 to 4. Continuation bytes count as 1.
constexpr size_t Utf8Length(unsigned char lead) {
  if (lead < 0xC0) return 1;
  if (lead < 0xE0) return 2;
  return lead < 0xF0 ? 3 : 4;
}

// The first character of `text` and its length, or nothing if no sequence is complete there. Overlong forms and
// surrogates are let through; values past U+10FFFF are not. REQUIRES: text is not empty.
struct Utf8Char {
  uint32_t code_point = 0;
  size_t length = 0;
};
std::optional<Utf8Char> DecodeUtf8(std::string_view text);

void AppendUtf8(uint32_t code_point, std::string& out);

// True if every character of `text` is in its shortest form and not past U+10FFFF. Surrogates pass.
bool IsRepairedUtf8(std::string_view text);
// Bytes before the first character of which that is not true; all of them if there is none.
size_t RepairedPrefix(std::string_view text);

// `text` with U+FFFD in place of every byte that starts no sequence and overlong forms made short. Surrogates are
// kept: they have three bytes like U+FFFD, and byte-level vocabularies carry them as bytes.
std::string RepairUtf8(std::string_view text);

// `text` with surrogates replaced by U+FFFD, so that it is valid UTF-8 of the same length.
// REQUIRES: IsRepairedUtf8(text).
std::string MaskSurrogates(std::string_view text);
bool HasSurrogates(std::string_view text);

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to);

// The 256 printable characters by which byte-level vocabularies (GPT-2) write bytes: '!'..'~', U+00A1..U+00AC and
// U+00AE..U+00FF stand for themselves, the other bytes for U+0100 onwards in ascending order.
class ByteAlphabet {
 public:
  ByteAlphabet();
  // The character of a byte, in UTF-8.
  const std::string& CharOf(uint8_t byte) const { return chars_[byte]; }
  std::string Encode(std::string_view bytes) const;
  // The bytes that `token` writes, or nothing if a character is not of the alphabet.
  std::optional<std::string> Decode(std::string_view token) const;

 private:
  static constexpr uint32_t kLastCodePoint = 0x143;
  std::array<std::string, 256> chars_;
  std::array<int16_t, kLastCodePoint + 1> bytes_;
};

}  // namespace qamserve
