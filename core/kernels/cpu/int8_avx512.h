// Products of 8-bit weights with 8-bit and with 14-bit activations for AVX-512. Included only by avx512.cc.
#pragma once

#include "core/codec/int8_packing.h"
#include "core/kernels/cpu/codes_avx512.h"

namespace qamserve::avx512 {

constexpr int64_t kInt8Prefetch = 8192;  // bytes of weights ahead of use, as for AVX2

inline void PrefetchLine(const int8_t* w) {
  _mm_prefetch(reinterpret_cast<const char*>(w + kInt8Prefetch), _MM_HINT_T0);
  _mm_prefetch(reinterpret_cast<const char*>(w + kInt8Prefetch + 64), _MM_HINT_T0);
}

// Sum of `cols` activations, a multiple of 64.
inline int32_t SumOf(const int8_t* q, int64_t cols) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t c = 0; c < cols; c += 64) sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), LoadBytes(q + c));
  return _mm512_reduce_add_epi32(sum);
}

// A block of columns of a strip. vpdpbusd multiplies unsigned by signed bytes: weights are raised by 128, and 128 times
// the activations' sum taken off again. What overflows on the way comes back: all sums are modulo 2^32.
template <int kTokens>
inline void AddInt8Block(const int8_t* w, const int8_t* q, int64_t stride, int64_t cols, __m512 (*totals)[2]) {
  const __m512i raise = _mm512_set1_epi8(static_cast<char>(-128));
  __m512i s[kTokens][2] = {};
  for (int64_t c = 0; c < cols; c += kInt8LineCols, w += kTileLine) {
    PrefetchLine(w);
    const __m512i first = _mm512_xor_si512(LoadBytes(w), raise), second = _mm512_xor_si512(LoadBytes(w + 64), raise);
    for (int t = 0; t < kTokens; ++t) {
      int32_t four;
      __builtin_memcpy(&four, q + t * stride + c, sizeof(four));
      s[t][0] = _mm512_dpbusd_epi32(s[t][0], first, SetDword(four));
      s[t][1] = _mm512_dpbusd_epi32(s[t][1], second, SetDword(four));
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    const auto sum = static_cast<uint32_t>(SumOf(q + t * stride, cols));
    const __m512i raised = SetDword(static_cast<int32_t>(128 * sum));
    for (int i = 0; i < 2; ++i) s[t][i] = _mm512_sub_epi32(s[t][i], raised);
    FlushBlock(s[t], totals[t]);
  }
}

// The same with 14-bit activations: weights become words, those of columns 0 and 2 and those of 1 and 3, and meet their
// two activations in vpdpwssd. Up to two tokens each has sums of its own: with one chain of additions, one token was
// slower than with AVX2. At four, two sums cost an eighth.
template <int kTokens>
inline void AddInt8Block(const int8_t* w, const int16_t* q, int64_t stride, int64_t cols, __m512 (*totals)[2]) {
  constexpr int kOdd = kTokens <= 2 ? 2 : 0;
  const __m512i even_columns = SetDword(0x05040100), odd_columns = SetDword(0x07060302);
  __m512i s[kTokens][kOdd + 2] = {};
  for (int64_t c = 0; c < cols; c += kInt8LineCols, w += kTileLine) {
    PrefetchLine(w);
    __m512i even[2], odd[2];
    for (int i = 0; i < 2; ++i) {
      const __m512i weights = LoadBytes(w + 64 * i);
      even[i] = _mm512_srai_epi16(_mm512_slli_epi16(weights, 8), 8);
      odd[i] = _mm512_srai_epi16(weights, 8);
    }
    for (int t = 0; t < kTokens; ++t) {
      int64_t four;
      __builtin_memcpy(&four, q + t * stride + c, sizeof(four));
      const __m512i activations = _mm512_set1_epi64(four);
      const __m512i even_activations = _mm512_shuffle_epi8(activations, even_columns);
      const __m512i odd_activations = _mm512_shuffle_epi8(activations, odd_columns);
      for (int i = 0; i < 2; ++i) {
        s[t][i] = _mm512_dpwssd_epi32(s[t][i], even[i], even_activations);
        s[t][kOdd + i] = _mm512_dpwssd_epi32(s[t][kOdd + i], odd[i], odd_activations);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kOdd; ++i) s[t][i] = _mm512_add_epi32(s[t][i], s[t][kOdd + i]);
    FlushBlock(s[t], totals[t]);
  }
}

template <int kTokens, int64_t kBlockCols, typename Args>
inline void Int8Strip(const Args& a, int64_t strip, int64_t t) {
  const int64_t padded = PaddedCols(a.w.cols);
  const int8_t* w = a.w.data + strip * Int8StripBytes(a.w.cols);
  const auto* q = a.x.q + t * a.x.stride;
  __m512 totals[kTokens][2] = {};
  for (int64_t begin = 0; begin < padded; begin += kBlockCols) {
    const int64_t cols = padded - begin < kBlockCols ? padded - begin : kBlockCols;
    AddInt8Block<kTokens>(w + begin * kTileRows, q + begin, a.x.stride, cols, totals);
  }
  for (int j = 0; j < kTokens; ++j) StoreRows(a, strip, t + j, totals[j]);
}

template <int64_t kBlockCols, typename Args>
inline void Int8MatmulBlocks(const Args& a) {
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    int64_t t = 0;
    for (; t + 8 <= a.x.tokens; t += 8) Int8Strip<8, kBlockCols>(a, strip, t);
    if (t + 4 <= a.x.tokens) Int8Strip<4, kBlockCols>(a, strip, t), t += 4;
    if (t + 2 <= a.x.tokens) Int8Strip<2, kBlockCols>(a, strip, t), t += 2;
    if (t < a.x.tokens) Int8Strip<1, kBlockCols>(a, strip, t);
  }
}

inline void Int8Matmul(const Int8MatmulArgs& a) { Int8MatmulBlocks<kInt8BlockCols>(a); }
inline void Int8WideMatmul(const Int8WideMatmulArgs& a) { Int8MatmulBlocks<kInt8WideBlockCols>(a); }

}  // namespace qamserve::avx512
