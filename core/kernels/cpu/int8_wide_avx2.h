// Products of 8-bit weights and 14-bit activations for AVX2. Included only by avx2.cc.
//
// A 32-bit lane of a line holds columns 0 to 3 of one row. Shifts make signed words of columns 0 and 2 and of columns 1
// and 3; each pair meets its two activations in vpmaddwd, whose 32-bit sums are exact.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/codec/int8_packing.h"
#include "core/kernels/cpu/int8_avx2.h"
#include "core/kernels/kernels.h"

namespace qamserve::avx2 {

// Adds `lines` lines to the sums of 32 rows for each token.
template <int kTokens>
inline void AddInt8WideLines(const int8_t* w, const int16_t* q, int64_t stride, int64_t lines, __m256i (*sums)[4]) {
  const __m256i even_columns = _mm256_set1_epi32(0x05040100), odd_columns = _mm256_set1_epi32(0x07060302);
  __m256i s[kTokens][4];
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < 4; ++i) s[t][i] = sums[t][i];
  }
  for (int64_t line = 0; line < lines; ++line, w += kTileLine, q += kInt8LineCols) {
    _mm_prefetch(reinterpret_cast<const char*>(w + kInt8Prefetch), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(w + kInt8Prefetch + 64), _MM_HINT_T0);
    __m256i even_acts[kTokens], odd_acts[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      int64_t four;
      __builtin_memcpy(&four, q + t * stride, sizeof(four));
      const __m256i acts = _mm256_set1_epi64x(four);
      even_acts[t] = _mm256_shuffle_epi8(acts, even_columns);
      odd_acts[t] = _mm256_shuffle_epi8(acts, odd_columns);
    }
    for (int i = 0; i < 4; ++i) {
      const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * i));
      const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8), odd = _mm256_srai_epi16(weights, 8);
      for (int t = 0; t < kTokens; ++t) {
        const __m256i products =
            _mm256_add_epi32(_mm256_madd_epi16(even, even_acts[t]), _mm256_madd_epi16(odd, odd_acts[t]));
        s[t][i] = _mm256_add_epi32(s[t][i], products);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < 4; ++i) sums[t][i] = s[t][i];
  }
}

// A strip for tokens [t, t + kTokens).
template <int kTokens>
inline void Int8WideStrip(const Int8WideMatmulArgs& a, int64_t strip, int64_t t) {
  const int64_t padded = PaddedCols(a.w.cols);
  const int8_t* w = a.w.data + strip * Int8StripBytes(a.w.cols);
  const int16_t* q = a.x.q + t * a.x.stride;
  __m256 totals[kTokens][4] = {};
  for (int64_t begin = 0; begin < padded; begin += kInt8WideBlockCols) {
    const int64_t end = padded - begin < kInt8WideBlockCols ? padded : begin + kInt8WideBlockCols;
    __m256i sums[kTokens][4] = {};
    AddInt8WideLines<kTokens>(w + begin * kTileRows, q + begin, a.x.stride, (end - begin) / kInt8LineCols, sums);
    for (int j = 0; j < kTokens; ++j) {
      for (int i = 0; i < 4; ++i) totals[j][i] = _mm256_add_ps(totals[j][i], _mm256_cvtepi32_ps(sums[j][i]));
    }
  }
  for (int j = 0; j < kTokens; ++j) StoreInt8Rows(a, strip, t + j, totals[j]);
}

// Two tokens fill the registers: their sums, four vectors of activations, two of weights.
inline void Int8WideMatmul(const Int8WideMatmulArgs& a) {
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    int64_t t = 0;
    for (; t + 2 <= a.x.tokens; t += 2) Int8WideStrip<2>(a, strip, t);
    if (t < a.x.tokens) Int8WideStrip<1>(a, strip, t);
  }
}

}  // namespace qamserve::avx2
