#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

size_t ShortestLength(uint32_t code_point) {
  if (code_point < 0x80) return 1;
  if (code_point < 0x800) return 2;
  return code_point < 0x10000 ? 3 : 4;
}

}  // namespace

std::optional<Utf8Char> DecodeUtf8(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return Utf8Char{lead, 1};
  if (lead < 0xC0 || lead >= 0xF8) return std::nullopt;
  const size_t length = Utf8Length(lead);
  if (length > text.size()) return std::nullopt;
  uint32_t code_point = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if (!IsContinuation(text[i])) return std::nullopt;
    code_point = (code_point << 6) | (static_cast<unsigned char>(text[i]) & 0x3F);
  }
  if (code_point > 0x10FFFF) return std::nullopt;
  return Utf8Char{code_point, length};
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  switch (ShortestLength(code_point)) {
    case 1:
      out += static_cast<char>(code_point);
      return;
    case 2:
      out += static_cast<char>(0xC0 | (code_point >> 6));
      break;
    case 3:
      out += static_cast<char>(0xE0 | (code_point >> 12));
      out += static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
      break;
    default:
      out += static_cast<char>(0xF0 | (code_point >> 18));
      out += static_cast<char>(0x80 | ((code_point >> 12) & 0x3F));
      out += static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
  }
  out += static_cast<char>(0x80 | (code_point & 0x3F));
}

size_t RepairedPrefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const std::optional<Utf8Char> c = DecodeUtf8(text.substr(i));
    if (!c || c->length != ShortestLength(c->code_point)) break;
    i += c->length;
  }
  return i;
}

bool IsRepairedUtf8(std::string_view text) { return RepairedPrefix(text) == text.size(); }

std::string RepairUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::optional<Utf8Char> c = DecodeUtf8(text);
    AppendUtf8(c ? c->code_point : 0xFFFD, out);
    text.remove_prefix(c ? c->length : 1);
  }
  return out;
}

bool HasSurrogates(std::string_view text) {
  for (size_t i = text.find('\xED'); i != std::string_view::npos; i = text.find('\xED', i + 1)) {
    if (i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) >= 0xA0) return true;
  }
  return false;
}

std::string MaskSurrogates(std::string_view text) {
  std::string out(text);
  for (size_t i = 0; i + 2 < out.size(); ++i) {
    if (out[i] == '\xED' && static_cast<unsigned char>(out[i + 1]) >= 0xA0) out.replace(i, 3, "\xEF\xBF\xBD");
  }
  return out;
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  if (from.empty()) return std::string(text);
  std::string out;
  out.reserve(text.size());
  size_t begin = 0;
  for (size_t hit = text.find(from); hit != std::string_view::npos; hit = text.find(from, begin)) {
    out.append(text, begin, hit - begin);
    out.append(to);
    begin = hit + from.size();
  }
  return out.append(text, begin);
}

ByteAlphabet::ByteAlphabet() {
  bytes_.fill(-1);
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const uint32_t code_point = printable ? byte : next++;
    AppendUtf8(code_point, chars_[byte]);
    bytes_[code_point] = static_cast<int16_t>(byte);
  }
}

std::string ByteAlphabet::Encode(std::string_view bytes) const {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (char c : bytes) out += chars_[static_cast<unsigned char>(c)];
  return out;
}

std::optional<std::string> ByteAlphabet::Decode(std::string_view token) const {
  std::string out;
  while (!token.empty()) {
    const std::optional<Utf8Char> c = DecodeUtf8(token);
    if (!c || c->code_point > kLastCodePoint || bytes_[c->code_point] < 0) return std::nullopt;
    out += static_cast<char>(bytes_[c->code_point]);
    token.remove_prefix(c->length);
  }
  return out;
}

}  // namespace qamserve
