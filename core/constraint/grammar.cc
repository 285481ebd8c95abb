#include "core/constraint/grammar.h"

#include <algorithm>

namespace qamserve::constraint {
namespace {

constexpr CodePointRange kSurrogates = {0xD800, 0xDFFF};

}  // namespace

CodePointSet NormalizeCodePoints(CodePointSet set) {
  CodePointSet valid;
  valid.reserve(set.size() + 1);
  for (const CodePointRange& range : set) {
    const uint32_t last = std::min(range.last, kMaxCodePoint);
    if (range.first > last) continue;
    if (last < kSurrogates.first || range.first > kSurrogates.last) {
      valid.push_back({range.first, last});
      continue;
    }
    if (range.first < kSurrogates.first) valid.push_back({range.first, kSurrogates.first - 1});
    if (last > kSurrogates.last) valid.push_back({kSurrogates.last + 1, last});
  }
  std::sort(valid.begin(), valid.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  CodePointSet merged;
  merged.reserve(valid.size());
  for (const CodePointRange& range : valid) {
    if (!merged.empty() && range.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

CodePointSet ComplementCodePoints(const CodePointSet& set) {
  CodePointSet rest;
  uint32_t next = 0;
  for (const CodePointRange& range : NormalizeCodePoints(set)) {
    if (range.first > next) rest.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kMaxCodePoint) rest.push_back({next, kMaxCodePoint});
  return NormalizeCodePoints(std::move(rest));
}

Grammar::Grammar() : nodes_{{.kind = Kind::kEmpty}, {.kind = Kind::kNever}} {}

void Grammar::TooLarge(std::string_view what, size_t limit) {
  if (status_.ok()) status_ = ResourceExhausted("CONSTRAINT_SIZE", "the constraint has more than {} {}", limit, what);
}

Grammar::Node Grammar::Add(const NodeData& data) {
  if (nodes_.size() >= kMaxGrammarNodes) {
    TooLarge("parts", kMaxGrammarNodes);
  } else if (data.depth > kMaxGrammarDepth) {
    TooLarge("parts within one another", kMaxGrammarDepth);
  }
  if (!status_.ok()) return Never();
  nodes_.push_back(data);
  return static_cast<Node>(nodes_.size() - 1);
}

Grammar::Node Grammar::Literal(std::string_view bytes) {
  if (bytes.empty()) return Empty();
  if (bytes.size() > kMaxGrammarBytes - bytes_.size()) TooLarge("bytes of literal text", kMaxGrammarBytes);
  if (!status_.ok()) return Never();
  const auto first = static_cast<uint32_t>(bytes_.size());
  bytes_ += bytes;
  return Add({.kind = Kind::kLiteral, .first = first, .count = static_cast<uint32_t>(bytes.size())});
}

Grammar::Node Grammar::Class(const CodePointSet& set) {
  const CodePointSet normalized = NormalizeCodePoints(set);
  if (normalized.empty() || !status_.ok()) return Never();
  const auto first = static_cast<uint32_t>(ranges_.size());
  ranges_.insert(ranges_.end(), normalized.begin(), normalized.end());
  return Add({.kind = Kind::kClass, .first = first, .count = static_cast<uint32_t>(normalized.size())});
}

Grammar::Node Grammar::Group(Kind kind, std::span<const Node> parts) {
  if (!status_.ok()) return Never();
  uint32_t depth = 0;
  for (const Node part : parts) depth = std::max(depth, nodes_[part].depth);
  // Children of all nodes together: as many as nodes, and those that are used twice.
  if (children_.size() + parts.size() > 4 * kMaxGrammarNodes) TooLarge("parts", 4 * kMaxGrammarNodes);
  if (!status_.ok()) return Never();
  const auto first = static_cast<uint32_t>(children_.size());
  children_.insert(children_.end(), parts.begin(), parts.end());
  return Add({.kind = kind, .first = first, .count = static_cast<uint32_t>(parts.size()), .depth = depth + 1});
}

Grammar::Node Grammar::Sequence(std::span<const Node> parts) {
  if (parts.empty()) return Empty();
  return parts.size() == 1 ? parts[0] : Group(Kind::kSequence, parts);
}

Grammar::Node Grammar::Alternatives(std::span<const Node> parts) {
  if (parts.empty()) return Never();
  return parts.size() == 1 ? parts[0] : Group(Kind::kAlternatives, parts);
}

Grammar::Node Grammar::Repeat(Node part, uint32_t min, uint32_t max) {
  if (max == 0 || part == Empty()) return Empty();
  if (min == 1 && max == 1) return part;
  if (min > kMaxRepetitions || (max != kUnbounded && max > kMaxRepetitions)) {
    TooLarge("repetitions of one part", kMaxRepetitions);
  }
  if (!status_.ok()) return Never();
  const auto first = static_cast<uint32_t>(children_.size());
  children_.push_back(part);
  return Add(
      {.kind = Kind::kRepeat, .first = first, .count = 1, .min = min, .max = max, .depth = nodes_[part].depth + 1});
}

Grammar::Node Grammar::OneOf(std::vector<std::string> texts) {
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  return texts.empty() ? Never() : OneOfSorted(texts, 0, 0);
}

// `texts` agree in their first `at` bytes. Texts that part ways more than 64 times are listed from there on.
Grammar::Node Grammar::OneOfSorted(std::span<const std::string> texts, size_t at, uint32_t depth) {
  constexpr uint32_t kMaxSharing = 64;
  if (!status_.ok()) return Never();
  size_t same = at;
  const std::string& first = texts.front();
  const std::string& last = texts.back();
  while (same < first.size() && same < last.size() && first[same] == last[same]) ++same;
  const Node start = Literal(std::string_view(first).substr(at, same - at));
  if (texts.size() == 1) return start;
  std::vector<Node> branches;
  for (size_t i = 0; i < texts.size();) {
    size_t end = i + 1;
    if (texts[i].size() == same) {
      branches.push_back(Empty());
    } else if (depth == kMaxSharing) {
      branches.push_back(Literal(std::string_view(texts[i]).substr(same)));
    } else {
      while (end < texts.size() && texts[end][same] == texts[i][same]) ++end;
      branches.push_back(OneOfSorted(texts.subspan(i, end - i), same, depth + 1));
    }
    i = end;
  }
  return Sequence({start, Alternatives(branches)});
}

uint32_t Grammar::AddRule(std::string name) {
  if (rules_.size() >= kMaxGrammarRules) {
    TooLarge("rules", kMaxGrammarRules);
    return 0;
  }
  rules_.push_back({std::move(name)});
  return static_cast<uint32_t>(rules_.size() - 1);
}

void Grammar::SetRule(uint32_t rule, Node body) { rules_[rule].body = body; }

Grammar::Node Grammar::Rule(uint32_t rule) { return Add({.kind = Kind::kRule, .first = rule, .count = 1}); }

std::string_view Grammar::literal(Node node) const {
  return std::string_view(bytes_).substr(nodes_[node].first, nodes_[node].count);
}

std::span<const CodePointRange> Grammar::ranges(Node node) const {
  return std::span(ranges_).subspan(nodes_[node].first, nodes_[node].count);
}

std::span<const Grammar::Node> Grammar::children(Node node) const {
  return std::span(children_).subspan(nodes_[node].first, nodes_[node].count);
}

}  // namespace qamserve::constraint
