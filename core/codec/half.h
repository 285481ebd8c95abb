// IEEE 754 binary16 and bfloat16 <-> float, exact or rounded to nearest even, without hardware help. Shared by host
// code of every instruction set and device code, so that norms and scales are the same everywhere.
#pragma once

#include <bit>
#include <cstdint>

#include "core/codec/packing.h"

namespace qamserve {

// The compiler's own cast: device code may not call std::bit_cast.
QAMSERVE_HOST_DEVICE inline float FloatOfBits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
QAMSERVE_HOST_DEVICE inline uint32_t BitsOfFloat(float value) { return __builtin_bit_cast(uint32_t, value); }

QAMSERVE_HOST_DEVICE inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  uint32_t exponent = (half >> 10) & 0x1fu;
  uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) return FloatOfBits(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {
    // mantissa x 2^-24, exact in float
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return FloatOfBits(sign | BitsOfFloat(magnitude));
  }
  return FloatOfBits(sign | (exponent + 112) << 23 | mantissa << 13);
}

QAMSERVE_HOST_DEVICE inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = BitsOfFloat(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds past 65504
  if (magnitude < 0x38800000u) {                        // below 2^-14: a multiple of 2^-24
    const float scaled = FloatOfBits(magnitude) * 0x1p24f;
    auto units = static_cast<uint32_t>(scaled);
    const float rest = scaled - static_cast<float>(units);
    if (rest > 0.5f || (rest == 0.5f && (units & 1))) ++units;
    return static_cast<uint16_t>(sign | units);
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// Infinity for what rounds past the largest of them, about 3.39e38.
inline uint16_t FloatToBFloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float BFloat16ToFloat(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

}  // namespace qamserve
