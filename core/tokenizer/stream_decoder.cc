#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Moves the whole characters of `pending` to the result, with U+FFFD for bytes that can start none. An unfinished
// character at the end stays unless `all`.
std::string TakeWhole(std::string& pending, bool all) {
  std::string out;
  std::string_view rest = pending;
  while (!rest.empty()) {
    const std::optional<Utf8Char> c = DecodeUtf8(rest);
    const std::string_view whole = rest.substr(0, c ? c->length : 0);
    if (c && IsRepairedUtf8(whole) && !HasSurrogates(whole)) {
      out += whole;
      rest.remove_prefix(whole.size());
      continue;
    }
    const auto lead = static_cast<unsigned char>(rest[0]);
    bool unfinished = !all && lead >= 0xC2 && lead < 0xF5 && rest.size() < Utf8Length(lead);
    for (size_t i = 1; unfinished && i < rest.size(); ++i)
      unfinished = (static_cast<unsigned char>(rest[i]) & 0xC0) == 0x80;
    if (unfinished) break;
    out += kReplacement;
    rest.remove_prefix(1);
  }
  pending = std::string(rest);
  return out;
}

}  // namespace

std::string StreamDecoder::Add(int32_t id) {
  if (skip_special_ && tokenizer_.IsSpecial(id)) return "";
  pending_ += tokenizer_.TokenBytes(id);
  return TakeWhole(pending_, false);
}

std::string StreamDecoder::Flush() { return TakeWhole(pending_, true); }

}  // namespace qamserve
