// The parts that JSON texts are made of, as rules of a grammar (RFC 8259). Not thread-safe.
//
// Of what JSON allows, these are written: white space where `Space` stands (behind brackets and commas and before
// closing brackets: nothing, a space, or a line end with at most 32 spaces of indentation) and a space or none behind a
// colon, so that no model is lost in white space; numbers of at most 15 digits before and behind the point and two in
// the exponent, which every reader can hold; escapes of whole characters only, never half a surrogate pair; values of
// no known shape nest at most 16 levels deep.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/constraint/grammar.h"

namespace qamserve::constraint {

inline constexpr int kMaxAnyDepth = 16;
inline constexpr uint32_t kMaxNumberDigits = 15;

// One code point of `set` within a JSON string: as itself, or as an escape where JSON wants one.
Grammar::Node JsonCharacter(Grammar& grammar, const CodePointSet& set);

class JsonParts {
 public:
  using Node = Grammar::Node;
  explicit JsonParts(Grammar& grammar) : grammar_(grammar) {}

  Node Space();
  // A comma with the space behind it.
  Node Comma();
  Node String();
  // A string of so many code points.
  Node StringOf(uint32_t min, uint32_t max);
  // A string with this text within the quotes.
  Node Quoted(Node text);
  // Of at most kMaxNumberDigits digits.
  Node Integer();
  Node Number();
  // Any value; within others, `depth` levels are left.
  Node Value(int depth = kMaxAnyDepth);
  Node Object(int depth = kMaxAnyDepth);
  Node Array(int depth = kMaxAnyDepth);
  // Brackets around `parts`, with the spaces that belong there; or around nothing, if that may be (and must be, if
  // there are no `parts`).
  Node Bracketed(char open, char close, std::optional<Node> parts, bool may_be_empty);
  // `name` with its quotes, a colon and `value`. `name` is JSON text.
  Node Member(Node name, Node value);
  // The name of a member that is none of `names`. RESOURCE_EXHAUSTED (CONSTRAINT_SIZE) for a name of more than 256
  // characters.
  absl::StatusOr<Node> NameOtherThan(std::vector<std::string> names);

 private:
  Node Once(std::optional<uint32_t>& rule, std::string name, Node (JsonParts::*make)());
  Node MakeSpace();
  Node MakeString();
  Node MakeNumber();
  Node StringCharacter();
  Node AnyCharacter();
  Node OtherThan(const std::vector<std::u32string>& names, size_t begin, size_t end, size_t at);

  Grammar& grammar_;
  std::optional<uint32_t> space_, string_, number_;
  std::vector<std::optional<uint32_t>> values_, objects_, arrays_;  // by depth
  std::optional<Node> character_;
};

}  // namespace qamserve::constraint
