#include "core/constraint/program.h"

#include <absl/container/flat_hash_map.h>

#include <algorithm>
#include <utility>

#include "core/constraint/utf8_ranges.h"

namespace qamserve::constraint {
namespace {

// Repetitions are written out while that takes so few states; others are counted.
constexpr uint64_t kMostStatesWrittenOut = 96;
// Rules without recursion that are so small become part of their callers: what lies within one rule is told apart
// without looking at the stack.
constexpr uint64_t kMostStatesInlined = 32;
constexpr uint32_t kMostDepthInlined = 64;
constexpr uint64_t kManyStates = uint64_t{1} << 40;
// Of nodes written out. Those that are empty take no states, so that their number is no limit.
constexpr size_t kMaxEmitted = size_t{1} << 22;

using Node = Grammar::Node;
using Kind = Grammar::Kind;

// Whether something holds of a node if it holds of all its parts (sequence) or of any (alternatives).
class NodeFacts {
 public:
  template <typename HoldsAtOnce>
  NodeFacts(const Grammar& grammar, HoldsAtOnce holds_at_once) : grammar_(grammar), holds_(grammar.nodes(), false) {
    FindParents();
    missing_.resize(grammar.nodes());
    for (Node node = 0; node < grammar.nodes(); ++node) {
      const Kind kind = grammar.kind(node);
      missing_[node] = kind == Kind::kSequence ? static_cast<uint32_t>(grammar.children(node).size()) : 1;
      if (holds_at_once(node)) Establish(node);
    }
    // Each node is established once, so that this is linear in the grammar.
    while (!todo_.empty()) {
      const Node node = todo_.back();
      todo_.pop_back();
      for (uint32_t i = parents_begin_[node]; i < parents_begin_[node + 1]; ++i) {
        const Node parent = parents_[i];
        if (missing_[parent] > 0 && --missing_[parent] == 0) Establish(parent);
      }
    }
  }
  bool operator[](Node node) const { return holds_[node]; }

 private:
  void Establish(Node node) {
    if (holds_[node]) return;
    holds_[node] = true;
    missing_[node] = 0;
    todo_.push_back(node);
  }

  template <typename Visit>
  void ForEachEdge(Visit visit) const {
    for (Node node = 0; node < grammar_.nodes(); ++node) {
      const Kind kind = grammar_.kind(node);
      if (kind == Kind::kRule) {
        visit(grammar_.rule_body(grammar_.rule(node)), node);
      } else if (kind == Kind::kSequence || kind == Kind::kAlternatives || kind == Kind::kRepeat) {
        for (const Node child : grammar_.children(node)) visit(child, node);
      }
    }
  }

  void FindParents() {
    parents_begin_.assign(grammar_.nodes() + 1, 0);
    ForEachEdge([&](Node child, Node) { ++parents_begin_[child + 1]; });
    for (size_t i = 1; i < parents_begin_.size(); ++i) parents_begin_[i] += parents_begin_[i - 1];
    parents_.resize(parents_begin_.back());
    std::vector<uint32_t> next(parents_begin_.begin(), parents_begin_.end() - 1);
    ForEachEdge([&](Node child, Node parent) { parents_[next[child]++] = parent; });
  }

  const Grammar& grammar_;
  std::vector<bool> holds_;
  std::vector<uint32_t> missing_;
  std::vector<uint32_t> parents_begin_;
  std::vector<Node> parents_;
  std::vector<Node> todo_;
};

bool MatchesAlone(const Grammar& grammar, Node node) {
  const Kind kind = grammar.kind(node);
  return kind == Kind::kEmpty || kind == Kind::kLiteral || kind == Kind::kClass ||
         (kind == Kind::kRepeat && grammar.min(node) == 0);
}

bool EmptyAlone(const Grammar& grammar, Node node) {
  const Kind kind = grammar.kind(node);
  return kind == Kind::kEmpty || (kind == Kind::kRepeat && grammar.min(node) == 0);
}

class Compiler {
 public:
  explicit Compiler(const Grammar& grammar)
      : grammar_(grammar),
        matches_(grammar, [&](Node node) { return MatchesAlone(grammar, node); }),
        nullable_(grammar, [&](Node node) { return EmptyAlone(grammar, node); }),
        rule_ids_(grammar.rules(), kNone) {
    program_.states.push_back({.kind = State::Kind::kEnd});
    MeasureNodes();
  }

  absl::StatusOr<Program> Compile(uint32_t root) {
    if (!matches_[grammar_.rule_body(root)]) {
      return InvalidArgument("CONSTRAINT_INVALID", "no text at all satisfies the constraint");
    }
    RuleOf(root);
    // Emitting a rule finds the rules that it calls.
    for (size_t i = 0; i < bodies_.size() && status_.ok(); ++i) {
      current_ = program_.rules[i].name;
      const uint32_t entry = Emit(bodies_[i], kEndState);
      program_.rules[i].entry = entry;
      tails_.clear();
    }
    RETURN_IF_ERROR(status_);
    RETURN_IF_ERROR(RankRules());
    FillByteClasses();
    return std::move(program_);
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  // How many states a node takes and how deep it is, with small rules written out.
  struct Measure {
    uint64_t states = 0;
    uint32_t depth = 0;
    bool plain = false;  // calls nothing
  };

  void MeasureNodes();
  Measure MeasureOf(Node node) const;
  bool IsInlined(uint32_t rule) const {
    const Measure& body = measures_[grammar_.rule_body(rule)];
    return measured_[grammar_.rule_body(rule)] && body.plain && body.states <= kMostStatesInlined &&
           body.depth <= kMostDepthInlined;
  }

  uint32_t AddState(const State& state);
  uint32_t AddBytes(std::vector<ByteEdge> edges);
  uint32_t OneRange(ByteRange range, uint32_t next);
  uint32_t Split(std::vector<uint32_t> targets);
  uint32_t Emit(Node node, uint32_t next);
  uint32_t EmitLiteral(std::string_view bytes, uint32_t next);
  uint32_t EmitClass(std::span<const CodePointRange> ranges, uint32_t next);
  uint32_t EmitAlternatives(std::span<const Node> parts, uint32_t next);
  uint32_t EmitRepeat(Node node, uint32_t next);
  uint32_t EmitStar(Node part, uint32_t min, uint32_t next);
  uint32_t EmitCounted(Node part, uint32_t min, uint32_t max, uint32_t next);
  uint32_t RuleOf(uint32_t rule);
  uint32_t AddRule(Node body, std::string name);

  std::vector<uint32_t> RulesBegunWith(uint32_t rule, std::vector<uint32_t>& seen) const;
  absl::Status RankRules();
  void FillByteClasses();

  const Grammar& grammar_;
  const NodeFacts matches_;
  const NodeFacts nullable_;
  std::vector<Measure> measures_;
  std::vector<bool> measured_;
  Program program_;
  std::vector<Node> bodies_;                       // of program_.rules
  std::vector<uint32_t> rule_ids_;                 // of the grammar's rules
  absl::flat_hash_map<Node, uint32_t> counted_;    // rules that were made for repeated parts
  absl::flat_hash_map<uint64_t, uint32_t> tails_;  // (low, high, next) -> state, within a rule
  size_t emitted_ = 0;
  std::string current_;  // the rule that is being written out
  absl::Status status_;
};

// Nodes stand behind their children, and rules are used before or after their bodies: a second and third pass let small
// rules that use small rules be written out too. More would change little.
void Compiler::MeasureNodes() {
  measures_.resize(grammar_.nodes());
  measured_.assign(grammar_.nodes(), false);
  for (int pass = 0; pass < 3; ++pass) {
    std::vector<bool> now(grammar_.nodes(), false);
    for (Node node = 0; node < grammar_.nodes(); ++node) {
      measures_[node] = MeasureOf(node);
      now[node] = true;
      if (pass == 0) measured_[node] = measures_[node].plain;
    }
    measured_ = std::move(now);
  }
}

Compiler::Measure Compiler::MeasureOf(Node node) const {
  Measure measure{.states = 1, .depth = 1, .plain = true};
  switch (grammar_.kind(node)) {
    case Kind::kEmpty:
    case Kind::kNever:
      break;
    case Kind::kLiteral:
      measure.states = grammar_.literal(node).size();
      break;
    case Kind::kClass:
      measure.states = grammar_.ranges(node).back().last < 0x80 ? 1 : 4;
      break;
    case Kind::kRule: {
      const uint32_t rule = grammar_.rule(node);
      if (!IsInlined(rule)) {
        measure.plain = false;
        break;
      }
      measure = measures_[grammar_.rule_body(rule)];
      ++measure.depth;
      break;
    }
    case Kind::kSequence:
    case Kind::kAlternatives:
    case Kind::kRepeat: {
      measure.states = 0;
      for (const Node child : grammar_.children(node)) {
        const Measure& part = measures_[child];
        measure.states = std::min(kManyStates, measure.states + part.states);
        measure.depth = std::max(measure.depth, part.depth + 1);
        measure.plain = measure.plain && part.plain;
      }
      if (grammar_.kind(node) != Kind::kRepeat) break;
      const uint64_t copies = grammar_.max(node) == kUnbounded ? std::max(1u, grammar_.min(node)) : grammar_.max(node);
      if (measure.states * copies <= kMostStatesWrittenOut) {
        measure.states *= copies;
      } else if (copies > 1) {
        measure.plain = false;
        measure.states = 1;
      }
      break;
    }
  }
  return measure;
}

uint32_t Compiler::AddState(const State& state) {
  if (program_.states.size() >= kMaxProgramStates || program_.edges.size() > kMaxProgramEdges ||
      program_.targets.size() > kMaxProgramEdges) {
    if (status_.ok()) {
      status_ = ResourceExhausted("CONSTRAINT_SIZE", "the constraint takes more than {} states or {} edges",
                                  kMaxProgramStates, kMaxProgramEdges);
    }
    return kEndState;
  }
  program_.states.push_back(state);
  return static_cast<uint32_t>(program_.states.size() - 1);
}

uint32_t Compiler::AddBytes(std::vector<ByteEdge> edges) {
  const auto first = static_cast<uint32_t>(program_.edges.size());
  program_.edges.insert(program_.edges.end(), edges.begin(), edges.end());
  return AddState({.kind = State::Kind::kBytes, .first = first, .count = static_cast<uint32_t>(edges.size())});
}

uint32_t Compiler::OneRange(ByteRange range, uint32_t next) {
  const uint64_t key = uint64_t{next} << 16 | uint64_t{range.low} << 8 | range.high;
  const auto found = tails_.find(key);
  if (found != tails_.end()) return found->second;
  const uint32_t state = AddBytes({{range.low, range.high, next}});
  if (status_.ok()) tails_[key] = state;
  return state;
}

// States that read a byte become one, so that a choice among many texts is one state while they are apart.
uint32_t Compiler::Split(std::vector<uint32_t> targets) {
  std::sort(targets.begin(), targets.end());
  targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
  std::vector<ByteEdge> edges;
  std::vector<uint32_t> others;
  for (const uint32_t target : targets) {
    const State& state = program_.states[target];
    if (state.kind == State::Kind::kBytes) {
      const auto begin = program_.edges.begin() + state.first;
      edges.insert(edges.end(), begin, begin + state.count);
    } else {
      others.push_back(target);
    }
  }
  if (targets.size() - others.size() >= 2) {
    targets = std::move(others);
    targets.push_back(AddBytes(std::move(edges)));
  }
  if (targets.size() == 1) return targets[0];
  const auto first = static_cast<uint32_t>(program_.targets.size());
  program_.targets.insert(program_.targets.end(), targets.begin(), targets.end());
  return AddState({.kind = State::Kind::kSplit, .first = first, .count = static_cast<uint32_t>(targets.size())});
}

// The state from which `node` leads to `next`. REQUIRES: matches_[node].
uint32_t Compiler::Emit(Node node, uint32_t next) {
  if (++emitted_ > kMaxEmitted && status_.ok()) {
    status_ = ResourceExhausted("CONSTRAINT_SIZE",
                                "the constraint has more than {} parts, with those that are repeated", kMaxEmitted);
  }
  if (!status_.ok()) return kEndState;
  switch (grammar_.kind(node)) {
    case Kind::kEmpty:
    case Kind::kNever:
      return next;
    case Kind::kLiteral:
      return EmitLiteral(grammar_.literal(node), next);
    case Kind::kClass:
      return EmitClass(grammar_.ranges(node), next);
    case Kind::kSequence: {
      const std::span<const Node> parts = grammar_.children(node);
      for (size_t i = parts.size(); i-- > 0;) next = Emit(parts[i], next);
      return next;
    }
    case Kind::kAlternatives:
      return EmitAlternatives(grammar_.children(node), next);
    case Kind::kRepeat:
      return EmitRepeat(node, next);
    case Kind::kRule:
      break;
  }
  const uint32_t rule = grammar_.rule(node);
  if (IsInlined(rule)) return Emit(grammar_.rule_body(rule), next);
  return AddState({.kind = State::Kind::kCall, .rule = RuleOf(rule), .next = next});
}

uint32_t Compiler::EmitLiteral(std::string_view bytes, uint32_t next) {
  for (size_t i = bytes.size(); i-- > 0;) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    next = OneRange({byte, byte}, next);
  }
  return next;
}

uint32_t Compiler::EmitClass(std::span<const CodePointRange> ranges, uint32_t next) {
  std::vector<Utf8Sequence> sequences;
  for (const CodePointRange& range : ranges) AppendUtf8Sequences(range, sequences);
  std::vector<ByteEdge> edges;
  edges.reserve(sequences.size());
  for (const Utf8Sequence& sequence : sequences) {
    uint32_t to = next;
    for (int i = sequence.size - 1; i > 0; --i) to = OneRange(sequence.bytes[static_cast<size_t>(i)], to);
    edges.push_back({sequence.bytes[0].low, sequence.bytes[0].high, to});
  }
  return AddBytes(std::move(edges));
}

uint32_t Compiler::EmitAlternatives(std::span<const Node> parts, uint32_t next) {
  std::vector<uint32_t> targets;
  targets.reserve(parts.size());
  for (const Node part : parts) {
    if (matches_[part]) targets.push_back(Emit(part, next));
  }
  return status_.ok() ? Split(std::move(targets)) : kEndState;
}

uint32_t Compiler::EmitRepeat(Node node, uint32_t next) {
  const Node part = grammar_.children(node)[0];
  if (!matches_[part]) return next;
  uint32_t min = grammar_.min(node);
  const uint32_t max = grammar_.max(node);
  // Of what may be empty, fewer are as good as more.
  if (nullable_[part]) min = 0;
  if (max == kUnbounded && min <= 1) return EmitStar(part, min, next);
  const uint64_t copies = max == kUnbounded ? min : max;
  if (measures_[part].states * copies > kMostStatesWrittenOut && copies > 1 && !nullable_[part]) {
    return EmitCounted(part, min, max, next);
  }
  uint32_t state = max == kUnbounded ? EmitStar(part, 0, next) : next;
  for (uint32_t i = 0; max != kUnbounded && i < max - min && status_.ok(); ++i) {
    state = Split({Emit(part, state), next});
  }
  for (uint32_t i = 0; i < min && status_.ok(); ++i) state = Emit(part, state);
  return state;
}

uint32_t Compiler::EmitStar(Node part, uint32_t min, uint32_t next) {
  const uint32_t loop = AddState({.kind = State::Kind::kSplit, .count = 0});
  const uint32_t entry = Emit(part, loop);
  if (!status_.ok()) return kEndState;
  program_.states[loop].first = static_cast<uint32_t>(program_.targets.size());
  program_.states[loop].count = 2;
  program_.targets.push_back(entry);
  program_.targets.push_back(next);
  return min == 0 ? loop : entry;
}

uint32_t Compiler::EmitCounted(Node part, uint32_t min, uint32_t max, uint32_t next) {
  auto [found, is_new] = counted_.try_emplace(part, 0);
  if (is_new) found->second = AddRule(part, current_);
  return AddState({.kind = State::Kind::kRepeat, .rule = found->second, .next = next, .min = min, .max = max});
}

uint32_t Compiler::RuleOf(uint32_t rule) {
  if (rule_ids_[rule] == kNone) rule_ids_[rule] = AddRule(grammar_.rule_body(rule), grammar_.rule_name(rule));
  return rule_ids_[rule];
}

uint32_t Compiler::AddRule(Node body, std::string name) {
  program_.rules.push_back({.nullable = nullable_[body], .name = std::move(name)});
  bodies_.push_back(body);
  return static_cast<uint32_t>(program_.rules.size() - 1);
}

// Rules that `rule` may call before it has read anything. `seen` marks states of the last rule that reached them.
std::vector<uint32_t> Compiler::RulesBegunWith(uint32_t rule, std::vector<uint32_t>& seen) const {
  std::vector<uint32_t> rules;
  std::vector<uint32_t> todo = {program_.rules[rule].entry};
  while (!todo.empty()) {
    const uint32_t at = todo.back();
    todo.pop_back();
    if (seen[at] == rule) continue;
    seen[at] = rule;
    const State& state = program_.states[at];
    switch (state.kind) {
      case State::Kind::kEnd:
      case State::Kind::kBytes:
        break;
      case State::Kind::kSplit:
        for (uint32_t i = 0; i < state.count; ++i) todo.push_back(program_.targets[state.first + i]);
        break;
      case State::Kind::kCall:
      case State::Kind::kRepeat:
        rules.push_back(state.rule);
        if (program_.rules[state.rule].nullable || (state.kind == State::Kind::kRepeat && state.min == 0)) {
          todo.push_back(state.next);
        }
        break;
    }
  }
  std::sort(rules.begin(), rules.end());
  rules.erase(std::unique(rules.begin(), rules.end()), rules.end());
  return rules;
}

// Depth first without recursion; rules are ranked when all that they begin with are.
absl::Status Compiler::RankRules() {
  const size_t count = program_.rules.size();
  std::vector<uint32_t> seen(program_.states.size(), kNone);
  std::vector<std::vector<uint32_t>> begun_with(count);
  for (uint32_t rule = 0; rule < count; ++rule) begun_with[rule] = RulesBegunWith(rule, seen);
  enum : uint8_t { kUntouched, kOpen, kRanked };
  std::vector<uint8_t> stage(count, kUntouched);
  auto rank = static_cast<uint32_t>(count);
  for (uint32_t start = 0; start < count; ++start) {
    std::vector<std::pair<uint32_t, size_t>> path;
    if (stage[start] == kUntouched) path.emplace_back(start, 0);
    while (!path.empty()) {
      auto& [rule, next] = path.back();
      stage[rule] = kOpen;
      if (next == begun_with[rule].size()) {
        stage[rule] = kRanked;
        program_.rules[rule].rank = --rank;
        path.pop_back();
        continue;
      }
      const uint32_t callee = begun_with[rule][next++];
      if (stage[callee] == kOpen) {
        return InvalidArgument("CONSTRAINT_INVALID", "{} begins with itself (left recursion)",
                               program_.rules[callee].name);
      }
      if (stage[callee] == kUntouched) path.emplace_back(callee, 0);
    }
  }
  return absl::OkStatus();
}

void Compiler::FillByteClasses() {
  std::array<bool, 257> begins{};
  for (const ByteEdge& edge : program_.edges) begins[edge.low] = begins[edge.high + 1u] = true;
  uint32_t current = 0;
  for (size_t byte = 0; byte < 256; ++byte) {
    if (byte > 0 && begins[byte]) ++current;
    program_.byte_class[byte] = static_cast<uint8_t>(current);
  }
  program_.classes = current + 1;
}

}  // namespace

absl::StatusOr<Program> CompileProgram(const Grammar& grammar, uint32_t root) {
  RETURN_IF_ERROR(grammar.status());
  return Compiler(grammar).Compile(root);
}

}  // namespace qamserve::constraint
