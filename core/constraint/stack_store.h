// What a program can be in the middle of: all the ways of reading a text at once. Not thread-safe.
//
// A way is a state that reads a byte, and a stack of calls that wait for their rules to end. Stacks share: a *context*
// is the set of all callers of one rule at one place of the text (each a frame: the state that goes on, and the context
// that it waits in), so that ways never multiply by the ways into them (the graph-structured stack of Tomita 1985, with
// nodes found by content). A *configuration* is the set of ways (items) after some text. Both are numbered, and equal
// sets have equal numbers, so that transitions can be kept: the program becomes a deterministic automaton as far as
// somebody walked it.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "core/constraint/program.h"

namespace qamserve::constraint {

// Nobody waits: what ends here ends the text.
inline constexpr uint32_t kBottom = 0;
// No way at all.
inline constexpr uint32_t kDead = 0;

struct Frame {
  uint32_t state = 0;
  uint32_t count = 0;  // repetitions read, where `state` is a kRepeat
  uint32_t context = kBottom;
  bool operator==(const Frame&) const = default;
  bool operator<(const Frame& other) const {
    return std::tie(state, count, context) < std::tie(other.state, other.count, other.context);
  }
};

struct Item {
  uint32_t state = 0;
  uint32_t context = kBottom;
  bool operator==(const Item&) const = default;
  bool operator<(const Item& other) const { return std::tie(state, context) < std::tie(other.state, other.context); }
};

class StackStore {
 public:
  static constexpr size_t kMaxItems = 4096;      // ways at once
  static constexpr uint32_t kMaxNesting = 4096;  // calls within one another
  static constexpr size_t kMaxWork = 1 << 20;    // looks at states that one operation may take: some 50 ms

  explicit StackStore(const Program& program);

  // --- Building. RESOURCE_EXHAUSTED (CONSTRAINT_SIZE) shows in `error` for kMaxItems, kMaxNesting and kMaxWork; the
  // result is then kDead and nothing is kept. ---
  // Where rule 0 begins.
  uint32_t Start();
  // The configuration of ways that stand at these frames.
  uint32_t Settle(std::span<const Frame> frames);
  // After one more byte.
  uint32_t Next(uint32_t configuration, uint8_t byte) {
    const uint32_t known = transitions_[size_t{configuration} * program_.classes + program_.byte_class[byte]];
    return known != kUnknown ? known : FindNext(configuration, byte);
  }
  uint32_t Context(std::vector<Frame> frames);
  // A configuration of one item.
  uint32_t Single(const Item& item);
  // The same configuration in another store of the same program.
  uint32_t CopyTo(StackStore& other, uint32_t configuration) const;

  // Begins an operation, which may do kMaxWork.
  void ResetWork() { work_ = 0; }
  const absl::Status& error() const { return error_; }
  void ClearError() { error_ = absl::OkStatus(); }

  // --- Looking ---
  const Program& program() const { return program_; }
  std::span<const Item> items(uint32_t configuration) const {
    const Set& set = configurations_[configuration];
    return std::span(items_).subspan(set.first, set.count);
  }
  // The text may end here.
  bool may_end(uint32_t configuration) const { return configurations_[configuration].flag != 0; }
  std::span<const Frame> frames(uint32_t context) const {
    const Set& set = contexts_[context];
    return std::span(frames_).subspan(set.first, set.count);
  }
  size_t configurations() const { return configurations_.size(); }
  // About what it holds.
  size_t bytes() const;

 private:
  static constexpr uint32_t kUnknown = UINT32_MAX;
  struct Set {
    uint64_t hash = 0;
    uint32_t first = 0;
    uint32_t count = 0;
    uint32_t flag = 0;  // of a configuration: may_end; of a context: how deep it is
  };

  uint32_t FindNext(uint32_t configuration, uint8_t byte);
  void Fail(std::string_view what, size_t limit);
  bool Look();
  void Begin();
  void EnterCalls();
  void Close(std::vector<Frame> todo);
  void Enter(uint32_t rule, uint32_t context);
  void Call(uint32_t rule, const Frame& back);
  void CallFrom(const State& state, uint32_t id, uint32_t count, uint32_t context);
  uint32_t AddConfiguration();
  static uint32_t AfterOneMore(const State& repeat, uint32_t count);

  const Program& program_;
  std::vector<Set> contexts_;
  std::vector<Frame> frames_;
  std::vector<Set> configurations_;
  std::vector<Item> items_;
  std::vector<uint32_t> transitions_;  // [configuration][class]
  absl::flat_hash_map<uint64_t, std::vector<uint32_t>> contexts_by_hash_;
  absl::flat_hash_map<uint64_t, std::vector<uint32_t>> configurations_by_hash_;

  // Of the configuration that is being built.
  std::vector<Item> new_items_;
  bool new_may_end_ = false;
  absl::flat_hash_map<uint32_t, std::vector<Frame>> calls_;   // by rule: who waits for it
  std::vector<std::pair<uint32_t, uint32_t>> calls_by_rank_;  // (rank, rule), a heap with the lowest first
  size_t work_ = 0;
  absl::Status error_;
};

}  // namespace qamserve::constraint
