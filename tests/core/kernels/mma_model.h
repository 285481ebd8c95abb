// A model of the GPU's matrix instruction.
#pragma once

#include <cstdint>
#include <vector>

#include "core/codec/half.h"

namespace qamserve {

inline float LowHalf(uint32_t halves) { return HalfToFloat(static_cast<uint16_t>(halves)); }
inline float HighHalf(uint32_t halves) { return HalfToFloat(static_cast<uint16_t>(halves >> 16)); }

// mma.m16n8k16 as the PTX manual lays out its fragments: of lane 4 g + t, a[0] is row g, columns 2 t and 2 t + 1, a[1]
// row g + 8, a[2] and a[3] the same rows 8 columns on; b[0] is rows 2 t and 2 t + 1 of column g, b[1] 8 rows on; c[0],
// c[1] are row g, columns 2 t and 2 t + 1, c[2], c[3] row g + 8.
struct Lane32 {
  uint32_t a[4];
  uint32_t b[2];
  float c[4];
};
inline void ModelOfMma(std::vector<Lane32>& lanes) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      a[g + 8 * (i % 2)][2 * t + 8 * (i / 2)] = LowHalf(lanes[static_cast<size_t>(lane)].a[i]);
      a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + 1] = HighHalf(lanes[static_cast<size_t>(lane)].a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = LowHalf(lanes[static_cast<size_t>(lane)].b[i]);
      b[2 * t + 8 * i + 1][g] = HighHalf(lanes[static_cast<size_t>(lane)].b[i]);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      float& c = lanes[static_cast<size_t>(lane)].c[i];
      for (int k = 0; k < 16; ++k) c += a[lane / 4 + 8 * (i / 2)][k] * b[k][2 * (lane % 4) + i % 2];
    }
  }
}

}  // namespace qamserve
