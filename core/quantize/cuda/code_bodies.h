// What one thread does to turn normalized weights into codes, and codes into packed strips. For host and device, as
// row_bodies.h, which says what a body is.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/codec/half.h"
#include "core/codec/packing.h"
#include "core/codec/trellis.h"

namespace qamserve {

// Codes of strips of 32 rows, a ring of 32 for each pair of columns: [strips][pairs][32].
struct CodeRings {
  uint16_t* codes;
  int64_t pairs;
  QAMSERVE_HOST_DEVICE uint16_t* Ring(int64_t strip, int64_t pair) const {
    return codes + (strip * pairs + pair) * kTileRows;
  }
  QAMSERVE_HOST_DEVICE uint16_t& At(int64_t row, int64_t pair) const {
    return Ring(row / kTileRows, pair)[row % kTileRows];
  }
};

// The magnitudes of a codebook in units of sigma. NearestPoint (core/codec/codebook.h) looks at the few that can be
// nearest in a cell; here all are looked at, by the same float distance and with the same ties, so the code is the
// same: what a cell leaves out is farther by more than distances are rounded.
struct PointTable {
  const float* x;
  const float* y;
  int count;
  int magnitude_bits;

  // The code nearest to (x, y), which become the point. Codes are as MakeCode's.
  QAMSERVE_HOST_DEVICE uint32_t Encode(float& tx, float& ty) const {
    const float ax = fabsf(tx), ay = fabsf(ty);
    int best = 0;
    float best_distance = Distance(0, ax, ay);
#if defined(__CUDA_ARCH__)
#pragma unroll 8
#endif
    for (int i = 1; i < count; ++i) {
      const float distance = Distance(i, ax, ay);
      const bool nearer = distance < best_distance;
      best_distance = nearer ? distance : best_distance;
      best = nearer ? i : best;
    }
    const uint32_t signs = BitsOfFloat(tx) >> 31 | BitsOfFloat(ty) >> 31 << 1;
    tx = copysignf(x[best], tx);
    ty = copysignf(y[best], ty);
    return static_cast<uint32_t>(best) | signs << magnitude_bits;
  }

 private:
  QAMSERVE_HOST_DEVICE float Distance(int i, float ax, float ay) const {
    const float dx = ax - x[i], dy = ay - y[i];
    return dx * dx + dy * dy;
  }
};

// Without feedback: codes and decoded weights of a pair, as EncodeRow has it (core/codec/joint.cc). Body of (row,
// pair).
struct NearestCodes {
  PointTable points;
  const float* rows;
  float* decoded;
  int64_t cols;
  const uint16_t* norms;
  CodeRings rings;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row, int64_t pair) const {
    const int64_t at = row * cols + 2 * pair;
    const bool alone = 2 * pair + 1 == cols;  // an odd last column is paired with 0
    const float norm = HalfToFloat(norms[row]);
    float x = 0, y = 0;
    uint32_t code = 0;
    if (norm != 0.0f) {
      const float inverse = 1.0f / norm;
      x = rows[at] * inverse;
      y = (alone ? 0.0f : rows[at + 1]) * inverse;
      code = points.Encode(x, y);
    }
    rings.At(row, pair) = static_cast<uint16_t>(code);
    decoded[at] = x * norm;
    if (!alone) decoded[at + 1] = y * norm;
  }
};

// Targets of a trellis in its steps, ring by ring. Body of (strip, pair x 32 + row in the strip).
struct TrellisTargets {
  const float* values;  // [padded rows][cols]
  int64_t cols;
  float step;
  float* x;  // [strips][pairs][32]
  float* y;
  QAMSERVE_HOST_DEVICE void operator()(int64_t strip, int64_t i) const {
    const int64_t at = (strip * kTileRows + i % kTileRows) * cols + i / kTileRows * 2;
    const int64_t to = strip * (cols / 2) * kTileRows + i;
    x[to] = values[at] / step;
    y[to] = values[at + 1] / step;
  }
};

// The state of row r of a ring.
QAMSERVE_HOST_DEVICE inline uint32_t RingState(const uint16_t* ring, int pair_bits, int64_t r) {
  uint32_t state = 0;
  const int rows = (kTrellisStateBits + pair_bits - 1) / pair_bits;
  for (int back = rows - 1; back >= 0; --back) {
    state = NextTrellisState(state, ring[(r - back) & (kTileRows - 1)], pair_bits);
  }
  return state;
}

// What the codes of a trellis decode to, in standard deviations. Body of (row, pair).
struct TrellisValues {
  CodeRings rings;
  int pair_bits;
  float step;
  float* values;
  int64_t cols;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row, int64_t pair) const {
    const uint32_t state = RingState(rings.Ring(row / kTileRows, pair), pair_bits, row % kTileRows);
    values[row * cols + 2 * pair] = static_cast<float>(TrellisValue(state, 0)) * step;
    values[row * cols + 2 * pair + 1] = static_cast<float>(TrellisValue(state, 1)) * step;
  }
};

// Packs the eight codes that share the bytes n of a tile. Body of (strip, tile x 128 + n); `packed` is zeroed. Rows
// from `count` on get code 0.
struct PackCodes {
  CodeRings rings;
  int pair_bits;
  int64_t count;
  uint8_t* packed;
  int64_t strip_bytes;
  QAMSERVE_HOST_DEVICE void operator()(int64_t strip, int64_t i) const {
    const int64_t tile = i / kTileLine;
    const int n = static_cast<int>(i % kTileLine), r = n / 4;
    if (strip * kTileRows + r >= count) return;
    uint8_t* to = packed + strip * strip_bytes + tile * TileBytes(pair_bits);
    for (int v = 0; v < kTilePairs / 4; ++v) {
      const int c = 4 * v + n % 4;
      const int64_t pair = tile * kTilePairs + c;
      if (pair < rings.pairs) PackCode(to, pair_bits, r, c, rings.Ring(strip, pair)[r]);
    }
  }
};

}  // namespace qamserve
