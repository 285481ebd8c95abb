// How a warp multiplies a strip of 32 rows of packed codes by activations: which bytes a lane reads, what they decode
// to, where that goes in the matrix instruction and how exact sums come out. For host and device, so that a test on any
// machine can run 32 lanes and a model of the instruction against the scalar reference.
//
// A step is 256 columns, four tiles. Lane 4 g + t reads rows 4 g .. 4 g + 3 of tile t: 16 bytes of every line, so that
// a warp reads whole lines. The instruction is mma.m16n8k16 (half x half, summed in float) with weights as A, and
// columns of B that are the parts of tokens. For k-step s (0..15), which is pairs 2 s and 2 s + 1 of each tile, and
// half h of a lane's rows:
//   A   a0 row 4 g + 2 h, pair 2 s     a1 row 4 g + 2 h + 1, pair 2 s     a2, a3 the same rows, pair 2 s + 1
//   B   b0 column g: activations of pair 2 s of tile t                    b1 those of pair 2 s + 1
//   C   c0, c1 row 4 g + 2 h, columns 2 t, 2 t + 1                        c2, c3 row 4 g + 2 h + 1
// The instruction's own order of k and rows does not matter as long as A, B and C agree, so nothing is moved.
//
// Sums are exact: an activation of 14 bits is 128 hi + lo with |hi|, |lo| <= 64, the two being neighbouring columns of
// B; weights are at most 510, so a sum over a step is below 2^23 and each product and partial sum is a whole number
// that float holds. 128 C[hi] + C[lo] then is the integer that the reference sums.
#pragma once

#include <cstdint>

#include "core/codec/packing.h"
#include "core/codec/trellis.h"
#include "core/kernels/cuda/bytes.h"
#include "core/kernels/kernels.h"
#if !defined(__CUDA_ARCH__)
#include "core/codec/half.h"
#endif

namespace qamserve {

inline constexpr int kStepTiles = 4;
inline constexpr int64_t kStepCols = kStepTiles * kTileCols;  // half a block of kPackedBlockCols
inline constexpr int kMmaSteps = kTilePairs / 2;
inline constexpr int kLaneRows = 4;
inline constexpr int kGroupPairs = 4;  // pairs that share a byte line
inline constexpr int kPairGroups = kTilePairs / kGroupPairs;

// Half precision bits of a whole number up to 2048.
QAMSERVE_HOST_DEVICE inline uint32_t HalfOfInt(int v) {
#if defined(__CUDA_ARCH__)
  unsigned short bits;
  asm("cvt.rn.f16.s32 %0, %1;" : "=h"(bits) : "r"(v));
  return bits;
#else
  return FloatToHalf(static_cast<float>(v));
#endif
}

QAMSERVE_HOST_DEVICE inline uint32_t ShiftLeft(uint32_t x, int by) { return by >= 0 ? x << by : x >> -by; }

// A line of a tile holds a 32-bit word for each row. A lane sees the words of its four rows, kBack rows above them
// first.
template <int kBits, int kBackRows>
struct PackedLane {
  static constexpr int kBack = kBackRows;
  static constexpr int kRows = kBack + kLaneRows;
  static constexpr int kBaseLines = BaseLines(kBits);
  static constexpr int kExtra = kBits - kBaseLines;  // lines of single bits: as many as bits beyond the base's 8 or 4
  uint32_t base[kBaseLines][kRows];
  uint32_t extra[kExtra > 0 ? kExtra : 1][kRows];

  // Bit e of the extra lines of pairs 4 v .. 4 v + 3, each at bit `to` of its byte.
  QAMSERVE_HOST_DEVICE uint32_t ExtraBits(int e, int row, int v, int to) const {
    return ShiftLeft(extra[e][row], to - v) & (0x01010101u << to);
  }
  // The low 8 bits of the codes of pairs 4 v .. 4 v + 3, a byte each.
  QAMSERVE_HOST_DEVICE uint32_t CodeBytes(int row, int v) const {
    if (kBaseLines == 8) return base[v % kBaseLines][row];
    uint32_t bytes = base[v & 3][row] >> (v >= 4 ? 4 : 0) & 0x0f0f0f0fu;
    for (int e = 0; e < kExtra; ++e) bytes |= ExtraBits(e, row, v, kBaseLines + e);
    return bytes;
  }
};

// What codes become in half precision: half2 (even column in the low half) of lane rows 0..3, pairs 4 v .. 4 v + 3.

// Codes that name entries of a table in shared memory, of which every lane has a copy in its own bank: entry i of lane
// l is the word at TableOffset(i) + 4 l. From 10 bits on a table has one quadrant and codes have signs.
template <int kBits>
struct TableDecoder {
  using Lane = PackedLane<kBits, 0>;
  static constexpr int kBitsOfRate = kBits;
  static constexpr bool kSigned = kBits >= 10;
  static constexpr int kEntryBits = kSigned ? kBits - 2 : kBits;
  static constexpr int kEntries = 1 << kEntryBits;
  // Code bits 0..7 are address bits 8..15, bit 8 is bit 7, bit 9 is bit 16: an address is made of bytes as they lie.
  QAMSERVE_HOST_DEVICE static uint32_t TableOffset(uint32_t entry) {
    return (entry & 255u) << 8 | (entry >> 8 & 1u) << 7 | (entry >> 9 & 1u) << 16;
  }
  static constexpr uint32_t kTableBytes = kEntryBits == 10 ? 131072 : kEntryBits >= 8 ? 65536 : 256 << kEntryBits;
  static constexpr int kMaxWeight = kBits <= 9 ? 127 : 255;  // see PackedMatrix

  QAMSERVE_HOST_DEVICE static void Decode(const Lane& lane, int v, uint32_t lane_offset, const unsigned char* table,
                                          uint32_t (&out)[kLaneRows][kGroupPairs]) {
    for (int row = 0; row < kLaneRows; ++row) {
      const uint32_t bytes = lane.CodeBytes(row, v);
      uint32_t low = lane_offset;  // of every pair's address, a byte each
      if (kEntryBits >= 9) low = lane_offset * 0x01010101u | lane.ExtraBits(0, row, v, 7);
      for (int pair = 0; pair < kGroupPairs; ++pair) {
        uint32_t address;
        if (kEntryBits < 9) {
          address = PickBytes(bytes, low, 0x5504u | static_cast<uint32_t>(pair) << 4);  // bytes 1..3 of low are 0
        } else {
          const uint32_t two = PickBytes(bytes, low, pair < 2 ? 0x1504u : 0x3726u);
          address = pair % 2 == 0 ? two & 0xffffu : two >> 16;
        }
        if constexpr (kEntryBits >= 10) address |= (lane.extra[1][row] >> (8 * pair + v) & 1u) << 16;
        out[row][pair] = *reinterpret_cast<const uint32_t*>(table + address) ^ Signs(lane, row, v, pair);
      }
    }
  }
  // Sign bits where a half2 has them.
  QAMSERVE_HOST_DEVICE static uint32_t Signs(const Lane& lane, int row, int v, int pair) {
    if constexpr (!kSigned) {
      return 0;
    } else {
      constexpr int kX = Lane::kExtra - 2, kY = Lane::kExtra - 1;
      const uint32_t both = PickBytes(lane.extra[kX][row], lane.extra[kY][row], pair < 2 ? 0x5410u : 0x7632u);
      return both << (15 - 8 * (pair % 2) - v) & 0x80008000u;
    }
  }
};

// This thread's share of a block's table, from one of a codebook's form (PackedMatrix).
template <typename Decoder>
QAMSERVE_HOST_DEVICE inline void FillTable(const int32_t* table, unsigned char* shared, int thread, int threads) {
  if constexpr (Decoder::kTableBytes > 0) {
    for (int i = thread; i < 32 * Decoder::kEntries; i += threads) {
      const int32_t entry = table[i / 32];
      const uint32_t halves = HalfOfInt(static_cast<int16_t>(entry & 0xffff)) | HalfOfInt(entry >> 16) << 16;
      *reinterpret_cast<uint32_t*>(shared + Decoder::TableOffset(static_cast<uint32_t>(i / 32)) + 4 * (i % 32)) =
          halves;
    }
  }
}

// half2 of a trellis state, of which bits above the 16th do not matter. A sum of four bytes is below 1024: as the
// mantissa of a half between 1024 and 2048 it is 1024 too large.
QAMSERVE_HOST_DEVICE inline uint32_t TrellisHalves(uint32_t state) {
  constexpr uint32_t kThousand = 0x6400;  // 1024
  const uint32_t sums =
      AddBytes(TrellisBytes<0>(state), kThousand) + (AddBytes(TrellisBytes<1>(state), kThousand) << 16);
#if defined(__CUDA_ARCH__)
  constexpr uint32_t kOffset = 0xe5fee5fe;  // -(1024 + kTrellisMaxValue), twice
  uint32_t halves;
  asm("add.f16x2 %0, %1, %2;" : "=r"(halves) : "r"(sums), "r"(kOffset));
  return halves;
#else
  const float offset = 1024 + kTrellisMaxValue;
  return FloatToHalf(HalfToFloat(static_cast<uint16_t>(sums)) - offset) |
         static_cast<uint32_t>(FloatToHalf(HalfToFloat(static_cast<uint16_t>(sums >> 16)) - offset)) << 16;
#endif
}

// Codes of a trellis, which need those of the rows above.
template <int kBits>
struct TrellisDecoder {
  static constexpr int kBitsOfRate = kBits;
  static constexpr int kBack = (kTrellisStateBits + kBits - 1) / kBits - 1;
  using Lane = PackedLane<kBits, kBack>;
  static constexpr uint32_t kTableBytes = 0;
  static constexpr int kMaxWeight = kTrellisMaxValue;

  // The code of a pair; with 8 bits or more, bytes 2 and 3 are noise.
  QAMSERVE_HOST_DEVICE static uint32_t Code(const Lane& lane, int row, int v, int pair) {
    const uint32_t bytes = lane.CodeBytes(row, v);
    const auto at = static_cast<uint32_t>(pair);
    if (kBits <= 8) return PickBytes(bytes, 0, 0x4440u | at);
    uint32_t high = 0;
    for (int e = 0; e < kBits - 8; ++e) high |= lane.ExtraBits(e, row, v, e);
    return PickBytes(bytes, high, 0x4040u | at | at << 4);
  }
  QAMSERVE_HOST_DEVICE static uint32_t State(const Lane& lane, int row, int v, int pair) {
    if (kBits == 8) {  // as it lies: this row's byte below the one above it
      const auto at = static_cast<uint32_t>(pair);
      return PickBytes(lane.CodeBytes(row, v), lane.CodeBytes(row - 1, v), 0x0040u | at | at << 4);
    }
    uint32_t state = 0;
    for (int back = kBack; back >= 0; --back) state = (state << kBits) + Code(lane, row - back, v, pair);
    return state;
  }
  QAMSERVE_HOST_DEVICE static void Decode(const Lane& lane, int v, uint32_t, const unsigned char*,
                                          uint32_t (&out)[kLaneRows][kGroupPairs]) {
    for (int row = 0; row < kLaneRows; ++row) {
      for (int pair = 0; pair < kGroupPairs; ++pair) out[row][pair] = TrellisHalves(State(lane, kBack + row, v, pair));
    }
  }
};

// Activations. The fragments of B lie [step][s][column of B][t], b0 below b1; a token is two columns, hi and lo.
QAMSERVE_HOST_DEVICE inline int ActivationPart(int q, int part) {
  const int low = ((q + 64) & 127) - 64;
  return part == 0 ? (q - low) >> 7 : low;
}
// The first of the four columns of the matrix whose activations lane 4 g + t has in b0 and b1.
QAMSERVE_HOST_DEVICE inline int64_t FragmentCol(int64_t step, int s, int t) {
  return step * kStepCols + t * kTileCols + 4 * s;
}
// The i-th pair of words b0, b1 in the order above, of a step's `tokens` tokens; those that x does not have are zeros.
QAMSERVE_HOST_DEVICE inline void MakeFragment(const PackedInput& x, int64_t padded, int tokens, int64_t i,
                                              uint32_t (&words)[2]) {
  const int t = static_cast<int>(i % kStepTiles), column = static_cast<int>(i / kStepTiles % (2 * tokens));
  const int64_t step_and_s = i / kStepTiles / (2 * tokens);
  const int64_t col = FragmentCol(step_and_s / kMmaSteps, static_cast<int>(step_and_s % kMmaSteps), t);
  words[0] = words[1] = 0;
  if (column / 2 >= x.tokens || col >= padded) return;
  const int16_t* q = x.q + column / 2 * x.stride + col;
  for (int k = 0; k < 4; ++k) words[k / 2] |= HalfOfInt(ActivationPart(q[k], column % 2)) << (16 * (k % 2));
}
// Bytes of the fragments of a step.
QAMSERVE_HOST_DEVICE inline constexpr int64_t FragmentStepBytes(int tokens) {
  return int64_t{kMmaSteps} * (2 * tokens) * kStepTiles * 8;
}

// Steps of a round: a block of threads holds the activations of one at a time, and each of its warps does one step.
inline constexpr int kRoundSteps = 16;
inline constexpr int64_t kRoundCols = kRoundSteps * kStepCols;

// The integer sum of a row and a token over a step, of what the instruction gave for its two columns.
QAMSERVE_HOST_DEVICE inline int32_t StepSum(float hi, float lo) {
  return 128 * static_cast<int32_t>(hi) + static_cast<int32_t>(lo);
}

// Adds the steps of a round to the sum of the blocks before it, in the reference's order: two steps are a block of
// kPackedBlockCols and add as integers, blocks add as floats. sum(i) is that of the round's i-th step.
template <typename Sum>
QAMSERVE_HOST_DEVICE inline float AddRound(float total, int steps, const Sum& sum) {
  for (int i = 0; i < steps; i += 2) {
    const int32_t block = i + 1 < steps ? sum(i) + sum(i + 1) : sum(i);
    total += static_cast<float>(block);
  }
  return total;
}

}  // namespace qamserve
