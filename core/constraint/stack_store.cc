#include "core/constraint/stack_store.h"

#include <absl/container/flat_hash_set.h>

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

namespace qamserve::constraint {
namespace {

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash ^= value + 0x9e3779b97f4a7c15u + (hash << 6) + (hash >> 2);
  hash *= 0xff51afd7ed558ccdu;
  return hash ^ (hash >> 32);
}

template <typename T>
void SortUnique(std::vector<T>& values) {
  // What was taken from one context is in order already.
  if (!std::is_sorted(values.begin(), values.end())) std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

}  // namespace

StackStore::StackStore(const Program& program) : program_(program) {
  contexts_.push_back({});        // kBottom
  configurations_.push_back({});  // kDead
  transitions_.assign(program_.classes, kDead);
}

size_t StackStore::bytes() const {
  constexpr size_t kMapEntry = 48;
  return (contexts_.size() + configurations_.size()) * (sizeof(Set) + kMapEntry) + frames_.size() * sizeof(Frame) +
         items_.size() * sizeof(Item) + transitions_.size() * sizeof(uint32_t);
}

void StackStore::Fail(std::string_view what, size_t limit) {
  if (error_.ok()) error_ = ResourceExhausted("CONSTRAINT_SIZE", "the constraint needs more than {} {}", limit, what);
}

// Counts a look at a state. False if there were too many.
bool StackStore::Look() {
  if (++work_ > kMaxWork) Fail("looks at states for one token", kMaxWork);
  return error_.ok();
}

uint32_t StackStore::Context(std::vector<Frame> frames) {
  SortUnique(frames);
  uint64_t hash = frames.size();
  uint32_t depth = 0;
  for (const Frame& frame : frames) {
    hash = Mix(Mix(Mix(hash, frame.state), frame.count), frame.context);
    depth = std::max(depth, contexts_[frame.context].flag + 1);
  }
  std::vector<uint32_t>& known = contexts_by_hash_[hash];
  for (const uint32_t id : known) {
    if (std::ranges::equal(this->frames(id), frames)) return id;
  }
  if (depth > kMaxNesting) Fail("calls within one another", kMaxNesting);
  if (frames.size() > kMaxItems) Fail("ways to go on at once", kMaxItems);
  const auto id = static_cast<uint32_t>(contexts_.size());
  contexts_.push_back({hash, static_cast<uint32_t>(frames_.size()), static_cast<uint32_t>(frames.size()), depth});
  frames_.insert(frames_.end(), frames.begin(), frames.end());
  known.push_back(id);
  return id;
}

// Repetitions beyond the last count that matters are not told apart.
uint32_t StackStore::AfterOneMore(const State& repeat, uint32_t count) {
  return repeat.max == kUnbounded ? std::min(count + 1, repeat.min) : count + 1;
}

void StackStore::Call(uint32_t rule, const Frame& back) {
  std::vector<Frame>& callers = calls_[rule];
  if (callers.empty()) {
    calls_by_rank_.emplace_back(program_.rules[rule].rank, rule);
    std::push_heap(calls_by_rank_.begin(), calls_by_rank_.end(), std::greater<>());
  }
  // A call that is the last thing of its rule goes back to where that rule goes back, so that lists of any length need
  // no deeper stack.
  if (back.state == kEndState && back.context != kBottom) {
    const std::span<const Frame> outer = frames(back.context);
    work_ += outer.size() / 8;
    callers.insert(callers.end(), outer.begin(), outer.end());
  } else {
    callers.push_back(back);
  }
  if (callers.size() > 4 * kMaxItems) {
    SortUnique(callers);
    if (callers.size() > kMaxItems) Fail("ways to go on at once", kMaxItems);
  }
}

// From state `id`, which is a kCall or kRepeat.
void StackStore::CallFrom(const State& state, uint32_t id, uint32_t count, uint32_t context) {
  if (state.kind == State::Kind::kCall) {
    Call(state.rule, {state.next, 0, context});
  } else if (count < state.max) {
    const uint32_t more = AfterOneMore(state, count);
    // After the last one there is nothing to decide.
    Call(state.rule, more == state.max ? Frame{state.next, 0, context} : Frame{id, more, context});
  }
}

// Follows `todo`, which stand behind what was read, until all stand before a byte, before a call or at the end.
void StackStore::Close(std::vector<Frame> todo) {
  absl::flat_hash_set<std::tuple<uint32_t, uint32_t, uint32_t>> seen;
  while (!todo.empty() && Look()) {
    const Frame at = todo.back();
    todo.pop_back();
    if (!seen.insert({at.state, at.count, at.context}).second) continue;
    const State& state = program_.states[at.state];
    switch (state.kind) {
      case State::Kind::kEnd:
        if (at.context == kBottom) {
          new_may_end_ = true;
        } else {
          const std::span<const Frame> outer = frames(at.context);
          todo.insert(todo.end(), outer.begin(), outer.end());
        }
        break;
      case State::Kind::kBytes:
        new_items_.push_back({at.state, at.context});
        break;
      case State::Kind::kSplit:
        for (uint32_t i = 0; i < state.count; ++i) {
          todo.push_back({program_.targets[state.first + i], 0, at.context});
        }
        break;
      case State::Kind::kCall:
      case State::Kind::kRepeat: {
        const bool skip = state.kind == State::Kind::kRepeat && at.count >= state.min;
        if (skip || program_.rules[state.rule].nullable) todo.push_back({state.next, 0, at.context});
        CallFrom(state, at.state, at.count, at.context);
        break;
      }
    }
  }
}

// Follows the beginning of a rule that `context` waits for. Its end, if it is nullable, was followed by its callers.
void StackStore::Enter(uint32_t rule, uint32_t context) {
  absl::flat_hash_set<uint32_t> seen;
  std::vector<uint32_t> todo = {program_.rules[rule].entry};
  while (!todo.empty() && Look()) {
    const uint32_t id = todo.back();
    todo.pop_back();
    if (!seen.insert(id).second) continue;
    const State& state = program_.states[id];
    switch (state.kind) {
      case State::Kind::kEnd:
        break;
      case State::Kind::kBytes:
        new_items_.push_back({id, context});
        break;
      case State::Kind::kSplit:
        for (uint32_t i = 0; i < state.count; ++i) todo.push_back(program_.targets[state.first + i]);
        break;
      case State::Kind::kCall:
      case State::Kind::kRepeat: {
        const bool skip = state.kind == State::Kind::kRepeat && state.min == 0;
        if (skip || program_.rules[state.rule].nullable) todo.push_back(state.next);
        CallFrom(state, id, 0, context);
        break;
      }
    }
  }
}

void StackStore::Begin() {
  new_items_.clear();
  new_may_end_ = false;
  calls_.clear();
  calls_by_rank_.clear();
}

// All callers of a rule are known before it is entered: whoever calls it at this place has a lower rank.
void StackStore::EnterCalls() {
  while (!calls_by_rank_.empty() && error_.ok()) {
    std::pop_heap(calls_by_rank_.begin(), calls_by_rank_.end(), std::greater<>());
    const uint32_t rule = calls_by_rank_.back().second;
    calls_by_rank_.pop_back();
    const uint32_t context = Context(std::move(calls_[rule]));
    if (error_.ok()) Enter(rule, context);
  }
}

uint32_t StackStore::Start() {
  Begin();
  new_may_end_ = program_.rules[0].nullable;
  Call(0, {kEndState, 0, kBottom});
  EnterCalls();
  return AddConfiguration();
}

uint32_t StackStore::Settle(std::span<const Frame> frames) {
  Begin();
  Close({frames.begin(), frames.end()});
  EnterCalls();
  return AddConfiguration();
}

uint32_t StackStore::Single(const Item& item) {
  Begin();
  new_items_.push_back(item);
  return AddConfiguration();
}

uint32_t StackStore::AddConfiguration() {
  SortUnique(new_items_);
  if (new_items_.size() > kMaxItems) Fail("ways to go on at once", kMaxItems);
  if (!error_.ok() || (new_items_.empty() && !new_may_end_)) return kDead;
  uint64_t hash = new_may_end_ ? 1 : 2;
  for (const Item& item : new_items_) hash = Mix(Mix(hash, item.state), item.context);
  std::vector<uint32_t>& known = configurations_by_hash_[hash];
  for (const uint32_t id : known) {
    if (may_end(id) == new_may_end_ && std::ranges::equal(items(id), new_items_)) return id;
  }
  const auto id = static_cast<uint32_t>(configurations_.size());
  configurations_.push_back(
      {hash, static_cast<uint32_t>(items_.size()), static_cast<uint32_t>(new_items_.size()), new_may_end_ ? 1u : 0u});
  items_.insert(items_.end(), new_items_.begin(), new_items_.end());
  transitions_.resize(transitions_.size() + program_.classes, kUnknown);
  known.push_back(id);
  return id;
}

uint32_t StackStore::FindNext(uint32_t configuration, uint8_t byte) {
  std::vector<Frame> frames;
  for (const Item& item : items(configuration)) {
    const State& state = program_.states[item.state];
    work_ += state.count / 16;
    if (!Look()) return kDead;
    for (uint32_t i = 0; i < state.count; ++i) {
      const ByteEdge& edge = program_.edges[state.first + i];
      if (edge.low <= byte && byte <= edge.high) frames.push_back({edge.to, 0, item.context});
    }
  }
  const uint32_t next = frames.empty() ? kDead : Settle(frames);
  if (error_.ok()) transitions_[size_t{configuration} * program_.classes + program_.byte_class[byte]] = next;
  return next;
}

// Contexts have higher numbers than those they wait in, so one pass down finds what is needed and one up copies it.
uint32_t StackStore::CopyTo(StackStore& other, uint32_t configuration) const {
  std::vector<bool> needed(contexts_.size(), false);
  for (const Item& item : items(configuration)) needed[item.context] = true;
  for (size_t id = contexts_.size(); id-- > 1;) {
    if (!needed[id]) continue;
    for (const Frame& frame : frames(static_cast<uint32_t>(id))) needed[frame.context] = true;
  }
  std::vector<uint32_t> copies(contexts_.size(), kBottom);
  for (size_t id = 1; id < contexts_.size(); ++id) {
    if (!needed[id]) continue;
    const std::span<const Frame> own = frames(static_cast<uint32_t>(id));
    std::vector<Frame> moved(own.begin(), own.end());
    for (Frame& frame : moved) frame.context = copies[frame.context];
    copies[id] = other.Context(std::move(moved));
  }
  other.Begin();
  for (const Item& item : items(configuration)) other.new_items_.push_back({item.state, copies[item.context]});
  other.new_may_end_ = may_end(configuration);
  return other.AddConfiguration();
}

}  // namespace qamserve::constraint
