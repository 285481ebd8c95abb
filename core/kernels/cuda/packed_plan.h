// Which kernels a packed product is cut into: pure arithmetic, tested without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/kernels/cuda/packed_warp.h"
#include "core/kernels/cuda/packed_wide_block.h"

namespace qamserve {

inline constexpr int kMostNarrowTokens = 16;

// Shared memory that a block of each kernel wants: of 1, 2, 4, 8 and 16 tokens, and of kWideTokens with kMostWideWarps
// warps and with half of them.
struct PackedNeeds {
  int64_t narrow[5] = {};
  int64_t wide = 0;
  int64_t wide_half = 0;
};

// What a device has.
struct PackedRoom {
  int64_t shared_bytes = 0;  // of a block
  int64_t multiprocessors = 0;
};

// First groups of kWideTokens tokens, then groups of `narrow`.
struct PackedPlan {
  int64_t wide_groups = 0;
  int wide_warps = 0;
  int64_t wide_tokens = 0;
  int narrow = 0;  // 0: none fits the device
};

// Prompts. Worth it where blocks of half the warps fill half the multiprocessors: below that the matrix is read again
// for every 16 tokens sooner than a few multiprocessors have multiplied it. Not measured yet.
inline void PlanWide(int64_t tokens, int64_t strips, const PackedNeeds& needs, const PackedRoom& room,
                     PackedPlan& plan) {
  const int64_t rest = tokens % kWideTokens, groups = tokens / kWideTokens + (rest > kWideTokens / 2 ? 1 : 0);
  if (tokens < kWideTokens || needs.wide_half > room.shared_bytes) return;
  if (strips * groups < room.multiprocessors * (kMostWideWarps / 4)) return;
  const bool fills = strips * groups >= room.multiprocessors * kMostWideWarps;
  plan.wide_groups = groups;
  plan.wide_warps = fills && needs.wide <= room.shared_bytes ? kMostWideWarps : kMostWideWarps / 2;
  plan.wide_tokens = std::min(tokens, groups * kWideTokens);
}

inline PackedPlan PlanPacked(int64_t tokens, int64_t strips, const PackedNeeds& needs, const PackedRoom& room) {
  PackedPlan plan;
  PlanWide(tokens, strips, needs, room, plan);
  for (int i = 0; i < 5 && needs.narrow[i] <= room.shared_bytes; ++i) {
    plan.narrow = 1 << i;
    if (plan.narrow >= tokens - plan.wide_tokens) break;
  }
  return plan;
}

inline int64_t PackedSteps(int64_t cols) { return (TilesAcross(cols) + kStepTiles - 1) / kStepTiles; }

// Bytes of the fragments of any plan for so many tokens.
inline int64_t PackedScratchBytes(int64_t cols, int64_t tokens) {
  const int64_t unit = tokens <= kMostNarrowTokens ? kMostNarrowTokens : kWideTokens;
  return PackedSteps(cols) * FragmentStepBytes(1) * ((tokens + unit - 1) / unit * unit);
}

}  // namespace qamserve
