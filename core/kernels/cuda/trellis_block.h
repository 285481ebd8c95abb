// The search of core/kernels/trellis_search.h as one block of threads does it, for several rings of 32 rows at once.
//
// A block is kThreads threads that go through the same phases with a barrier between any two; each phase is a function
// of the thread's number and of the memory that the block shares, for host and device, so that a test on any machine
// can run all threads of a phase one after the other and must get TrellisSearch's codes. Costs are the same integers
// and ties go the same way.
//
// What a state decodes to is computed, once for all rings of a block. With t the target and v the values of a state,
// |v - t|^2 = |v|^2 - 2 t v + |t|^2: the first term is the state's, the last goes into the cost of entering, so a state
// of a ring costs two multiply-adds and a minimum. Sums wrap around in between; what is compared fits uint32.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/codec/trellis.h"
#include "core/kernels/cuda/bytes.h"
#include "core/kernels/trellis_cost.h"

namespace qamserve {

// min(a + b, least), one instruction from Hopper on.
QAMSERVE_HOST_DEVICE inline uint32_t AddThenLeast(uint32_t a, uint32_t b, uint32_t least) {
#if defined(__CUDA_ARCH__)
  return __viaddmin_u32(a, b, least);
#else
  return a + b < least ? a + b : least;
#endif
}

// Only where threads of a block may meet. The host runs them one after the other.
QAMSERVE_HOST_DEVICE inline void LowerTo(uint32_t* least, uint32_t value) {
#if defined(__CUDA_ARCH__)
  atomicMin(least, value);
#else
  if (value < *least) *least = value;
#endif
}

// Rings that a block searches at most: bounded by the memory of `from`, 16 to 128 KiB, so that the largest block (b =
// 7, 162 KiB) fits an A100's 163 KiB.
QAMSERVE_HOST_DEVICE inline constexpr int MostTrellisRings(int pair_bits) {
  return pair_bits == 5 ? 2 : pair_bits == 6 ? 4 : 8;
}

// Instructions of a state that a block's rings share, and of each ring: together the 45 of 8 rings that were counted
// (trellis_kernel.cu).
inline constexpr int64_t kTrellisSharedCost = 12;
inline constexpr int64_t kTrellisRingCost = 4;

// Rings of a block, a power of 2, with which so many rings are done first: few blocks of many rings share the most,
// many blocks of few leave no multiprocessor without one. Error feedback asks for as few rings at a time as a panel has
// strips.
inline constexpr int TrellisRingsOfBlock(int pair_bits, int64_t rings, int64_t multiprocessors) {
  int best = MostTrellisRings(pair_bits);
  int64_t least = INT64_MAX;
  for (int of_block = best; of_block >= 1; of_block /= 2) {
    const int64_t blocks = (rings + of_block - 1) / of_block;
    const int64_t cost =
        (blocks + multiprocessors - 1) / multiprocessors * (kTrellisSharedCost + of_block * kTrellisRingCost);
    if (cost >= least) continue;
    best = of_block;
    least = cost;
  }
  return best;
}

// The memory that a block shares, and its phases. Rings beyond `count` of a last block search for zeros and are not
// written.
template <int kBits, int kRingsOfBlock = MostTrellisRings(kBits)>
struct TrellisBlock {
  static constexpr int kThreads = 512;
  static constexpr int kGroups = 1 << (kTrellisStateBits - kBits);  // see TrellisTable
  static constexpr int kTops = 1 << kBits;                          // states of a group
  static constexpr uint32_t kGroupMask = kGroups - 1;
  static constexpr int kRings = kRingsOfBlock;
  // A thread looks at kItems states of each of kSlots groups, the states of a group being shared by kChunks threads.
  static constexpr int kSlots = kGroups > kThreads ? kGroups / kThreads : 1;
  static constexpr int kChunks = kGroups < kThreads ? kThreads / kGroups : 1;
  static constexpr int kItems = kTops / kChunks;
  static_assert(kBits >= kMinTrellisPairBits && kBits <= kMaxTrellisPairBits);
  static_assert(kItems <= 1 << kTrellisItemBits && kThreads % kRings == 0);
  // b bits name the state of a group that a path came through.
  using From = std::conditional_t<kBits <= 8, uint8_t, uint16_t>;

  // Read and written by 16 bytes where there are so many.
  struct alignas(kRings < 4 ? 4 * kRings : 16) PerRing {
    uint32_t of[kRings];
  };

  PerRing cost[kGroups];  // of paths that end in a group; then of entering from it
  PerRing partial[kChunks][kGroups];
  PerRing factor[2][kTileRows];  // -2 t in units of a cost, of even and odd columns
  From from[kTileRows][kGroups][kRings];
  uint32_t least[2][kRings];  // of `cost`, by the parity of the step that subtracts it
  uint32_t group[kRings];     // at the seam: before the first row and after the last

  // Phase: targets [count][32] of the block's rings.
  QAMSERVE_HOST_DEVICE void LoadTargets(int thread, const float* x, const float* y, int count) {
    for (int i = thread; i < kTileRows * kRings; i += kThreads) {
      const int ring = i / kTileRows, row = i % kTileRows;
      factor[0][row].of[ring] = FactorOf(ring < count ? TrellisTarget(x[i]) : 0);
      factor[1][row].of[ring] = FactorOf(ring < count ? TrellisTarget(y[i]) : 0);
    }
  }
  QAMSERVE_HOST_DEVICE static uint32_t FactorOf(int target) {
    return static_cast<uint32_t>(-2 * target) << kTrellisItemBits;
  }
  QAMSERVE_HOST_DEVICE static int TargetOf(uint32_t factor) {
    return -static_cast<int32_t>(factor) / (2 << kTrellisItemBits);
  }

  // Phase: a run that may begin anywhere, or one that begins in `group`.
  QAMSERVE_HOST_DEVICE void Begin(int thread, bool free) {
    for (int i = thread; i < kGroups * kRings; i += kThreads) {
      const int g = i / kRings, ring = i % kRings;
      cost[g].of[ring] = free || group[ring] == static_cast<uint32_t>(g) ? 0 : kTrellisMaxCost;
    }
    if (thread < kRings) least[0][thread] = 0;
  }

  // Phase: costs become those of entering `row` from a group, with |t|^2.
  QAMSERVE_HOST_DEVICE void Enter(int thread, int step, int row) {
    const int ring = thread % kRings;
    const int tx = TargetOf(factor[0][row].of[ring]), ty = TargetOf(factor[1][row].of[ring]);
    const auto square = static_cast<uint32_t>(tx * tx + ty * ty);
    const uint32_t lowest = least[step & 1][ring];
    for (int g = thread / kRings; g < kGroups; g += kThreads / kRings) {
      const uint32_t above = cost[g].of[ring] - lowest;
      cost[g].of[ring] = ((above < kTrellisMaxCost ? above : kTrellisMaxCost) + square) << kTrellisItemBits;
    }
    if (thread < kRings) least[(step + 1) & 1][ring] = ~uint32_t{0};
  }

  // Phase: the cheapest of this thread's states of its groups, for every ring.
  QAMSERVE_HOST_DEVICE void Scan(int thread, int row) {
    const PerRing fx = factor[0][row], fy = factor[1][row];
    for (int slot = 0; slot < kSlots; ++slot) {
      const int g = slot * kThreads + (thread & static_cast<int>(kGroupMask));
      const int chunk = thread / kGroups;  // 0 where a group is one thread's
      const uint32_t first = static_cast<uint32_t>(chunk * kItems) << (kTrellisStateBits - kBits);
      PerRing best;
      for (int r = 0; r < kRings; ++r) best.of[r] = ~uint32_t{0};
#if defined(__CUDA_ARCH__)
#pragma unroll 4
#endif
      for (uint32_t item = 0; item < kItems; ++item) {
        const uint32_t state = (first + (item << (kTrellisStateBits - kBits))) | static_cast<uint32_t>(g);
        const int32_t vx = TrellisValueByBytes<0>(state), vy = TrellisValueByBytes<1>(state);
        const uint32_t own = (static_cast<uint32_t>(vx * vx + vy * vy) << kTrellisItemBits) + item;
        const PerRing entry = cost[state >> kBits];
        for (int r = 0; r < kRings; ++r) {
          const uint32_t sum =
              entry.of[r] + fx.of[r] * static_cast<uint32_t>(vx) + fy.of[r] * static_cast<uint32_t>(vy);
          best.of[r] = AddThenLeast(sum, own, best.of[r]);
        }
      }
      partial[chunk][g] = best;
    }
  }

  // Phase: the cheapest of all states of each group; of the least, the first.
  QAMSERVE_HOST_DEVICE void Merge(int thread, int step) {
    const int ring = thread % kRings;
    uint32_t lowest = ~uint32_t{0};
    for (int g = thread / kRings; g < kGroups; g += kThreads / kRings) {
      uint32_t best = partial[0][g].of[ring];
      int chunk = 0;
      for (int c = 1; c < kChunks; ++c) {
        if (partial[c][g].of[ring] >> kTrellisItemBits >= best >> kTrellisItemBits) continue;
        best = partial[c][g].of[ring];
        chunk = c;
      }
      const uint32_t total = best >> kTrellisItemBits;
      cost[g].of[ring] = total;
      from[step][g][ring] = static_cast<From>(static_cast<uint32_t>(chunk * kItems) + (best & (kTrellisCostUnit - 1)));
      lowest = total < lowest ? total : lowest;
    }
    LowerTo(&least[(step + 1) & 1][ring], lowest);
  }

  // Two phases, after the last step of a free run: the first of the groups where the cheapest path ends.
  QAMSERVE_HOST_DEVICE void ForgetEnd(int thread) {
    if (thread < kRings) group[thread] = ~uint32_t{0};
  }
  QAMSERVE_HOST_DEVICE void FindEnd(int thread) {
    const int ring = thread % kRings;
    const uint32_t lowest = least[kTileRows & 1][ring];
    for (int g = thread / kRings; g < kGroups; g += kThreads / kRings) {
      if (cost[g].of[ring] == lowest) LowerTo(&group[ring], static_cast<uint32_t>(g));
    }
  }

  // One step back along the path of a ring that is in `at` after `step`: the state of that row.
  QAMSERVE_HOST_DEVICE uint32_t StateBefore(int step, int ring, uint32_t at) const {
    return static_cast<uint32_t>(from[step][at][ring]) << (kTrellisStateBits - kBits) | at;
  }

  // Phase, after the free run: goes back to the seam, which the closed run begins and ends at.
  QAMSERVE_HOST_DEVICE void TraceToSeam(int thread) {
    if (thread >= kRings) return;
    uint32_t at = group[thread];
    for (int step = kTileRows - 1; step >= kTrellisSeamRows; --step) at = StateBefore(step, thread, at) >> kBits;
    group[thread] = at;
  }

  // Phase, after the closed run: codes [count][32].
  QAMSERVE_HOST_DEVICE void TraceCodes(int thread, uint16_t* codes, int count) const {
    if (thread >= count) return;
    uint32_t at = group[thread];
    for (int step = kTileRows - 1; step >= 0; --step) {
      const uint32_t state = StateBefore(step, thread, at);
      codes[thread * kTileRows + step] = static_cast<uint16_t>(state & (kTops - 1));
      at = state >> kBits;
    }
  }
};

// All of a block's phases in order. each(f) calls f(thread) for every thread of the block and returns when all are
// done.
template <int kBits, int kRings, typename Each>
QAMSERVE_HOST_DEVICE inline void SearchTrellisBlock(TrellisBlock<kBits, kRings>& block, const float* x, const float* y,
                                                    uint16_t* codes, int count, const Each& each) {
  each([&](int thread) { block.LoadTargets(thread, x, y, count); });
  for (int run = 0; run < 2; ++run) {
    const bool free = run == 0;
    each([&](int thread) { block.Begin(thread, free); });
    for (int step = 0; step < kTileRows; ++step) {
      const int row = free ? (step + kTileRows - kTrellisSeamRows) % kTileRows : step;
      each([&](int thread) { block.Enter(thread, step, row); });
      each([&](int thread) { block.Scan(thread, row); });
      each([&](int thread) { block.Merge(thread, step); });
    }
    if (free) {
      each([&](int thread) { block.ForgetEnd(thread); });
      each([&](int thread) { block.FindEnd(thread); });
      each([&](int thread) { block.TraceToSeam(thread); });
    }
  }
  each([&](int thread) { block.TraceCodes(thread, codes, count); });
}

}  // namespace qamserve
