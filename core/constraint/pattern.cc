#include "core/constraint/pattern.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/constraint/text_reader.h"

namespace qamserve::constraint {
namespace {

constexpr int kMaxGroups = 50;  // within one another

using Node = Grammar::Node;

CodePointSet Digits() { return {{'0', '9'}}; }
CodePointSet WordCharacters() { return {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}; }
CodePointSet Spaces() { return {{'\t', '\r'}, {' ', ' '}}; }
// What any of the dialects takes for white space, so that \S is none for all of them.
CodePointSet AllSpaces() {
  return {{'\t', '\r'},     {0x1C, 0x1F},     {' ', ' '},       {0x85, 0x85},     {0xA0, 0xA0},
          {0x1680, 0x1680}, {0x180E, 0x180E}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
          {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
}
// A dot matches anything else.
CodePointSet LineEnds() { return {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}; }

class PatternParser {
 public:
  PatternParser(std::string_view text, Grammar& grammar, const PatternOptions& options)
      : in_(text), grammar_(grammar), options_(options) {}

  absl::StatusOr<Node> Parse() {
    ASSIGN_OR_RETURN(const Node node, Alternatives(0));
    if (!in_.done()) return Error("')' without '('");
    return node;
  }

 private:
  template <typename... Args>
  absl::Status Error(fmt::format_string<Args...> format, Args&&... args) const {
    return InvalidArgument("CONSTRAINT_INVALID", "byte {} of the regular expression: {}", in_.at(),
                           fmt::format(format, std::forward<Args>(args)...));
  }
  Node One(const CodePointSet& set) { return options_.encode ? options_.encode(grammar_, set) : grammar_.Class(set); }
  Node Anything() { return grammar_.Repeat(One(ComplementCodePoints({})), 0, kUnbounded); }
  bool AtEndOfAlternative() const { return in_.done() || in_.peek() == '|' || in_.peek() == ')'; }

  absl::StatusOr<Node> Alternatives(int depth);
  absl::StatusOr<Node> Alternative(int depth);
  absl::StatusOr<Node> Atom(int depth);
  absl::StatusOr<Node> Group(int depth);
  absl::StatusOr<Node> Repeated(Node atom);
  bool BeginsRepetition();
  absl::StatusOr<CodePointSet> Class();
  absl::StatusOr<CodePointSet> ClassItem();
  absl::StatusOr<CodePointSet> Escape(bool in_class);
  absl::StatusOr<CodePointSet> HexEscape(char kind);

  TextReader in_;
  Grammar& grammar_;
  const PatternOptions& options_;
};

absl::StatusOr<Node> PatternParser::Alternatives(int depth) {
  if (depth > kMaxGroups) return Error("more than {} groups within one another", kMaxGroups);
  std::vector<Node> alternatives;
  do {
    ASSIGN_OR_RETURN(const Node alternative, Alternative(depth));
    alternatives.push_back(alternative);
    RETURN_IF_ERROR(grammar_.status());
  } while (in_.Skip("|"));
  return grammar_.Alternatives(alternatives);
}

absl::StatusOr<Node> PatternParser::Alternative(int depth) {
  std::vector<Node> parts;
  const bool outermost = depth == 0;
  const bool from_start = outermost && in_.Skip("^");
  bool to_end = false;
  if (outermost && options_.search && !from_start) parts.push_back(Anything());
  while (!AtEndOfAlternative()) {
    if (outermost && in_.peek() == '$' && (in_.peek(1) == '|' || in_.rest().size() == 1)) {
      in_.Skip("$");
      to_end = true;
      break;
    }
    ASSIGN_OR_RETURN(const Node atom, Atom(depth));
    ASSIGN_OR_RETURN(const Node repeated, Repeated(atom));
    parts.push_back(repeated);
    RETURN_IF_ERROR(grammar_.status());
  }
  if (outermost && options_.search && !to_end) parts.push_back(Anything());
  return grammar_.Sequence(parts);
}

absl::StatusOr<Node> PatternParser::Atom(int depth) {
  switch (in_.peek()) {
    case '(':
      return Group(depth);
    case '[': {
      ASSIGN_OR_RETURN(const CodePointSet set, Class());
      return One(set);
    }
    case '.':
      in_.Next();
      return One(ComplementCodePoints(LineEnds()));
    case '\\': {
      ASSIGN_OR_RETURN(const CodePointSet set, Escape(/*in_class=*/false));
      return One(set);
    }
    case '^':
    case '$':
      return Error("'{}' is only supported at the ends of the expression and of its alternatives", in_.peek());
    case '*':
    case '+':
    case '?':
      return Error("'{}' has nothing to repeat", in_.peek());
    default:
      break;
  }
  if (BeginsRepetition()) return Error("a repetition has nothing to repeat");
  const uint32_t code = in_.Next();
  return One({{code, code}});
}

absl::StatusOr<Node> PatternParser::Group(int depth) {
  static constexpr std::pair<std::string_view, std::string_view> kRefused[] = {
      {"(?=", "lookahead (?=...)"},       {"(?!", "negative lookahead (?!...)"},
      {"(?<=", "lookbehind (?<=...)"},    {"(?<!", "negative lookbehind (?<!...)"},
      {"(?P=", "backreference (?P=...)"}, {"(?>", "atomic group (?>...)"},
      {"(?#", "comment (?#...)"},         {"(?(", "condition (?(...)"},
      {"(?|", "branch reset (?|...)"},    {"(*", "verb (*...)"}};
  for (const auto& [text, name] : kRefused) {
    if (in_.rest().starts_with(text)) return Error("{} is not supported", name);
  }
  const size_t begin = in_.at();
  if (in_.Skip("(?P<") || in_.Skip("(?<")) {
    while (!in_.done() && in_.peek() != '>') in_.Next();
    if (!in_.Skip(">")) return Error("the name of a group has no end");
  } else if (!in_.Skip("(?:")) {
    if (in_.rest().starts_with("(?")) return Error("flags such as (?i) are not supported");
    in_.Skip("(");
  }
  ASSIGN_OR_RETURN(const Node inner, Alternatives(depth + 1));
  if (in_.Skip(")")) return inner;
  in_.set_at(begin);
  return Error("'(' without ')'");
}

// {m}, {m,} and {m,n}; any other '{' stands for itself.
bool PatternParser::BeginsRepetition() {
  const size_t begin = in_.at();
  const bool is = in_.Skip("{") && in_.Number().has_value() &&
                  (in_.Skip("}") || (in_.Skip(",") && (in_.Skip("}") || (in_.Number().has_value() && in_.Skip("}")))));
  in_.set_at(begin);
  return is;
}

absl::StatusOr<Node> PatternParser::Repeated(Node atom) {
  uint32_t min = 1, max = 1;
  if (in_.Skip("*")) {
    min = 0, max = kUnbounded;
  } else if (in_.Skip("+")) {
    max = kUnbounded;
  } else if (in_.Skip("?")) {
    min = 0;
  } else if (BeginsRepetition()) {
    in_.Skip("{");
    min = max = RepetitionCount(*in_.Number());
    if (in_.Skip(",")) max = in_.peek() == '}' ? kUnbounded : RepetitionCount(*in_.Number());
    in_.Skip("}");
    if (min > max) return Error("a repetition has the minimum {}, which is above its maximum {}", min, max);
  } else {
    return atom;
  }
  // Lazy or not, the same texts match.
  if (!in_.Skip("?") && in_.peek() == '+') return Error("possessive repetitions are not supported");
  if (in_.peek() == '*' || in_.peek() == '+' || in_.peek() == '?' || BeginsRepetition()) {
    return Error("a repetition of a repetition needs a group");
  }
  return grammar_.Repeat(atom, min, max);
}

absl::StatusOr<CodePointSet> PatternParser::Class() {
  const size_t begin = in_.at();
  in_.Skip("[");
  const bool negated = in_.Skip("^");
  if (in_.peek() == ']') return Error("']' right after the beginning of a class must be written \\]");
  CodePointSet set;
  while (!in_.Skip("]")) {
    if (in_.done()) {
      in_.set_at(begin);
      return Error("'[' without ']'");
    }
    ASSIGN_OR_RETURN(CodePointSet item, ClassItem());
    if (in_.peek() == '-' && in_.peek(1) != ']' && in_.peek(1) != '\0') {
      in_.Skip("-");
      ASSIGN_OR_RETURN(const CodePointSet to, ClassItem());
      const bool single = item.size() == 1 && to.size() == 1 && item[0].first == item[0].last &&
                          to[0].first == to[0].last && item[0].first <= to[0].first;
      if (!single) return Error("a range within a class has ends that are none, or the wrong way round");
      item[0].last = to[0].last;
    }
    set.insert(set.end(), item.begin(), item.end());
    // A class may be as long as the expression.
    if (set.size() > 4096) set = NormalizeCodePoints(std::move(set));
  }
  return negated ? ComplementCodePoints(set) : NormalizeCodePoints(std::move(set));
}

absl::StatusOr<CodePointSet> PatternParser::ClassItem() {
  if (in_.done()) return Error("'[' without ']'");
  if (in_.peek() == '\\') return Escape(/*in_class=*/true);
  if (in_.rest().starts_with("[:") || in_.rest().starts_with("[=") || in_.rest().starts_with("[.")) {
    return Error("POSIX classes such as [:alpha:] are not supported");
  }
  const uint32_t code = in_.Next();
  return CodePointSet{{code, code}};
}

absl::StatusOr<CodePointSet> PatternParser::Escape(bool in_class) {
  in_.Skip("\\");
  if (in_.done()) return Error("a '\\' at the end");
  const char kind = in_.peek();
  const auto one = [](uint32_t code) { return CodePointSet{{code, code}}; };
  const auto is_letter_or_digit = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  if (!is_letter_or_digit(kind)) return one(in_.Next());
  switch (kind) {
    case 'd':
      in_.Next();
      return Digits();
    case 'D':
      in_.Next();
      return ComplementCodePoints(Digits());
    case 'w':
      in_.Next();
      return WordCharacters();
    case 'W':
      in_.Next();
      return ComplementCodePoints(WordCharacters());
    case 's':
      in_.Next();
      return Spaces();
    case 'S':
      in_.Next();
      return ComplementCodePoints(AllSpaces());
    case 't':
      in_.Next();
      return one('\t');
    case 'n':
      in_.Next();
      return one('\n');
    case 'r':
      in_.Next();
      return one('\r');
    case 'f':
      in_.Next();
      return one('\f');
    case 'v':
      in_.Next();
      return one('\v');
    case 'x':
    case 'u':
      in_.Next();
      return HexEscape(kind);
    case '0':
      if (is_letter_or_digit(in_.peek(1))) return Error("octal escapes are not supported");
      in_.Next();
      return one(0);
    case 'b':
      if (!in_class) return Error("the word boundary \\b is not supported");
      in_.Next();
      return one('\b');
    case 'B':
      return Error("the word boundary \\B is not supported");
    case 'p':
    case 'P':
      return Error("Unicode properties (\\{}) are not supported", kind);
    case 'k':
      return Error("backreferences (\\k) are not supported");
    default:
      break;
  }
  if (kind >= '1' && kind <= '9') return Error("backreferences (\\{}) are not supported", kind);
  return Error("the escape \\{} is not supported", kind);
}

absl::StatusOr<CodePointSet> PatternParser::HexEscape(char kind) {
  std::optional<uint32_t> code;
  if (in_.Skip("{")) {
    code = in_.Hex(1, 6);
    if (!in_.Skip("}")) code.reset();
  } else {
    const size_t digits = kind == 'x' ? 2 : 4;
    code = in_.Hex(digits, digits);
    const size_t behind = in_.at();
    if (kind == 'u' && code && *code >= 0xD800 && *code < 0xDC00 && in_.Skip("\\u")) {
      const std::optional<uint32_t> low = in_.Hex(4, 4);
      if (low && *low >= 0xDC00 && *low < 0xE000) {
        code = 0x10000 + ((*code - 0xD800) << 10) + (*low - 0xDC00);
      } else {
        in_.set_at(behind);
      }
    }
  }
  if (!code || *code > kMaxCodePoint) return Error("\\{} needs the hexadecimal number of a character", kind);
  if (*code >= 0xD800 && *code < 0xE000) return Error("U+{:04X} is half of a character", *code);
  return CodePointSet{{*code, *code}};
}

}  // namespace

absl::StatusOr<Node> AddPattern(std::string_view text, Grammar& grammar, const PatternOptions& options) {
  return PatternParser(text, grammar, options).Parse();
}

}  // namespace qamserve::constraint
