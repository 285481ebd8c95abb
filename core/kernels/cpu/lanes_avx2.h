// Eight floats in one AVX register. Include only where AVX2, FMA and F16C are enabled.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace qamserve::avx2 {

using Lanes = __m256;

inline Lanes Set(float x) { return _mm256_set1_ps(x); }
inline Lanes Load(const float* p) { return _mm256_loadu_ps(p); }
inline Lanes LoadHalf(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Lanes LoadBFloat16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline void Store(float* p, Lanes a) { _mm256_storeu_ps(p, a); }
inline Lanes Add(Lanes a, Lanes b) { return _mm256_add_ps(a, b); }
inline Lanes Sub(Lanes a, Lanes b) { return _mm256_sub_ps(a, b); }
inline Lanes Mul(Lanes a, Lanes b) { return _mm256_mul_ps(a, b); }
inline Lanes Div(Lanes a, Lanes b) { return _mm256_div_ps(a, b); }
inline Lanes Max(Lanes a, Lanes b) { return _mm256_max_ps(a, b); }
inline Lanes Min(Lanes a, Lanes b) { return _mm256_min_ps(a, b); }
inline Lanes Fma(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
inline Lanes RoundToNearestEven(Lanes a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Lanes Abs(Lanes a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline Lanes PowerOfTwo(Lanes n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline float ReduceAdd(Lanes a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));  // 0+4 1+5 2+6 3+7
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float ReduceMax(Lanes a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline __m128i ToInt16(Lanes a) {
  const __m256i wide = _mm256_cvtps_epi32(a);
  return _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
}
inline void StoreInts(int16_t* p, Lanes a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), ToInt16(a)); }
inline void StoreInts(int8_t* p, Lanes a) {
  const __m128i narrow = ToInt16(a);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(narrow, narrow));
}

}  // namespace qamserve::avx2
