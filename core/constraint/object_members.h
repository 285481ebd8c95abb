// The inside of JSON objects and arrays of a known shape. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/constraint/json_parts.h"

namespace qamserve::constraint {

struct Property {
  std::string name;
  Grammar::Node value = 0;
  bool required = false;
};

// An object with members of any names, `min` to `max` of them.
Grammar::Node OpenObject(Grammar& grammar, JsonParts& parts, Grammar::Node value, uint32_t min, uint32_t max);

// An array of `first`, then of `rest` (nothing, if there is no rest), `min` to `max` together. REQUIRES: min <= max,
// and max <= first.size() without a rest.
Grammar::Node ArrayItems(Grammar& grammar, JsonParts& parts, const std::vector<Grammar::Node>& first,
                         std::optional<Grammar::Node> rest, uint32_t min, uint32_t max);

// An object with these properties in this order, of which those that are not required may be left out, and then any
// number of `other` members.
class ObjectMembers {
 public:
  using Node = Grammar::Node;
  ObjectMembers(Grammar& grammar, JsonParts& parts, const std::vector<Property>& properties, std::optional<Node> other,
                const std::string& where);
  Node Build();

 private:
  // A rule for the members from property i on, of which there is one at least, and a rule for what follows a member
  // before property i; made where they are needed in more than one place.
  Node From(size_t i);
  Node After(size_t i);
  Node FromBody(size_t i);
  Node AfterBody(size_t i);
  Node Member(size_t i);
  bool LaterRequired(size_t i) const { return last_required_ >= i + 1; }

  Grammar& grammar_;
  JsonParts& parts_;
  const std::vector<Property>& properties_;
  const std::optional<Node> other_;
  const std::string& where_;
  size_t last_required_ = 0;  // behind the last one
  std::vector<std::optional<uint32_t>> from_;
  std::vector<std::optional<uint32_t>> after_;
  std::vector<size_t> from_waiting_;
  std::vector<size_t> after_waiting_;
};

}  // namespace qamserve::constraint
