// Runs a program over text and tells which tokens may come next. Not thread-safe: constraint.cc locks it.
//
// The tokens that a configuration allows are found by walking the trie of the vocabulary beside the stack store. Most
// of that is kept: for a configuration, and for a *place*, which is a state and the repetitions around it without what
// waits below. A place knows the tokens that end within its rule, and the nodes of the trie at which the rule can end;
// only from those on does it matter who called. So the tokens within a string are found once, whatever the string is
// part of.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "core/constraint/stack_store.h"
#include "core/constraint/token_trie.h"

namespace qamserve::constraint {

// Bit t of word t / 64 is token t.
using TokenBits = std::vector<uint64_t>;

struct AllowedTokens {
  TokenBits bits;
  bool any = false;
};

// Where somebody is in a text. A copy is another reader at the same place.
struct Reading {
  std::shared_ptr<StackStore> store;
  uint32_t configuration = kDead;

  bool may_end() const { return store->may_end(configuration); }
  bool may_go_on() const { return !store->items(configuration).empty(); }
};

class Machine {
 public:
  static constexpr size_t kMaxStoreBytes = size_t{8} << 20;
  // Both must outlive the machine. Tests set a lower limit.
  Machine(const Program& program, const TokenTrie& trie, size_t max_store_bytes = kMaxStoreBytes);

  // All return RESOURCE_EXHAUSTED (CONSTRAINT_SIZE) if the program is too ambiguous or nests too deeply for the limits
  // of StackStore.
  absl::StatusOr<Reading> Start();
  // False, and nothing has changed, if `bytes` cannot follow.
  absl::StatusOr<bool> Read(Reading& reading, std::string_view bytes);
  absl::StatusOr<std::shared_ptr<const AllowedTokens>> Allowed(Reading& reading);

 private:
  static constexpr size_t kMaxKeptBytes = size_t{4} << 20;  // of the tokens of configurations, and as much of places
  // Nodes of the trie that finding the tokens of one configuration may visit: some 0.1 s.
  static constexpr size_t kMaxVisits = size_t{1} << 24;
  // With more ways than these one walk for all is cheaper than a look at the place of each.
  static constexpr size_t kMaxPlaces = 16;

  // The state, then each repetition around it with its count.
  using PlaceKey = std::vector<uint32_t>;
  struct Place {
    TokenBits bits;
    std::vector<uint32_t> exits;  // nodes of the trie with children
  };

  absl::Status MakeCurrent(Reading& reading);
  uint32_t CountThatMatters(const State& repeat, uint32_t count) const;
  absl::StatusOr<std::shared_ptr<const AllowedTokens>> Find(StackStore& store, uint32_t configuration);
  absl::StatusOr<std::shared_ptr<const Place>> PlaceOf(StackStore& store, const Item& item, uint32_t& below);
  absl::StatusOr<std::shared_ptr<const Place>> FindPlace(StackStore& store, const PlaceKey& key);
  template <typename Visit>
  absl::Status Walk(StackStore& store, uint32_t configuration, uint32_t begin, uint32_t end, uint32_t depth,
                    Visit visit);
  void Allow(const TokenTrie::Node& node, TokenBits& bits) const;

  const Program& program_;
  const TokenTrie& trie_;
  const size_t max_store_bytes_;
  std::shared_ptr<StackStore> store_;
  absl::flat_hash_map<uint32_t, std::shared_ptr<const AllowedTokens>> allowed_;  // by configuration of store_
  absl::flat_hash_map<PlaceKey, std::shared_ptr<const Place>> places_;
  size_t place_bytes_ = 0;
  size_t visits_ = 0;           // of the current call
  std::vector<uint32_t> path_;  // of Walk: configurations by depth
};

}  // namespace qamserve::constraint
