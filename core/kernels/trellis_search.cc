#include "core/kernels/trellis_search.h"

#include <algorithm>

#include "core/kernels/trellis_cost.h"

namespace qamserve {
namespace {

// Points and targets are scaled so that squared distances leave the low bits of a cost to the item.
constexpr int kPointScale = 32;
static_assert(kTrellisCostUnit == kPointScale * kPointScale);
static_assert(2 * kTrellisMaxValue * kPointScale <= 32767, "differences must fit int16");

int32_t Point(int x, int y) {
  return static_cast<int32_t>((static_cast<uint32_t>(x) & 0xffffu) | static_cast<uint32_t>(y) << 16);
}

int32_t TargetPoint(float x, float y) {
  return Point(TrellisTarget(x) * kPointScale, TrellisTarget(y) * kPointScale);
}

}  // namespace

TrellisTable::TrellisTable(int pair_bits) : pair_bits_(pair_bits), groups_(1 << (kTrellisStateBits - pair_bits)) {
  constexpr int kStates = 1 << kTrellisStateBits;
  items_ = std::min(kMaxItems, kStates / std::max(groups_, kLanes));
  if (2 * pair_bits <= kTrellisStateBits) items_ = 1 << pair_bits;
  blocks_ = kStates / (items_ * kLanes);
  // Up to 8 bits, blocks of the same low bits of the group before share costs; from 9 on all blocks but those that go
  // on where kMaxItems ended do.
  share_ = 2 * pair_bits <= kTrellisStateBits ? (1 << pair_bits) / kLanes : std::max(1, groups_ / kLanes);
  for (int slice = 0; slice < blocks_ / share_; ++slice) {
    for (int item = 0; item < items_; ++item) {
      // The same for every lane of the blocks that share the slice.
      before_.push_back(static_cast<uint16_t>(StateOf(slice * share_, item, 0) >> pair_bits));
    }
  }
  points_.resize(kStates);
  for (int block = 0; block < blocks_; ++block) {
    for (int item = 0; item < items_; ++item) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint32_t state = StateOf(block, item, lane);
        points_[static_cast<size_t>((int64_t{block} * items_ + item) * kLanes + lane)] =
            Point(TrellisValue(state, 0) * kPointScale, TrellisValue(state, 1) * kPointScale);
      }
    }
  }
}

// A state is (group before << b) | code. Its own group is its low 16 - b bits, what is above them tells it from the
// others of the group.
uint32_t TrellisTable::StateOf(int block, int item, int lane) const {
  const uint32_t group = GroupOf(block, lane);
  return (TopOf(block, item) << (kTrellisStateBits - pair_bits_)) | group;
}

uint32_t TrellisTable::GroupOf(int block, int lane) const {
  return static_cast<uint32_t>((block * kLanes + lane) % groups_);
}

uint32_t TrellisTable::TopOf(int block, int item) const {
  return static_cast<uint32_t>(block * kLanes / groups_ * items_ + item);
}

TrellisSearch::TrellisSearch(const TrellisTable& table, const Kernels& kernels)
    : table_(table),
      kernels_(kernels),
      cost_(static_cast<size_t>(table.groups_)),
      entry_(table.before_.size()),
      best_(static_cast<size_t>(table.blocks_ * kTrellisLanes)),
      from_(static_cast<size_t>(2 * kTileRows * table.groups_)) {}

void TrellisSearch::Step(int32_t target, uint16_t* from) {
  for (size_t i = 0; i < entry_.size(); ++i) {
    const uint32_t item = static_cast<uint32_t>(i) & static_cast<uint32_t>(table_.items_ - 1);  // a power of two
    entry_[i] = std::min(cost_[table_.before_[i]], kTrellisMaxCost) << kTrellisItemBits | item;
  }
  kernels_.trellis_step({.points = table_.points_.data(),
                         .entries = entry_.data(),
                         .blocks = table_.blocks_,
                         .items = table_.items_,
                         .share = table_.share_,
                         .target = target,
                         .best = best_.data()});
  const auto groups = static_cast<size_t>(table_.groups_);
  constexpr uint32_t kItemMask = (1u << kTrellisItemBits) - 1;
  for (size_t g = 0; g < groups; ++g) {
    cost_[g] = best_[g] >> kTrellisItemBits;
    from[g] = static_cast<uint16_t>(best_[g] & kItemMask);
  }
  // At 11 bits a group goes on where kMaxItems ended: the first of the least wins.
  for (size_t other = groups; other < best_.size(); ++other) {
    const size_t g = other % groups;
    if (best_[other] >> kTrellisItemBits >= cost_[g]) continue;
    cost_[g] = best_[other] >> kTrellisItemBits;
    from[g] = static_cast<uint16_t>(other / groups * static_cast<size_t>(table_.items_) + (best_[other] & kItemMask));
  }
  uint32_t least = ~uint32_t{0};
  for (uint32_t cost : cost_) least = std::min(least, cost);
  for (uint32_t& cost : cost_) cost -= least;
}

void TrellisSearch::Run(int first, int count, int start, uint32_t* states) {
  std::fill(cost_.begin(), cost_.end(), start < 0 ? 0 : kTrellisMaxCost);
  if (start >= 0) cost_[static_cast<size_t>(start)] = 0;
  const auto groups = static_cast<size_t>(table_.groups_);
  for (int i = 0; i < count; ++i)
    Step(targets_[(first + i) % kTileRows], from_.data() + static_cast<size_t>(i) * groups);
  uint32_t group = start >= 0 ? static_cast<uint32_t>(start)
                              : static_cast<uint32_t>(std::min_element(cost_.begin(), cost_.end()) - cost_.begin());
  const int b = table_.pair_bits_;
  for (int i = count - 1; i >= 0; --i) {
    states[i] =
        static_cast<uint32_t>(from_[static_cast<size_t>(i) * groups + group]) << (kTrellisStateBits - b) | group;
    group = states[i] >> b;
  }
}

void TrellisSearch::Encode(const float* x, const float* y, uint16_t* codes) {
  for (int r = 0; r < kTileRows; ++r) targets_[r] = TargetPoint(x[r], y[r]);
  uint32_t states[2 * kTrellisSeamRows + kTileRows];
  Run(kTileRows - kTrellisSeamRows, 2 * kTrellisSeamRows, -1, states);
  Run(0, kTileRows, static_cast<int>(states[kTrellisSeamRows] >> table_.pair_bits_), states);
  for (int r = 0; r < kTileRows; ++r) {
    codes[r] = static_cast<uint16_t>(states[r] & ((1u << table_.pair_bits_) - 1));
  }
}

}  // namespace qamserve
