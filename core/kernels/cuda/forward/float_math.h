// The float arithmetic of core/kernels (cpu/float_kernels.inc), one number at a time, for host and device. Device code
// is built with exactly rounded division and square root, with subnormals and without contraction, so bits agree.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/codec/packing.h"
#if !defined(__CUDA_ARCH__)
#include <bit>

#include "core/codec/half.h"
#endif

namespace qamserve {

inline constexpr int kLanes = 8;

QAMSERVE_HOST_DEVICE inline float FusedMultiplyAdd(float a, float b, float c) { return fmaf(a, b, c); }
QAMSERVE_HOST_DEVICE inline float RoundToEven(float x) { return rintf(x); }
QAMSERVE_HOST_DEVICE inline float Magnitude(float x) { return fabsf(x); }

// Of lanes `stride` floats apart.
QAMSERVE_HOST_DEVICE inline float AddLanes(const float* v, int stride = 1) {
  return ((v[0] + v[4 * stride]) + (v[2 * stride] + v[6 * stride])) +
         ((v[stride] + v[5 * stride]) + (v[3 * stride] + v[7 * stride]));
}

// 2^n for whole n in [-126, 127].
QAMSERVE_HOST_DEVICE inline float PowerOfTwo(float n) {
  const int32_t bits = (static_cast<int32_t>(n) + 127) * (1 << 23);
#if defined(__CUDA_ARCH__)
  return __int_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

QAMSERVE_HOST_DEVICE inline float ExpNonPositive(float x) {
  x = x > -87.0f ? x : -87.0f;
  const float n = RoundToEven(x * 1.44269504f);
  float r = FusedMultiplyAdd(n, -0.693359375f, x);
  r = FusedMultiplyAdd(n, 2.12194440e-4f, r);
  float p = 1.0f / 5040;
  p = FusedMultiplyAdd(p, r, 1.0f / 720);
  p = FusedMultiplyAdd(p, r, 1.0f / 120);
  p = FusedMultiplyAdd(p, r, 1.0f / 24);
  p = FusedMultiplyAdd(p, r, 1.0f / 6);
  p = FusedMultiplyAdd(p, r, 0.5f);
  p = FusedMultiplyAdd(p, r, 1.0f);
  p = FusedMultiplyAdd(p, r, 1.0f);
  return p * PowerOfTwo(n);
}

QAMSERVE_HOST_DEVICE inline float Sigmoid(float x) {
  const float e = ExpNonPositive(0.0f - Magnitude(x));
  return x < 0 ? e / (1.0f + e) : 1.0f / (1.0f + e);
}

// silu(gate) * up, or tanh-GELU(gate) * up.
QAMSERVE_HOST_DEVICE inline float GateTimes(float gate, float up, bool gelu) {
  if (!gelu) return gate * Sigmoid(gate) * up;
  const float cube = gate * gate * gate;
  const float u = 0.797884561f * FusedMultiplyAdd(0.044715f, cube, gate);
  return gate * Sigmoid(u + u) * up;
}

QAMSERVE_HOST_DEVICE inline float FloatOfHalf(uint16_t bits) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return HalfToFloat(bits);
#endif
}
QAMSERVE_HOST_DEVICE inline float FloatOfBFloat16(uint16_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
#else
  return BFloat16ToFloat(bits);
#endif
}

}  // namespace qamserve
