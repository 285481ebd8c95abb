// How a warp multiplies a strip of 32 rows of 8-bit weights (core/codec/int8_packing.h) by activations. For host and
// device, as packed_warp.h.
//
// A step is 64 columns, 16 lines. Lane 4 g + t reads rows 4 g .. 4 g + 3 of lines 4 t .. 4 t + 3, one line at a time,
// so that a warp reads whole lines; its 16 columns lie beside each other, so that one read gives a token's activations.
// Products of four bytes are one instruction. Lanes of one g are added at the end. Activations of 14 bits are two
// planes of bytes, hi and lo (ActivationPart), whose sums make 128 hi + lo; sums wrap around in between.
#pragma once

#include <cstdint>

#include "core/codec/int8_packing.h"

namespace qamserve {

inline constexpr int kInt8StepCols = kTileCols;
inline constexpr int kInt8LaneLines = 4;
// A round is a block of kInt8WideBlockCols columns, of which 16 warps take two steps each.
inline constexpr int kInt8RoundCols = 2048;
inline constexpr int kInt8WarpSteps = 2;
inline constexpr int kInt8Warps = kInt8RoundCols / kInt8StepCols / kInt8WarpSteps;

// Where in its strip line i (0..3) of a lane lies, for the step that begins at `col`.
QAMSERVE_HOST_DEVICE inline int64_t Int8LaneOffset(int64_t col, int lane, int i) {
  return (col / kInt8LineCols + kInt8LaneLines * (lane & 3) + i) * kTileLine + 16 * (lane >> 2);
}
// The first of a lane's 16 columns, from the beginning of the step.
QAMSERVE_HOST_DEVICE inline int Int8LaneCol(int lane) { return 16 * (lane & 3); }

// sum + the four products of signed bytes.
QAMSERVE_HOST_DEVICE inline int32_t DotBytes(uint32_t a, uint32_t b, int32_t sum) {
#if defined(__CUDA_ARCH__)
  return __dp4a(static_cast<int>(a), static_cast<int>(b), sum);
#else
  for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return sum;
#endif
}

QAMSERVE_HOST_DEVICE inline uint32_t FourBytes(int a, int b, int c, int d) {
  return (static_cast<uint32_t>(a) & 255u) | (static_cast<uint32_t>(b) & 255u) << 8 |
         (static_cast<uint32_t>(c) & 255u) << 16 | static_cast<uint32_t>(d) << 24;
}

}  // namespace qamserve
