#include "core/constraint/json_parts.h"

#include <algorithm>
#include <utility>

#include "core/tokenizer/utf8.h"

namespace qamserve::constraint {
namespace {

using Node = Grammar::Node;

constexpr uint32_t kMaxIndentation = 32;
constexpr size_t kMaxNameCharacters = 256;

CodePointSet Digits() { return {{'0', '9'}}; }
CodePointSet HexDigits() { return {{'0', '9'}, {'A', 'F'}, {'a', 'f'}}; }

// What a JSON string cannot hold as itself.
CodePointSet Escaped() { return {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}; }

bool Contains(const CodePointSet& set, uint32_t code) {
  return std::ranges::any_of(set, [&](const CodePointRange& r) { return r.first <= code && code <= r.last; });
}

CodePointSet Without(const CodePointSet& set, const CodePointSet& removed) {
  CodePointSet out = ComplementCodePoints(set);
  out.insert(out.end(), removed.begin(), removed.end());
  return ComplementCodePoints(out);
}

// Both cases of the hexadecimal digits of a control character.
Node HexEscape(Grammar& grammar, uint32_t code) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  const uint32_t last = code % 16;
  CodePointSet digit = {{static_cast<uint32_t>(kDigits[last]), static_cast<uint32_t>(kDigits[last])}};
  if (last >= 10) digit.push_back({'A' + last - 10, 'A' + last - 10});
  return grammar.Sequence({grammar.Literal(code < 16 ? "\\u000" : "\\u001"), grammar.Class(digit)});
}

}  // namespace

Node JsonCharacter(Grammar& grammar, const CodePointSet& set) {
  std::vector<Node> ways = {grammar.Class(Without(set, Escaped()))};
  constexpr std::pair<uint32_t, std::string_view> kShort[] = {
      {'"', "\\\""}, {'\\', "\\\\"}, {'\b', "\\b"}, {'\f', "\\f"}, {'\n', "\\n"}, {'\r', "\\r"}, {'\t', "\\t"}};
  for (const auto& [code, text] : kShort) {
    if (Contains(set, code)) ways.push_back(grammar.Literal(text));
  }
  for (uint32_t code = 0; code < 0x20; ++code) {
    const bool has_short = std::ranges::any_of(kShort, [&](const auto& entry) { return entry.first == code; });
    if (!has_short && Contains(set, code)) ways.push_back(HexEscape(grammar, code));
  }
  return grammar.Alternatives(ways);
}

Node JsonParts::Once(std::optional<uint32_t>& rule, std::string name, Node (JsonParts::*make)()) {
  if (!rule) {
    rule = grammar_.AddRule(std::move(name));
    grammar_.SetRule(*rule, (this->*make)());
  }
  return grammar_.Rule(*rule);
}

Node JsonParts::Space() { return Once(space_, "white space", &JsonParts::MakeSpace); }
Node JsonParts::String() { return Once(string_, "a string", &JsonParts::MakeString); }
Node JsonParts::Number() { return Once(number_, "a number", &JsonParts::MakeNumber); }

Node JsonParts::MakeSpace() {
  const Node indentation = grammar_.Repeat(grammar_.Class({{' ', ' '}}), 0, kMaxIndentation);
  return grammar_.Alternatives(
      {grammar_.Empty(), grammar_.Literal(" "), grammar_.Sequence({grammar_.Literal("\n"), indentation})});
}

Node JsonParts::Comma() { return grammar_.Sequence({grammar_.Literal(","), Space()}); }

// Any character, as itself or by any escape that is a whole character.
Node JsonParts::StringCharacter() {
  if (character_) return *character_;
  const Node hex = grammar_.Class(HexDigits());
  const auto digit = [&](const CodePointSet& set) { return grammar_.Class(set); };
  const CodePointSet d = {{'D', 'D'}, {'d', 'd'}};
  const Node outside = grammar_.Alternatives({grammar_.Sequence({digit(Without(HexDigits(), d)), hex, hex, hex}),
                                              grammar_.Sequence({digit(d), digit({{'0', '7'}}), hex, hex})});
  const Node high = grammar_.Sequence({digit(d), digit({{'8', '9'}, {'A', 'B'}, {'a', 'b'}}), hex, hex});
  const Node low = grammar_.Sequence({digit(d), digit({{'C', 'F'}, {'c', 'f'}}), hex, hex});
  const Node unicode =
      grammar_.Sequence({grammar_.Literal("u"),
                         grammar_.Alternatives({outside, grammar_.Sequence({high, grammar_.Literal("\\u"), low})})});
  const Node escape = grammar_.Sequence(
      {grammar_.Literal("\\"),
       grammar_.Alternatives(
           {grammar_.Class(
                {{'"', '"'}, {'/', '/'}, {'\\', '\\'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}}),
            unicode})});
  character_ = grammar_.Alternatives({grammar_.Class(ComplementCodePoints(Escaped())), escape});
  return *character_;
}

Node JsonParts::Quoted(Node text) { return grammar_.Sequence({grammar_.Literal("\""), text, grammar_.Literal("\"")}); }

Node JsonParts::MakeString() { return Quoted(grammar_.Repeat(StringCharacter(), 0, kUnbounded)); }

Node JsonParts::StringOf(uint32_t min, uint32_t max) {
  if (min == 0 && max == kUnbounded) return String();
  return Quoted(grammar_.Repeat(StringCharacter(), min, max));
}

Node JsonParts::Integer() {
  const Node digits = grammar_.Repeat(grammar_.Class(Digits()), 0, kMaxNumberDigits - 1);
  const Node from_one = grammar_.Sequence({grammar_.Class({{'1', '9'}}), digits});
  return grammar_.Alternatives(
      {grammar_.Literal("0"), grammar_.Sequence({grammar_.Optional(grammar_.Literal("-")), from_one})});
}

Node JsonParts::MakeNumber() {
  const Node digit = grammar_.Class(Digits());
  const Node whole = grammar_.Alternatives(
      {grammar_.Literal("0"),
       grammar_.Sequence({grammar_.Class({{'1', '9'}}), grammar_.Repeat(digit, 0, kMaxNumberDigits - 1)})});
  const Node fraction = grammar_.Sequence({grammar_.Literal("."), grammar_.Repeat(digit, 1, kMaxNumberDigits)});
  const Node exponent =
      grammar_.Sequence({grammar_.Class({{'E', 'E'}, {'e', 'e'}}),
                         grammar_.Optional(grammar_.Class({{'+', '+'}, {'-', '-'}})), grammar_.Repeat(digit, 1, 2)});
  return grammar_.Sequence(
      {grammar_.Optional(grammar_.Literal("-")), whole, grammar_.Optional(fraction), grammar_.Optional(exponent)});
}

Node JsonParts::Value(int depth) {
  const auto level = static_cast<size_t>(depth);
  if (values_.size() <= level) values_.resize(level + 1);
  if (!values_[level]) {
    values_[level] = grammar_.AddRule("any value");
    std::vector<Node> kinds = {String(), Number(), grammar_.OneOf({"true", "false", "null"})};
    if (depth > 0) {
      kinds.push_back(Object(depth));
      kinds.push_back(Array(depth));
    }
    grammar_.SetRule(*values_[level], grammar_.Alternatives(kinds));
  }
  return grammar_.Rule(*values_[level]);
}

Node JsonParts::Object(int depth) {
  const auto level = static_cast<size_t>(depth);
  if (objects_.size() <= level) objects_.resize(level + 1);
  if (!objects_[level]) {
    objects_[level] = grammar_.AddRule("any object");
    const Node member = Member(String(), Value(depth - 1));
    const Node more = grammar_.Repeat(grammar_.Sequence({Comma(), member}), 0, kUnbounded);
    const Node body = Bracketed('{', '}', grammar_.Sequence({member, more}), /*may_be_empty=*/true);
    grammar_.SetRule(*objects_[level], body);
  }
  return grammar_.Rule(*objects_[level]);
}

Node JsonParts::Array(int depth) {
  const auto level = static_cast<size_t>(depth);
  if (arrays_.size() <= level) arrays_.resize(level + 1);
  if (!arrays_[level]) {
    arrays_[level] = grammar_.AddRule("any array");
    const Node value = Value(depth - 1);
    const Node more = grammar_.Repeat(grammar_.Sequence({Comma(), value}), 0, kUnbounded);
    const Node body = Bracketed('[', ']', grammar_.Sequence({value, more}), /*may_be_empty=*/true);
    grammar_.SetRule(*arrays_[level], body);
  }
  return grammar_.Rule(*arrays_[level]);
}

Node JsonParts::Bracketed(char open, char close, std::optional<Node> parts, bool may_be_empty) {
  const Node begin = grammar_.Literal(std::string(1, open));
  const Node end = grammar_.Literal(std::string(1, close));
  std::vector<Node> inside;
  if (may_be_empty) inside.push_back(grammar_.Empty());
  if (parts) inside.push_back(grammar_.Sequence({*parts, Space()}));
  return grammar_.Sequence({begin, Space(), grammar_.Alternatives(inside), end});
}

Node JsonParts::Member(Node name, Node value) {
  return grammar_.Sequence({name, grammar_.Literal(":"), grammar_.Optional(grammar_.Literal(" ")), value});
}

// A character as itself: names of unknown members have no escapes, so that none of them can spell a known one.
Node JsonParts::AnyCharacter() { return grammar_.Class(ComplementCodePoints(Escaped())); }

absl::StatusOr<Node> JsonParts::NameOtherThan(std::vector<std::string> names) {
  if (names.empty()) return String();
  std::vector<std::u32string> known;
  known.reserve(names.size());
  for (const std::string& name : names) {
    std::u32string& points = known.emplace_back();
    for (std::string_view rest = name; !rest.empty();) {
      const std::optional<Utf8Char> next = DecodeUtf8(rest);
      points.push_back(next ? next->code_point : 0xFFFD);
      rest.remove_prefix(next ? next->length : 1);
    }
    if (points.size() > kMaxNameCharacters) {
      return ResourceExhausted("CONSTRAINT_SIZE", "beside other properties, a name may have {} characters; got {}",
                               kMaxNameCharacters, points.size());
    }
    // Such a name cannot be written without escapes.
    if (std::ranges::any_of(points, [](char32_t c) { return Contains(Escaped(), c); })) known.pop_back();
  }
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  if (known.empty()) return Quoted(grammar_.Repeat(AnyCharacter(), 0, kUnbounded));
  return Quoted(OtherThan(known, 0, known.size(), 0));
}

// What follows `at` characters that names [begin, end) have in common, so that the whole is none of them.
Node JsonParts::OtherThan(const std::vector<std::u32string>& names, size_t begin, size_t end, size_t at) {
  const bool is_name = names[begin].size() == at;
  std::vector<Node> ways;
  if (!is_name) ways.push_back(grammar_.Empty());
  CodePointSet next;
  for (size_t i = begin + (is_name ? 1 : 0); i < end;) {
    const char32_t c = names[i][at];
    size_t last = i;
    while (last < end && names[last][at] == c) ++last;
    next.push_back({c, c});
    ways.push_back(grammar_.Sequence({grammar_.Class({{c, c}}), OtherThan(names, i, last, at + 1)}));
    i = last;
  }
  next.insert(next.end(), {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}});
  ways.push_back(
      grammar_.Sequence({grammar_.Class(ComplementCodePoints(next)), grammar_.Repeat(AnyCharacter(), 0, kUnbounded)}));
  const Node node = grammar_.Alternatives(ways);
  if (at % 64 != 63) return node;
  // Long names nest deeply; a rule begins anew.
  const uint32_t rule = grammar_.AddRule("the name of another property");
  grammar_.SetRule(rule, node);
  return grammar_.Rule(rule);
}

}  // namespace qamserve::constraint
