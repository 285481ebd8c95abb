// A grammar as states over bytes, ready to run: each rule is a small automaton that may call others. States are
// numbers; state 0 ends a rule. Const after compilation. How it is run: machine.h.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/constraint/grammar.h"

namespace qamserve::constraint {

inline constexpr size_t kMaxProgramStates = size_t{1} << 18;
inline constexpr size_t kMaxProgramEdges = size_t{1} << 20;
inline constexpr uint32_t kEndState = 0;

// From a state by any byte from low to high.
struct ByteEdge {
  uint8_t low = 0;
  uint8_t high = 0;
  uint32_t to = 0;
};

struct State {
  enum class Kind : uint8_t {
    kEnd,     // the rule is complete
    kBytes,   // reads a byte: edges[first .. first + count)
    kSplit,   // goes on as any of targets[first .. first + count)
    kCall,    // reads rule `rule`, then goes on as `next`
    kRepeat,  // reads rule `rule` min to max times (counted by whoever is in this state), then goes on as `next`
  };
  Kind kind = Kind::kEnd;
  uint32_t first = 0;
  uint32_t count = 0;
  uint32_t rule = 0;
  uint32_t next = 0;
  uint32_t min = 0;
  uint32_t max = 0;
};

struct ProgramRule {
  uint32_t entry = 0;
  // Reads the empty text too. Whoever calls it goes on past the call as well; the rule itself never ends at once.
  bool nullable = false;
  // A rule that begins with another has a lower rank than that one.
  uint32_t rank = 0;
  std::string name;
};

struct Program {
  std::vector<State> states;
  std::vector<ByteEdge> edges;
  std::vector<uint32_t> targets;
  std::vector<ProgramRule> rules;  // the first is where all begins
  // Bytes that no state tells apart have the same class.
  std::array<uint8_t, 256> byte_class{};
  uint32_t classes = 0;
};

// From every state some text leads to the end: parts that nothing can match are left out.
// INVALID_ARGUMENT (CONSTRAINT_INVALID) if nothing can match at all, or if a rule begins with itself (left recursion),
// which it names; RESOURCE_EXHAUSTED (CONSTRAINT_SIZE) names a limit, that of the grammar too.
absl::StatusOr<Program> CompileProgram(const Grammar& grammar, uint32_t root);

}  // namespace qamserve::constraint
