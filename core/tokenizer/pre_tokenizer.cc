#include "core/tokenizer/pre_tokenizer.h"

#include <utility>

#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

// Sequences inside sequences; published files nest once.
constexpr int kMaxDepth = 8;
// What ByteLevel cuts at when use_regex is set: the pattern of GPT-2.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Part {
  TextSpan span;
  bool match = false;
};

std::vector<TextSpan> FindLiteral(std::string_view text, std::string_view literal) {
  std::vector<TextSpan> out;
  for (size_t i = text.find(literal); i != std::string_view::npos; i = text.find(literal, i + literal.size())) {
    out.push_back({i, i + literal.size()});
  }
  return out;
}

// Matches and what lies between them, in order, without gaps.
std::vector<Part> Cover(size_t size, const std::vector<TextSpan>& matches, bool invert) {
  std::vector<Part> parts;
  size_t at = 0;
  for (const TextSpan& m : matches) {
    if (m.begin > at) parts.push_back({{at, m.begin}, invert});
    parts.push_back({m, !invert});
    at = m.end;
  }
  if (at < size) parts.push_back({{at, size}, invert});
  return parts;
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Create(const Json* component) {
  PreTokenizer pre;
  if (component != nullptr) RETURN_IF_ERROR(Annotate(pre.Add(*component, 0), "pre_tokenizer"));
  return pre;
}

absl::Status PreTokenizer::Add(const Json& component, int depth) {
  // Everything after ByteLevel would see the byte alphabet instead of text.
  if (byte_level_) return Unimplemented("TOKENIZER_UNSUPPORTED", "a step \"{}\" after ByteLevel", TypeOf(component));
  const std::string type = TypeOf(component);
  if (type == "Sequence") {
    const Json* parts = FindField(component, "pretokenizers");
    if (parts == nullptr || !parts->is_array() || depth == kMaxDepth) {
      return InvalidArgument("TOKENIZER_INVALID", "Sequence without \"pretokenizers\" or nested past {} levels",
                             kMaxDepth);
    }
    for (const Json& part : *parts) RETURN_IF_ERROR(Add(part, depth + 1));
    return absl::OkStatus();
  }
  if (type == "Split") return AddSplit(component);
  if (type == "Digits") return AddDigits(component);
  if (type == "ByteLevel") return AddByteLevel(component);
  if (type == "Metaspace") return AddMetaspace(component);
  return Unimplemented("TOKENIZER_UNSUPPORTED", "type \"{}\"", type);
}

absl::Status PreTokenizer::AddSplit(const Json& component) {
  ASSIGN_OR_RETURN(PatternField pattern, ReadPattern(component));
  Step step;
  if (pattern.is_regex) {
    ASSIGN_OR_RETURN(step.regex, Regex::Compile(pattern.text));
    needs_utf8_ = true;
  } else if (pattern.text.empty()) {
    return InvalidArgument("TOKENIZER_INVALID", "Split with an empty pattern");
  } else {
    step.literal = std::move(pattern.text);
  }
  ASSIGN_OR_RETURN(step.invert, BoolField(component, "invert", false));
  ASSIGN_OR_RETURN(const std::string behavior, StringField(component, "behavior", "Isolated"));
  constexpr std::pair<std::string_view, Behavior> kBehaviors[] = {{"Isolated", Behavior::kIsolated},
                                                                  {"Removed", Behavior::kRemoved},
                                                                  {"MergedWithPrevious", Behavior::kMergedWithPrevious},
                                                                  {"MergedWithNext", Behavior::kMergedWithNext},
                                                                  {"Contiguous", Behavior::kContiguous}};
  for (const auto& [name, value] : kBehaviors) {
    if (name != behavior) continue;
    step.behavior = value;
    steps_.push_back(std::move(step));
    return absl::OkStatus();
  }
  return Unimplemented("TOKENIZER_UNSUPPORTED", "Split behavior \"{}\"", behavior);
}

absl::Status PreTokenizer::AddDigits(const Json& component) {
  ASSIGN_OR_RETURN(const bool individual, BoolField(component, "individual_digits", false));
  Step step;
  ASSIGN_OR_RETURN(step.regex, Regex::Compile(individual ? "\\p{N}" : "\\p{N}+"));
  needs_utf8_ = true;
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddByteLevel(const Json& component) {
  ASSIGN_OR_RETURN(const bool prefix, BoolField(component, "add_prefix_space", true));
  ASSIGN_OR_RETURN(const bool use_regex, BoolField(component, "use_regex", true));
  Step rewrite{.kind = Kind::kByteLevel};
  rewrite.prefix_always = prefix;
  if (prefix) steps_.push_back(std::move(rewrite));
  if (use_regex) {
    Step step;
    ASSIGN_OR_RETURN(step.regex, Regex::Compile(kGpt2Pattern));
    steps_.push_back(std::move(step));
  }
  needs_utf8_ = true;
  byte_level_ = true;
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddMetaspace(const Json& component) {
  Step step{.kind = Kind::kMetaspace};
  ASSIGN_OR_RETURN(step.literal, StringField(component, "replacement", kSpaceMark));
  // Files older than prepend_scheme say add_prefix_space.
  ASSIGN_OR_RETURN(const bool prefix, BoolField(component, "add_prefix_space", true));
  ASSIGN_OR_RETURN(const std::string scheme, StringField(component, "prepend_scheme", prefix ? "always" : "never"));
  ASSIGN_OR_RETURN(step.split, BoolField(component, "split", true));
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return Unimplemented("TOKENIZER_UNSUPPORTED", "Metaspace prepend_scheme \"{}\"", scheme);
  }
  if (step.literal.empty()) return InvalidArgument("TOKENIZER_INVALID", "Metaspace with an empty replacement");
  step.prefix_always = scheme == "always";
  step.prefix_first = scheme == "first";
  step.behavior = Behavior::kMergedWithNext;
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

std::string_view PreTokenizer::Rewrite(const Step& step, std::string_view text, bool at_start, Pieces& pieces) {
  if (step.kind == Kind::kByteLevel) {
    if (text.starts_with(' ')) return text;
    return pieces.owned.emplace_back(" " + std::string(text));
  }
  std::string marked = ReplaceAll(text, " ", step.literal);
  const bool prefix = step.prefix_always || (step.prefix_first && at_start);
  if (prefix && !marked.starts_with(step.literal)) marked.insert(0, step.literal);
  return pieces.owned.emplace_back(std::move(marked));
}

void PreTokenizer::Cut(const Step& step, std::string_view text, std::vector<std::string_view>& out) {
  const std::vector<TextSpan> matches = step.regex ? step.regex->FindAll(text) : FindLiteral(text, step.literal);
  TextSpan open;            // a piece that may still grow
  bool open_match = false;  // whether the part last added to it was a match
  const auto flush = [&] {
    if (open.end > open.begin) out.push_back(text.substr(open.begin, open.end - open.begin));
    open = {};
  };
  for (const Part& part : Cover(text.size(), matches, step.invert)) {
    bool joins = false;
    switch (step.behavior) {
      case Behavior::kIsolated:
        break;
      case Behavior::kRemoved:
        if (part.match) continue;
        break;
      case Behavior::kMergedWithPrevious:
        joins = part.match && !open_match;
        break;
      case Behavior::kMergedWithNext:
        joins = open_match && !part.match;
        break;
      case Behavior::kContiguous:
        joins = part.match == open_match;
        break;
    }
    if (!joins || open.end == open.begin) {
      flush();
      open = part.span;
    }
    open.end = part.span.end;
    open_match = part.match;
  }
  flush();
}

Pieces PreTokenizer::Split(std::string_view text, bool at_start) const {
  Pieces pieces;
  pieces.views.push_back(text);
  std::vector<std::string_view> next;
  for (const Step& step : steps_) {
    next.clear();
    bool first = at_start;
    for (std::string_view piece : pieces.views) {
      if (step.kind != Kind::kSplit) piece = Rewrite(step, piece, first, pieces);
      first = false;
      if (step.kind == Kind::kSplit || (step.kind == Kind::kMetaspace && step.split)) {
        Cut(step, piece, next);
      } else {
        next.push_back(piece);
      }
    }
    pieces.views.swap(next);
  }
  return pieces;
}

}  // namespace qamserve
