// The integer costs of a trellis search, the same on every device. A squared distance in units of TrellisStep takes 21
// bits; it is scaled by kTrellisCostUnit so that the low bits of a cost can name the state that it came from.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/codec/trellis.h"

namespace qamserve {

inline constexpr int kTrellisItemBits = 10;
inline constexpr uint32_t kTrellisCostUnit = uint32_t{1} << kTrellisItemBits;
// A step adds at most (2 x 510)^2 x 2 = 2.08e6 units; a cost that is cut off at this still fits uint32 after it.
inline constexpr uint32_t kTrellisMaxCost = (uint32_t{1} << 21) - 1;
static_assert((uint64_t{kTrellisMaxCost} + 8u * kTrellisMaxValue * kTrellisMaxValue + 1) * kTrellisCostUnit <=
              uint64_t{1} << 32);
// Rows before and after the seam that the free search looks at: 16 lose 0.07 dB to trying every state, 6 lose 0.24 dB
// (4 bits a weight).
inline constexpr int kTrellisSeamRows = 16;

// A target in whole units (1/148 of a standard deviation), ties to even, at most kTrellisMaxValue. Not for NaN.
QAMSERVE_HOST_DEVICE inline int TrellisTarget(float v) {
  const auto limit = static_cast<float>(kTrellisMaxValue);
  v = v < -limit ? -limit : limit < v ? limit : v;
  return static_cast<int>(nearbyintf(v));
}

}  // namespace qamserve
