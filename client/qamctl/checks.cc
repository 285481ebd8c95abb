#include "client/qamctl/checks.h"

#include <cmath>
#include <string>

namespace qamserve::qamctl {
namespace {

CLI::Validator NumberThat(bool (*fits)(double), const char* rule) {
  return CLI::Validator(
      [fits, rule](const std::string& text) {
        double value = 0;
        if (!CLI::detail::lexical_cast(text, value) || !std::isfinite(value)) return "\"" + text + "\" is no number";
        return fits(value) ? std::string() : fmt::format("{} {}", text, rule);
      },
      "");
}

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// Bytes of the character at the start of `text`; 0 if there is none in its shortest form.
size_t CharacterBytes(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return 1;
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (!IsContinuation(text[i])) return 0;
  }
  // Overlong forms, surrogates, and what is past U+10FFFF show in the second byte.
  const auto second = static_cast<unsigned char>(text[1]);
  const bool bad = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
                   (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f);
  return bad ? 0 : length;
}

constexpr char kHint[] = "`iconv -t UTF-8 -f ENCODING` converts";

// Bytes before the first that is no part of a character.
size_t Utf8Prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const size_t bytes = CharacterBytes(text.substr(i));
    if (bytes == 0) break;
    i += bytes;
  }
  return i;
}

std::string NotUtf8At(std::string_view text, size_t i) {
  return fmt::format("byte {} (0x{:02x}) is not UTF-8; {}", i, static_cast<unsigned char>(text[i]), kHint);
}

}  // namespace

CLI::Validator Positive() {
  return NumberThat([](double value) { return value > 0; }, "must be above 0");
}

CLI::Validator NotNegative() {
  return NumberThat([](double value) { return value >= 0; }, "must be 0 or more");
}

CLI::Validator Utf8() {
  return CLI::Validator(
      [](const std::string& text) {
        const size_t valid = Utf8Prefix(text);
        return valid == text.size() ? std::string() : NotUtf8At(text, valid);
      },
      "");
}

absl::Status CheckUtf8(std::string_view what, std::string_view text) {
  const size_t valid = Utf8Prefix(text);
  if (valid == text.size()) return absl::OkStatus();
  return InvalidArgument("TEXT_NOT_UTF8", "{}: {}", what, NotUtf8At(text, valid));
}

}  // namespace qamserve::qamctl
