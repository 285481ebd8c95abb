// A context-free grammar whose smallest parts are sets of Unicode code points: what JSON schemas, regular expressions,
// GBNF texts and lists of choices become, before program.h turns it into states over bytes. Nodes are numbers and may
// be used in several places. Not thread-safe.
// Sizes are bounded. What goes past a limit makes `status` an error that names it (CONSTRAINT_SIZE); the grammar then
// takes calls without growing, so that only who finishes it need look.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve::constraint {

inline constexpr uint32_t kUnbounded = UINT32_MAX;
inline constexpr uint32_t kMaxCodePoint = 0x10FFFF;
inline constexpr size_t kMaxGrammarNodes = size_t{1} << 18;
inline constexpr size_t kMaxGrammarRules = size_t{1} << 14;
inline constexpr size_t kMaxGrammarBytes = size_t{4} << 20;  // of literals
inline constexpr uint32_t kMaxGrammarDepth = 400;            // nodes within nodes, so that walks may recurse
inline constexpr uint32_t kMaxRepetitions = 1 << 20;         // that are counted, {m,n}

// A count that somebody wrote; too large ones, which TextReader::Number gives as kUnbounded, are not to mean that.
constexpr uint32_t RepetitionCount(uint32_t written) {
  return written > kMaxRepetitions ? kMaxRepetitions + 1 : written;
}

// Both ends are part of it.
struct CodePointRange {
  uint32_t first = 0;
  uint32_t last = 0;
};
using CodePointSet = std::vector<CodePointRange>;

// Sorted, not touching, without surrogates (which UTF-8 does not have) and what lies past U+10FFFF.
CodePointSet NormalizeCodePoints(CodePointSet set);
// All code points that are not in `set`; normalized.
CodePointSet ComplementCodePoints(const CodePointSet& set);

class Grammar {
 public:
  using Node = uint32_t;
  enum class Kind : uint8_t { kEmpty, kNever, kLiteral, kClass, kSequence, kAlternatives, kRepeat, kRule };

  Grammar();

  Node Empty() const { return 0; }  // the empty text
  Node Never() const { return 1; }  // no text at all
  // These bytes, which are UTF-8 (or a part of it).
  Node Literal(std::string_view bytes);
  // One code point of the set; Never if it is empty.
  Node Class(const CodePointSet& set);
  Node Sequence(std::span<const Node> parts);
  Node Sequence(std::initializer_list<Node> parts) { return Sequence(std::span(parts.begin(), parts.size())); }
  Node Alternatives(std::span<const Node> parts);
  Node Alternatives(std::initializer_list<Node> parts) { return Alternatives(std::span(parts.begin(), parts.size())); }
  // `part` min to max times; kUnbounded is no limit. REQUIRES: min <= max.
  Node Repeat(Node part, uint32_t min, uint32_t max);
  Node Optional(Node part) { return Repeat(part, 0, 1); }
  // One of `texts`, sharing what they begin with.
  Node OneOf(std::vector<std::string> texts);

  // A rule may be used before its body is set; one whose body never is matches nothing. `name` is for messages.
  uint32_t AddRule(std::string name);
  void SetRule(uint32_t rule, Node body);
  Node Rule(uint32_t rule);

  const absl::Status& status() const { return status_; }

  // --- For program.h ---
  Kind kind(Node node) const { return nodes_[node].kind; }
  std::string_view literal(Node node) const;
  std::span<const CodePointRange> ranges(Node node) const;
  // Of a sequence, alternatives or a repetition.
  std::span<const Node> children(Node node) const;
  uint32_t min(Node node) const { return nodes_[node].min; }
  uint32_t max(Node node) const { return nodes_[node].max; }
  uint32_t rule(Node node) const { return nodes_[node].first; }
  size_t nodes() const { return nodes_.size(); }
  size_t rules() const { return rules_.size(); }
  const std::string& rule_name(uint32_t rule) const { return rules_[rule].name; }
  Node rule_body(uint32_t rule) const { return rules_[rule].body; }
  // Nodes within nodes, down to rules.
  uint32_t depth(Node node) const { return nodes_[node].depth; }

 private:
  struct NodeData {
    Kind kind = Kind::kEmpty;
    uint32_t first = 0;  // in bytes_, ranges_ or children_; the rule
    uint32_t count = 0;
    uint32_t min = 0;
    uint32_t max = 0;
    uint32_t depth = 1;
  };
  struct RuleData {
    std::string name;
    Node body = 1;
  };

  Node Add(const NodeData& data);
  Node Group(Kind kind, std::span<const Node> parts);
  Node OneOfSorted(std::span<const std::string> texts, size_t at, uint32_t depth);
  void TooLarge(std::string_view what, size_t limit);

  std::vector<NodeData> nodes_;
  std::vector<Node> children_;
  std::vector<CodePointRange> ranges_;
  std::string bytes_;
  std::vector<RuleData> rules_;
  absl::Status status_;
};

}  // namespace qamserve::constraint
