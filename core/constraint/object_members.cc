#include "core/constraint/object_members.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace qamserve::constraint {

using Node = Grammar::Node;

Node OpenObject(Grammar& grammar, JsonParts& parts, Node value, uint32_t min, uint32_t max) {
  if (max == 0) return parts.Bracketed('{', '}', std::nullopt, /*may_be_empty=*/min == 0);
  const Node member = parts.Member(parts.String(), value);
  const Node more = grammar.Repeat(grammar.Sequence({parts.Comma(), member}), min == 0 ? 0 : min - 1,
                                   max == kUnbounded ? kUnbounded : max - 1);
  return parts.Bracketed('{', '}', grammar.Sequence({member, more}), /*may_be_empty=*/min == 0);
}

Node ArrayItems(Grammar& grammar, JsonParts& parts, const std::vector<Node>& first, std::optional<Node> rest,
                uint32_t min, uint32_t max) {
  if (max == 0 || (first.empty() && !rest)) return parts.Bracketed('[', ']', std::nullopt, /*may_be_empty=*/min == 0);
  const auto fixed = static_cast<uint32_t>(std::min<size_t>(first.size(), max));
  const Node comma = parts.Comma();
  // From the end: what follows the items so far.
  Node tail = grammar.Empty();
  if (rest && max > fixed) {
    const uint32_t before = std::max(fixed, 1u);  // items without the ones in the tail
    tail = grammar.Repeat(grammar.Sequence({comma, *rest}), min > before ? min - before : 0,
                          max == kUnbounded ? kUnbounded : max - before);
  }
  std::vector<Node> items;
  if (first.empty()) items.push_back(*rest);
  for (uint32_t i = fixed; i-- > std::max(min, 1u);) {
    tail = grammar.Optional(grammar.Sequence({comma, first[i], tail}));
  }
  for (uint32_t i = 0; i < std::min(fixed, std::max(min, 1u)); ++i) {
    if (i > 0) items.push_back(comma);
    items.push_back(first[i]);
  }
  items.push_back(tail);
  return parts.Bracketed('[', ']', grammar.Sequence(items), /*may_be_empty=*/min == 0);
}

ObjectMembers::ObjectMembers(Grammar& grammar, JsonParts& parts, const std::vector<Property>& properties,
                             std::optional<Node> other, const std::string& where)
    : grammar_(grammar), parts_(parts), properties_(properties), other_(other), where_(where) {
  for (size_t i = 0; i < properties.size(); ++i) {
    if (properties[i].required) last_required_ = i + 1;
  }
  from_.resize(properties.size() + 1);
  after_.resize(properties.size() + 1);
}

Node ObjectMembers::Build() {
  const Node members = From(0);
  const Node object = parts_.Bracketed('{', '}', members, /*may_be_empty=*/!LaterRequired(0));
  // Bodies make further rules; none recurses, however many properties there are.
  while (!from_waiting_.empty() || !after_waiting_.empty()) {
    if (!from_waiting_.empty()) {
      const size_t i = from_waiting_.back();
      from_waiting_.pop_back();
      grammar_.SetRule(*from_[i], FromBody(i));
    } else {
      const size_t i = after_waiting_.back();
      after_waiting_.pop_back();
      grammar_.SetRule(*after_[i], AfterBody(i));
    }
    if (!grammar_.status().ok()) break;
  }
  return object;
}

Node ObjectMembers::From(size_t i) {
  if (!from_[i]) {
    from_[i] = grammar_.AddRule(where_);
    from_waiting_.push_back(i);
  }
  return grammar_.Rule(*from_[i]);
}

Node ObjectMembers::After(size_t i) {
  if (!after_[i]) {
    after_[i] = grammar_.AddRule(where_);
    after_waiting_.push_back(i);
  }
  return grammar_.Rule(*after_[i]);
}

Node ObjectMembers::Member(size_t i) {
  const Node name = grammar_.Literal(nlohmann::json(properties_[i].name).dump());
  return parts_.Member(name, properties_[i].value);
}

Node ObjectMembers::FromBody(size_t i) {
  if (i == properties_.size()) return other_ ? grammar_.Sequence({*other_, After(i)}) : grammar_.Never();
  // Required properties in a row are one sequence.
  std::vector<Node> parts = {Member(i)};
  size_t next = i + 1;
  while (next < properties_.size() && properties_[next].required) {
    parts.push_back(parts_.Comma());
    parts.push_back(Member(next++));
  }
  parts.push_back(After(next));
  const Node with = grammar_.Sequence(parts);
  return properties_[i].required ? with : grammar_.Alternatives({with, From(i + 1)});
}

Node ObjectMembers::AfterBody(size_t i) {
  if (i == properties_.size()) {
    return other_ ? grammar_.Repeat(grammar_.Sequence({parts_.Comma(), *other_}), 0, kUnbounded) : grammar_.Empty();
  }
  const Node more = grammar_.Sequence({parts_.Comma(), From(i)});
  return LaterRequired(i) ? more : grammar_.Optional(more);
}

}  // namespace qamserve::constraint
