#include "core/constraint/gbnf.h"

#include <absl/container/flat_hash_map.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/constraint/text_reader.h"

namespace qamserve::constraint {
namespace {

constexpr int kMaxGroups = 50;  // within one another

using Node = Grammar::Node;

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

class GbnfParser {
 public:
  GbnfParser(std::string_view text, Grammar& grammar) : text_(text), in_(text), grammar_(grammar) {}

  absl::StatusOr<uint32_t> Parse() {
    SkipSpace();
    while (!in_.done()) RETURN_IF_ERROR(Definition());
    for (const auto& [name, rule] : rules_) {
      if (rule.defined) continue;
      in_.set_at(rule.first_use);
      return Error("rule \"{}\" is not defined", name);
    }
    const auto root = rules_.find("root");
    if (root == rules_.end()) return InvalidArgument("CONSTRAINT_INVALID", "the grammar has no rule \"root\"");
    return root->second.id;
  }

 private:
  struct NamedRule {
    uint32_t id = 0;
    bool defined = false;
    size_t first_use = 0;
  };

  template <typename... Args>
  absl::Status Error(fmt::format_string<Args...> format, Args&&... args) const {
    const std::string_view before = text_.substr(0, in_.at());
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t last = before.rfind('\n');
    const size_t column = last == std::string_view::npos ? before.size() + 1 : before.size() - last;
    return InvalidArgument("CONSTRAINT_INVALID", "line {}, column {} of the grammar: {}", line, column,
                           fmt::format(format, std::forward<Args>(args)...));
  }

  // White space, line ends and comments.
  void SkipSpace() {
    while (true) {
      while (in_.peek() == ' ' || in_.peek() == '\t' || in_.peek() == '\n' || in_.peek() == '\r')
        in_.Skip(in_.rest().substr(0, 1));
      if (in_.peek() != '#') return;
      while (!in_.done() && in_.peek() != '\n') in_.Next();
    }
  }
  std::string_view Name() {
    const std::string_view rest = in_.rest();
    size_t size = 0;
    while (size < rest.size() && IsNameCharacter(rest[size])) ++size;
    in_.set_at(in_.at() + size);
    return rest.substr(0, size);
  }
  // A name and "::=" begin the next rule.
  bool AtDefinition() {
    const size_t begin = in_.at();
    const bool is = !Name().empty() && (SkipSpace(), in_.Skip("::="));
    in_.set_at(begin);
    return is;
  }
  bool AtEndOfSequence() {
    return in_.done() || in_.peek() == '|' || in_.peek() == ')' || (IsNameCharacter(in_.peek()) && AtDefinition());
  }
  NamedRule& Find(std::string_view name) {
    const auto [found, is_new] = rules_.try_emplace(std::string(name), NamedRule{.first_use = in_.at()});
    if (is_new) found->second.id = grammar_.AddRule(fmt::format("rule \"{}\"", name));
    return found->second;
  }

  absl::Status Definition();
  absl::StatusOr<Node> Alternatives(int depth);
  absl::StatusOr<Node> Sequence(int depth);
  absl::StatusOr<Node> Part(int depth);
  absl::StatusOr<Node> Repeated(Node part);
  absl::StatusOr<Node> Literal();
  absl::StatusOr<Node> Class();
  absl::StatusOr<uint32_t> Character();

  const std::string_view text_;
  TextReader in_;
  Grammar& grammar_;
  absl::flat_hash_map<std::string, NamedRule> rules_;
};

absl::Status GbnfParser::Definition() {
  const size_t begin = in_.at();
  const std::string name(Name());
  SkipSpace();
  if (name.empty() || !in_.Skip("::=")) {
    in_.set_at(begin);
    return Error("a rule must begin with its name and ::=");
  }
  if (NamedRule& rule = Find(name); rule.defined) {
    in_.set_at(begin);
    return Error("rule \"{}\" is defined twice", name);
  } else {
    rule.defined = true;
  }
  SkipSpace();
  ASSIGN_OR_RETURN(const Node body, Alternatives(0));
  if (!in_.done() && in_.peek() == ')') return Error("')' without '('");
  RETURN_IF_ERROR(grammar_.status());
  grammar_.SetRule(Find(name).id, body);
  return absl::OkStatus();
}

absl::StatusOr<Node> GbnfParser::Alternatives(int depth) {
  if (depth > kMaxGroups) return Error("more than {} groups within one another", kMaxGroups);
  std::vector<Node> alternatives;
  do {
    SkipSpace();
    ASSIGN_OR_RETURN(const Node alternative, Sequence(depth));
    alternatives.push_back(alternative);
  } while (in_.Skip("|"));
  return grammar_.Alternatives(alternatives);
}

absl::StatusOr<Node> GbnfParser::Sequence(int depth) {
  std::vector<Node> parts;
  while (!AtEndOfSequence()) {
    ASSIGN_OR_RETURN(const Node part, Part(depth));
    SkipSpace();
    ASSIGN_OR_RETURN(const Node repeated, Repeated(part));
    parts.push_back(repeated);
    RETURN_IF_ERROR(grammar_.status());
  }
  return grammar_.Sequence(parts);
}

absl::StatusOr<Node> GbnfParser::Part(int depth) {
  if (in_.peek() == '"') return Literal();
  if (in_.peek() == '[') return Class();
  if (in_.Skip(".")) return grammar_.Class(ComplementCodePoints({}));
  if (IsNameCharacter(in_.peek())) return grammar_.Rule(Find(Name()).id);
  const size_t begin = in_.at();
  if (!in_.Skip("(")) return Error("'{}' begins no part of a rule", in_.peek());
  ASSIGN_OR_RETURN(const Node inner, Alternatives(depth + 1));
  if (in_.Skip(")")) return inner;
  in_.set_at(begin);
  return Error("'(' without ')'");
}

absl::StatusOr<Node> GbnfParser::Repeated(Node part) {
  while (true) {
    uint32_t min = 0, max = kUnbounded;
    if (in_.Skip("?")) {
      max = 1;
    } else if (in_.Skip("+")) {
      min = 1;
    } else if (in_.Skip("{")) {
      SkipSpace();
      const std::optional<uint32_t> first = in_.Number();
      SkipSpace();
      min = RepetitionCount(first.value_or(0));
      max = min;
      if (in_.Skip(",")) {
        SkipSpace();
        const std::optional<uint32_t> last = in_.Number();
        max = last ? RepetitionCount(*last) : kUnbounded;
        SkipSpace();
      } else if (!first) {
        return Error("a repetition needs a number");
      }
      if (!in_.Skip("}")) return Error("a repetition is written {{m}}, {{m,}} or {{m,n}}");
      if (min > max) return Error("a repetition has the minimum {}, which is above its maximum {}", min, max);
    } else if (!in_.Skip("*")) {
      return part;
    }
    part = grammar_.Repeat(part, min, max);
    SkipSpace();
  }
}

absl::StatusOr<Node> GbnfParser::Literal() {
  const size_t begin = in_.at();
  in_.Skip("\"");
  std::string bytes;
  while (!in_.Skip("\"")) {
    if (in_.done() || in_.peek() == '\n') {
      in_.set_at(begin);
      return Error("a literal has no end");
    }
    ASSIGN_OR_RETURN(const uint32_t code, Character());
    AppendUtf8(code, bytes);
  }
  return grammar_.Literal(bytes);
}

absl::StatusOr<Node> GbnfParser::Class() {
  const size_t begin = in_.at();
  in_.Skip("[");
  const bool negated = in_.Skip("^");
  CodePointSet set;
  while (!in_.Skip("]")) {
    if (in_.done() || in_.peek() == '\n') {
      in_.set_at(begin);
      return Error("a class has no end");
    }
    ASSIGN_OR_RETURN(const uint32_t first, Character());
    uint32_t last = first;
    if (in_.peek() == '-' && in_.peek(1) != ']') {
      in_.Skip("-");
      if (in_.done()) return Error("a class has no end");
      ASSIGN_OR_RETURN(last, Character());
    }
    if (first > last) return Error("a range within a class has its ends the wrong way round");
    set.push_back({first, last});
    if (set.size() > 4096) set = NormalizeCodePoints(std::move(set));
  }
  return grammar_.Class(negated ? ComplementCodePoints(set) : set);
}

absl::StatusOr<uint32_t> GbnfParser::Character() {
  if (!in_.Skip("\\")) return in_.Next();
  if (in_.done()) return Error("a '\\' at the end");
  const char kind = in_.peek();
  constexpr std::pair<char, uint32_t> kEscapes[] = {{'n', '\n'}, {'r', '\r'}, {'t', '\t'}, {'\\', '\\'}, {'"', '"'},
                                                    {'[', '['},  {']', ']'},  {'-', '-'},  {'^', '^'}};
  for (const auto& [name, code] : kEscapes) {
    if (kind != name) continue;
    in_.Next();
    return code;
  }
  const size_t digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
  if (digits == 0) return Error("the escape \\{} is not known", kind);
  in_.Next();
  const std::optional<uint32_t> code = in_.Hex(digits, digits);
  if (!code || *code > kMaxCodePoint || (*code >= 0xD800 && *code < 0xE000)) {
    return Error("\\{} needs {} hexadecimal digits, the number of a character", kind, digits);
  }
  return *code;
}

}  // namespace

absl::StatusOr<uint32_t> AddGbnf(std::string_view text, Grammar& grammar) { return GbnfParser(text, grammar).Parse(); }

}  // namespace qamserve::constraint
