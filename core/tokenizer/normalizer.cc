#include "core/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

// Sequences inside sequences; published files nest once.
constexpr int kMaxDepth = 8;

std::string Compose(const std::string& text, int options) {
  const std::string valid = HasSurrogates(text) ? MaskSurrogates(text) : text;
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(valid.data()), static_cast<utf8proc_ssize_t>(valid.size()),
                   &mapped, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  // It can only fail for want of memory or on invalid UTF-8, which was repaired; the text as it is serves then.
  if (size < 0) return text;
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
}

bool IsSpace(uint32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string Strip(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    const auto c = DecodeUtf8(text);
    if (!c || !IsSpace(c->code_point)) break;
    text.remove_prefix(c->length);
  }
  while (right && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    const auto c = DecodeUtf8(text.substr(begin));
    if (!c || !IsSpace(c->code_point)) break;
    text = text.substr(0, begin);
  }
  return std::string(text);
}

std::string ReplaceMatches(std::string_view text, const Regex& regex, std::string_view to) {
  std::string out;
  size_t begin = 0;
  for (const TextSpan& hit : regex.FindAll(text)) {
    out.append(text, begin, hit.begin - begin);
    out.append(to);
    begin = hit.end;
  }
  return out.append(text, begin);
}

}  // namespace

absl::StatusOr<Normalizer> Normalizer::Create(const Json* component) {
  Normalizer normalizer;
  if (component != nullptr) RETURN_IF_ERROR(Annotate(normalizer.Add(*component, 0), "normalizer"));
  return normalizer;
}

absl::Status Normalizer::Add(const Json& component, int depth) {
  const std::string type = TypeOf(component);
  if (type == "Sequence") {
    const Json* parts = FindField(component, "normalizers");
    if (parts == nullptr || !parts->is_array() || depth == kMaxDepth) {
      return InvalidArgument("TOKENIZER_INVALID", "Sequence without \"normalizers\" or nested past {} levels",
                             kMaxDepth);
    }
    for (const Json& part : *parts) RETURN_IF_ERROR(Add(part, depth + 1));
    return absl::OkStatus();
  }
  if (type == "Replace") return AddReplace(component);
  Step step;
  if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    ASSIGN_OR_RETURN(step.from, StringField(component, "prepend", ""));
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    ASSIGN_OR_RETURN(step.left, BoolField(component, "strip_left", true));
    ASSIGN_OR_RETURN(step.right, BoolField(component, "strip_right", true));
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    step.kind = type == "NFC" ? Kind::kNfc : type == "NFD" ? Kind::kNfd : type == "NFKC" ? Kind::kNfkc : Kind::kNfkd;
    needs_utf8_ = true;
  } else {
    return Unimplemented("TOKENIZER_UNSUPPORTED", "type \"{}\"", type);
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status Normalizer::AddReplace(const Json& component) {
  ASSIGN_OR_RETURN(PatternField pattern, ReadPattern(component));
  Step step;
  ASSIGN_OR_RETURN(step.to, StringField(component, "content", ""));
  if (pattern.is_regex) {
    step.kind = Kind::kReplaceRegex;
    ASSIGN_OR_RETURN(Regex regex, Regex::Compile(pattern.text));
    step.regex.push_back(std::move(regex));
    needs_utf8_ = true;
  } else {
    step.kind = Kind::kReplace;
    step.from = std::move(pattern.text);
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

std::string Normalizer::ApplyStep(const Step& step, std::string text) {
  switch (step.kind) {
    case Kind::kNfc:
      return Compose(text, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    case Kind::kNfd:
      return Compose(text, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    case Kind::kNfkc:
      return Compose(text, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
    case Kind::kNfkd:
      return Compose(text, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
    case Kind::kPrepend:
      return text.empty() ? text : step.from + text;
    case Kind::kReplace:
      return ReplaceAll(text, step.from, step.to);
    case Kind::kReplaceRegex:
      return ReplaceMatches(text, step.regex[0], step.to);
    case Kind::kStrip:
      return Strip(text, step.left, step.right);
  }
  return text;
}

std::string Normalizer::Apply(std::string text) const {
  for (const Step& step : steps_) text = ApplyStep(step, std::move(text));
  return text;
}

}  // namespace qamserve
