#include "core/tokenizer/decoder.h"

#include <charconv>
#include <optional>

namespace qamserve {
namespace {

constexpr int kMaxDepth = 8;

// The byte of "<0xHH>".
std::optional<char> ByteOf(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc() || end != token.data() + 5) return std::nullopt;
  return static_cast<char>(value);
}

}  // namespace

absl::StatusOr<Decoder> Decoder::Create(const Json* component) {
  Decoder decoder;
  if (component != nullptr) RETURN_IF_ERROR(Annotate(decoder.Add(*component, 0), "decoder"));
  return decoder;
}

absl::Status Decoder::Add(const Json& component, int depth) {
  const std::string type = TypeOf(component);
  if (type == "Sequence") {
    const Json* parts = FindField(component, "decoders");
    if (parts == nullptr || !parts->is_array() || depth == kMaxDepth) {
      return InvalidArgument("TOKENIZER_INVALID", "Sequence without \"decoders\" or nested past {} levels", kMaxDepth);
    }
    for (const Json& part : *parts) RETURN_IF_ERROR(Add(part, depth + 1));
    return absl::OkStatus();
  }
  if (type == "ByteLevel") {
    byte_level_ = true;
  } else if (type == "ByteFallback") {
    byte_fallback_ = true;
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "Replace") {
    ASSIGN_OR_RETURN(PatternField pattern, ReadPattern(component));
    if (pattern.is_regex || fused_) return Unimplemented("TOKENIZER_UNSUPPORTED", "Replace by Regex or after Fuse");
    ASSIGN_OR_RETURN(std::string to, StringField(component, "content", ""));
    replace_.emplace_back(std::move(pattern.text), std::move(to));
  } else if (type == "Strip") {
    ASSIGN_OR_RETURN(const std::string content, StringField(component, "content", ""));
    ASSIGN_OR_RETURN(const int64_t start, IntField(component, "start", 0));
    ASSIGN_OR_RETURN(const int64_t stop, IntField(component, "stop", 0));
    if (content != " " || start != 1 || stop != 0 || !fused_) {
      return Unimplemented("TOKENIZER_UNSUPPORTED", "Strip other than one leading space after Fuse");
    }
    strip_ = true;
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(const std::string mark, StringField(component, "replacement", kSpaceMark));
    ASSIGN_OR_RETURN(const bool prefix, BoolField(component, "add_prefix_space", true));
    ASSIGN_OR_RETURN(const std::string scheme, StringField(component, "prepend_scheme", prefix ? "always" : "never"));
    replace_.emplace_back(mark, " ");
    if (scheme != "never") metaspace_ = mark;
  } else {
    return Unimplemented("TOKENIZER_UNSUPPORTED", "type \"{}\"", type);
  }
  return absl::OkStatus();
}

std::string Decoder::TokenBytes(std::string_view token, bool added) const {
  std::string text(token);
  if (byte_level_ && !added) {
    if (std::optional<std::string> bytes = alphabet_.Decode(token); bytes) text = std::move(*bytes);
  }
  for (const auto& [from, to] : replace_) text = ReplaceAll(text, from, to);
  if (byte_fallback_) {
    if (const std::optional<char> byte = ByteOf(token); byte) return std::string(1, *byte);
  }
  return text;
}

std::string Decoder::FirstTokenBytes(std::string_view token, bool added) const {
  if (metaspace_.empty()) return TokenBytes(token, added);
  return TokenBytes(ReplaceAll(token, metaspace_, ""), added);
}

}  // namespace qamserve
