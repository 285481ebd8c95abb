// The trellis code: what a pair of weights becomes depends on its own code and on those of the rows above it.
//
// Codes of b bits (5 to 11) lie in the packed layout (core/codec/packing.h) exactly as codebook codes do. Down the 32
// rows of a strip, the codes of one pair of columns form a ring of 32 b bits; the state of a row is the last 16 of them
// that end with its own code, so row 0 reads on from row 31 ("tail-biting") and every strip can be read alone. A state
// is hashed to the two values of the pair: each is the sum of the four bytes of two 16-bit products, less its mean,
// which is close to a Gaussian. Nothing is looked up. The bitshift trellis and computed codes are those of QTIP (Tseng
// et al., arXiv 2406.11235); the pair of outputs, the ring and this hash are ours, the multipliers were searched for
// the least error on a Gaussian source at 3, 4 and 5.5 bits a weight together.
#pragma once

#include <cstdint>

#include "core/codec/packing.h"

namespace qamserve {

inline constexpr int kTrellisStateBits = 16;
inline constexpr int kMinTrellisPairBits = 5;
inline constexpr int kMaxTrellisPairBits = 11;
inline constexpr int kTrellisMaxValue = 510;  // of |value|
// value = byte sum of (state x A mod 2^16) + byte sum of (state x B + C mod 2^16) - kTrellisMaxValue
inline constexpr uint16_t kTrellisA[2] = {0xa361, 0x4bd9};
inline constexpr uint16_t kTrellisB[2] = {0x1913, 0x85b9};
inline constexpr uint16_t kTrellisC[2] = {0xcad3, 0x86aa};

QAMSERVE_HOST_DEVICE inline int TrellisByteSum(uint32_t hash) {
  return static_cast<int>(hash & 255u) + static_cast<int>((hash >> 8) & 255u);
}

// The value of the even (0) or odd (1) column of a pair in this state, in units of TrellisStep.
QAMSERVE_HOST_DEVICE inline int TrellisValue(uint32_t state, int column) {
  constexpr uint32_t a[2] = {kTrellisA[0], kTrellisA[1]}, b[2] = {kTrellisB[0], kTrellisB[1]},
                     c[2] = {kTrellisC[0], kTrellisC[1]};
  return TrellisByteSum(state * a[column]) + TrellisByteSum(state * b[column] + c[column]) - kTrellisMaxValue;
}

// The state after `code` in state `before`.
QAMSERVE_HOST_DEVICE inline uint32_t NextTrellisState(uint32_t before, uint32_t code, int pair_bits) {
  return ((before << pair_bits) | code) & 0xffffu;
}

// The state of row r, pair c of a tile.
QAMSERVE_HOST_DEVICE inline uint32_t TrellisState(const uint8_t* tile, int pair_bits, int r, int c) {
  uint32_t state = 0;
  const int rows = (kTrellisStateBits + pair_bits - 1) / pair_bits;
  for (int back = rows - 1; back >= 0; --back) {
    state = NextTrellisState(state, UnpackCode(tile, pair_bits, (r - back) & (kTileRows - 1), c), pair_bits);
  }
  return state;
}

// One unit of a value in standard deviations of the source, and the mean squared error a weight of the search on a
// Gaussian source. REQUIRES: kMinTrellisPairBits <= pair_bits <= kMaxTrellisPairBits.
float TrellisStep(int pair_bits);
double TrellisGaussianMse(int pair_bits);

}  // namespace qamserve
