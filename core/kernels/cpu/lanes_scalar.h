// Eight floats in plain C++: the meaning that lanes_avx2.inc must match bit for bit.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/codec/half.h"

namespace qamserve::scalar {

struct Lanes {
  float v[8];
};

template <typename Op>
inline Lanes Map(Lanes a, Lanes b, Op op) {
  Lanes r;
  for (int i = 0; i < 8; ++i) r.v[i] = op(a.v[i], b.v[i]);
  return r;
}

inline Lanes Set(float x) { return {{x, x, x, x, x, x, x, x}}; }
inline Lanes Load(const float* p) {
  Lanes r;
  for (int i = 0; i < 8; ++i) r.v[i] = p[i];
  return r;
}
inline Lanes LoadHalf(const uint16_t* p) {
  Lanes r;
  for (int i = 0; i < 8; ++i) r.v[i] = HalfToFloat(p[i]);
  return r;
}
inline Lanes LoadBFloat16(const uint16_t* p) {
  Lanes r;
  for (int i = 0; i < 8; ++i) r.v[i] = BFloat16ToFloat(p[i]);
  return r;
}
inline void Store(float* p, Lanes a) {
  for (int i = 0; i < 8; ++i) p[i] = a.v[i];
}
inline Lanes Add(Lanes a, Lanes b) {
  return Map(a, b, [](float x, float y) { return x + y; });
}
inline Lanes Sub(Lanes a, Lanes b) {
  return Map(a, b, [](float x, float y) { return x - y; });
}
inline Lanes Mul(Lanes a, Lanes b) {
  return Map(a, b, [](float x, float y) { return x * y; });
}
inline Lanes Div(Lanes a, Lanes b) {
  return Map(a, b, [](float x, float y) { return x / y; });
}
// As vmaxps and vminps: the second operand if either is NaN.
inline Lanes Max(Lanes a, Lanes b) {
  return Map(a, b, [](float x, float y) { return x > y ? x : y; });
}
inline Lanes Min(Lanes a, Lanes b) {
  return Map(a, b, [](float x, float y) { return x < y ? x : y; });
}
inline Lanes Fma(Lanes a, Lanes b, Lanes c) {
  Lanes r;
  for (int i = 0; i < 8; ++i) r.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
  return r;
}
inline Lanes RoundToNearestEven(Lanes a) {
  return Map(a, a, [](float x, float) { return std::nearbyint(x); });
}
inline Lanes Abs(Lanes a) {
  return Map(a, a, [](float x, float) { return std::fabs(x); });
}
// 2^n for whole n in [-126, 127].
inline Lanes PowerOfTwo(Lanes n) {
  return Map(n, n, [](float x, float) { return std::bit_cast<float>((static_cast<int32_t>(x) + 127) << 23); });
}
inline float ReduceAdd(Lanes a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
inline float ReduceMax(Lanes a) {
  float m = a.v[0];
  for (int i = 1; i < 8; ++i) m = a.v[i] > m ? a.v[i] : m;
  return m;
}
// Whole numbers within the type.
template <typename Int>
inline void StoreInts(Int* p, Lanes a) {
  for (int i = 0; i < 8; ++i) p[i] = static_cast<Int>(a.v[i]);
}

}  // namespace qamserve::scalar
