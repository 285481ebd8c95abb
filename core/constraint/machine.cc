#include "core/constraint/machine.h"

#include <algorithm>
#include <utility>

namespace qamserve::constraint {

Machine::Machine(const Program& program, const TokenTrie& trie, size_t max_store_bytes)
    : program_(program),
      trie_(trie),
      max_store_bytes_(max_store_bytes),
      store_(std::make_shared<StackStore>(program)),
      path_(trie.max_depth() + 1) {}

absl::StatusOr<Reading> Machine::Start() {
  store_->ResetWork();
  store_->ClearError();
  const uint32_t configuration = store_->Start();
  RETURN_IF_ERROR(store_->error());
  return Reading{store_, configuration};
}

// A store that has grown too large is left behind: readers move to a new one when they next do something, and the last
// one frees it.
absl::Status Machine::MakeCurrent(Reading& reading) {
  if (store_->bytes() > max_store_bytes_) {
    store_ = std::make_shared<StackStore>(program_);
    allowed_.clear();
  }
  store_->ResetWork();
  store_->ClearError();
  if (reading.store == store_) return absl::OkStatus();
  const size_t before = store_->bytes();
  reading.configuration = reading.store->CopyTo(*store_, reading.configuration);
  reading.store = store_;
  // One that fills a store by itself would be copied again and again.
  if (store_->bytes() - before > max_store_bytes_ / 2) {
    return ResourceExhausted("CONSTRAINT_SIZE", "what waits for its end takes more than {} bytes",
                             max_store_bytes_ / 2);
  }
  return store_->error();
}

absl::StatusOr<bool> Machine::Read(Reading& reading, std::string_view bytes) {
  RETURN_IF_ERROR(MakeCurrent(reading));
  uint32_t at = reading.configuration;
  for (size_t i = 0; i < bytes.size() && at != kDead; ++i) at = store_->Next(at, static_cast<uint8_t>(bytes[i]));
  RETURN_IF_ERROR(store_->error());
  if (at == kDead) return false;
  reading.configuration = at;
  return true;
}

absl::StatusOr<std::shared_ptr<const AllowedTokens>> Machine::Allowed(Reading& reading) {
  RETURN_IF_ERROR(MakeCurrent(reading));
  const auto found = allowed_.find(reading.configuration);
  if (found != allowed_.end()) return found->second;
  visits_ = 0;
  ASSIGN_OR_RETURN(std::shared_ptr<const AllowedTokens> allowed, Find(*store_, reading.configuration));
  const size_t bytes = allowed->bits.size() * sizeof(uint64_t) + 64;
  if (allowed_.size() * bytes >= kMaxKeptBytes) allowed_.clear();
  allowed_[reading.configuration] = allowed;
  return allowed;
}

void Machine::Allow(const TokenTrie::Node& node, TokenBits& bits) const {
  for (const uint32_t token : trie_.tokens_at(node)) bits[token / 64] |= uint64_t{1} << (token % 64);
}

// Visits the nodes of [begin, end) that can be read after `configuration`, which stands at `depth`; visit(index, node,
// configuration behind it).
template <typename Visit>
absl::Status Machine::Walk(StackStore& store, uint32_t configuration, uint32_t begin, uint32_t end, uint32_t depth,
                           Visit visit) {
  const std::span<const TokenTrie::Node> nodes = trie_.nodes();
  path_[depth] = configuration;
  for (uint32_t i = begin; i < end;) {
    const TokenTrie::Node& node = nodes[i];
    ++visits_;
    const uint32_t next = store.Next(path_[node.depth - 1u], node.byte);
    if (next == kDead) {
      i = node.end;
      continue;
    }
    visit(i, node, next);
    path_[node.depth] = next;
    ++i;
  }
  if (visits_ > kMaxVisits) {
    return ResourceExhausted("CONSTRAINT_SIZE",
                             "the constraint is too ambiguous: its next tokens take more than {} looks", kMaxVisits);
  }
  return store.error();
}

absl::StatusOr<std::shared_ptr<const AllowedTokens>> Machine::Find(StackStore& store, uint32_t configuration) {
  const auto allowed = std::make_shared<AllowedTokens>();
  allowed->bits.assign((static_cast<size_t>(trie_.size()) + 63) / 64, 0);
  const auto allow = [&](uint32_t, const TokenTrie::Node& node, uint32_t) { Allow(node, allowed->bits); };
  const std::span<const Item> own = store.items(configuration);
  const std::vector<Item> items(own.begin(), own.end());
  if (items.size() > kMaxPlaces) {
    RETURN_IF_ERROR(Walk(store, configuration, 0, static_cast<uint32_t>(trie_.nodes().size()), 0, allow));
  } else {
    for (const Item& item : items) {
      uint32_t below = kBottom;
      ASSIGN_OR_RETURN(const std::shared_ptr<const Place> place, PlaceOf(store, item, below));
      for (size_t i = 0; i < allowed->bits.size(); ++i) allowed->bits[i] |= place->bits[i];
      if (below == kBottom || place->exits.empty()) continue;
      const std::span<const Frame> frames = store.frames(below);
      const uint32_t outside = store.Settle(std::vector<Frame>(frames.begin(), frames.end()));
      for (const uint32_t exit : place->exits) {
        const TokenTrie::Node& node = trie_.nodes()[exit];
        RETURN_IF_ERROR(Walk(store, outside, exit + 1, node.end, node.depth, allow));
      }
    }
  }
  RETURN_IF_ERROR(store.error());
  allowed->any = std::ranges::any_of(allowed->bits, [](uint64_t word) { return word != 0; });
  return std::shared_ptr<const AllowedTokens>(allowed);
}

// The same count, or one that no token of the vocabulary can tell from it: each repetition reads a byte at least.
uint32_t Machine::CountThatMatters(const State& repeat, uint32_t count) const {
  const uint64_t reach = uint64_t{trie_.max_depth()} + 1;
  const auto from = [&](uint32_t limit) { return limit > reach ? static_cast<uint32_t>(limit - reach) : 0; };
  if (count < repeat.min) return std::max(count, from(repeat.min));
  return repeat.max == kUnbounded ? repeat.min : std::max(count, from(repeat.max));
}

// `below` receives the context that waits for the rule which the place is part of.
absl::StatusOr<std::shared_ptr<const Machine::Place>> Machine::PlaceOf(StackStore& store, const Item& item,
                                                                       uint32_t& below) {
  constexpr size_t kMaxRepeats = 4;
  PlaceKey key = {item.state};
  below = item.context;
  while (below != kBottom && key.size() < 1 + 2 * kMaxRepeats) {
    const std::span<const Frame> frames = store.frames(below);
    if (frames.size() != 1 || program_.states[frames[0].state].kind != State::Kind::kRepeat) break;
    key.push_back(frames[0].state);
    key.push_back(CountThatMatters(program_.states[frames[0].state], frames[0].count));
    below = frames[0].context;
  }
  const auto found = places_.find(key);
  if (found != places_.end()) return found->second;
  ASSIGN_OR_RETURN(std::shared_ptr<const Place> place, FindPlace(store, key));
  const size_t bytes = place->bits.size() * sizeof(uint64_t) + place->exits.size() * sizeof(uint32_t) + 128;
  if (place_bytes_ + bytes > kMaxKeptBytes) {
    places_.clear();
    place_bytes_ = 0;
  }
  place_bytes_ += bytes;
  places_[key] = place;
  return place;
}

absl::StatusOr<std::shared_ptr<const Machine::Place>> Machine::FindPlace(StackStore& store, const PlaceKey& key) {
  // Bottom stands for whoever waits: where the text may end, the rule may.
  uint32_t context = kBottom;
  for (size_t i = key.size(); i > 1; i -= 2) context = store.Context({Frame{key[i - 2], key[i - 1], context}});
  const auto place = std::make_shared<Place>();
  place->bits.assign((static_cast<size_t>(trie_.size()) + 63) / 64, 0);
  const uint32_t start = store.Single({key[0], context});
  RETURN_IF_ERROR(Walk(store, start, 0, static_cast<uint32_t>(trie_.nodes().size()), 0,
                       [&](uint32_t index, const TokenTrie::Node& node, uint32_t next) {
                         Allow(node, place->bits);
                         if (store.may_end(next) && node.end > index + 1) place->exits.push_back(index);
                       }));
  return std::shared_ptr<const Place>(place);
}

}  // namespace qamserve::constraint
