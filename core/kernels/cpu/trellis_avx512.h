// Products with trellis codes (core/codec/trellis.h) for AVX-512. Included only by avx512.cc.
//
// A line is taken as four vectors of 32 words, each 8 rows by 4 pairs. The codes a row above are those four words back,
// in the vector before for its first row; the vector before the first is the last.
#pragma once

#include "core/codec/trellis.h"
#include "core/kernels/cpu/codes_avx512.h"

namespace qamserve::avx512 {

// Code bits 0..7 of half a line, and those above.
template <int kBits, int v>
inline void CodeBytes(const uint8_t* tile, int h, __m512i* low, __m512i* high) {
  constexpr int kBase = BaseLines(kBits);
  *low = LoadBytes(tile + kTileLine * (v % kBase) + kHalfLine * h);
  *high = _mm512_setzero_si512();
  if constexpr (kBase == 4) {
    if constexpr (v >= 4) *low = _mm512_srli_epi16(*low, 4);
    *low = _mm512_and_si512(*low, _mm512_set1_epi8(15));
    if constexpr (kBits > 4) *low = InsertPlaneBit<v, 4>(*low, Plane(tile, 4, h));
    if constexpr (kBits > 5) *low = InsertPlaneBit<v, 5>(*low, Plane(tile, 5, h));
    if constexpr (kBits > 6) *low = InsertPlaneBit<v, 6>(*low, Plane(tile, 6, h));
  } else {
    if constexpr (kBits > 8) *high = InsertPlaneBit<v, 0>(*high, Plane(tile, 8, h));
    if constexpr (kBits > 9) *high = InsertPlaneBit<v, 1>(*high, Plane(tile, 9, h));
    if constexpr (kBits > 10) *high = InsertPlaneBit<v, 2>(*high, Plane(tile, 10, h));
  }
}

// The states of a line, [row][4 pairs].
template <int kBits, int v>
inline void LineStates(const uint8_t* tile, __m512i* states) {
  __m512i code[4];
  for (int h = 0; h < 2; ++h) {
    __m512i low, high;
    CodeBytes<kBits, v>(tile, h, &low, &high);
    const __m512i first = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(low));
    const __m512i second = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(low, 1));
    if constexpr (kBits > 8) {
      const __m512i above_first = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(high));
      const __m512i above_second = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(high, 1));
      code[2 * h] = _mm512_or_si512(first, _mm512_slli_epi16(above_first, 8));
      code[2 * h + 1] = _mm512_or_si512(second, _mm512_slli_epi16(above_second, 8));
    } else {
      code[2 * h] = first;
      code[2 * h + 1] = second;
    }
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i before = code[(i + 3) % 4];
    __m512i state = _mm512_or_si512(code[i], _mm512_slli_epi16(_mm512_alignr_epi64(code[i], before, 7), kBits));
    if constexpr (2 * kBits < kTrellisStateBits) {
      state = _mm512_or_si512(state, _mm512_slli_epi16(_mm512_alignr_epi64(code[i], before, 6), 2 * kBits));
    }
    if constexpr (3 * kBits < kTrellisStateBits) {
      state = _mm512_or_si512(state, _mm512_slli_epi16(_mm512_alignr_epi64(code[i], before, 5), 3 * kBits));
    }
    states[i] = state;
  }
}

// 32 states to 32 values of one column, kTrellisMaxValue too large: 0 to 1020.
inline __m512i RaisedTrellisValues(__m512i state, int column) {
  const __m512i ones = _mm512_set1_epi8(1);
  const __m512i h1 = _mm512_mullo_epi16(state, _mm512_set1_epi16(static_cast<int16_t>(kTrellisA[column])));
  const __m512i h2 =
      _mm512_add_epi16(_mm512_mullo_epi16(state, _mm512_set1_epi16(static_cast<int16_t>(kTrellisB[column]))),
                       _mm512_set1_epi16(static_cast<int16_t>(kTrellisC[column])));
  return _mm512_add_epi16(_mm512_maddubs_epi16(h1, ones), _mm512_maddubs_epi16(h2, ones));
}

// Adds a line to the sums of its rows; those of a row lie in two neighbouring lanes.
template <int kBits, int v>
inline void AddTrellisLine(const uint8_t* tile, const int16_t* q, __m512i* sums) {
  const __m512i pairs = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q + 8 * v)));
  const __m512i even = _mm512_shuffle_epi8(
      pairs, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13)));
  const __m512i odd = _mm512_shuffle_epi8(
      pairs, _mm512_broadcast_i32x4(_mm_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, 2, 3, 6, 7, 10, 11, 14, 15)));
  __m512i states[4];
  LineStates<kBits, v>(tile, states);
  for (int i = 0; i < 4; ++i) {
    sums[i] = _mm512_dpwssd_epi32(sums[i], RaisedTrellisValues(states[i], 0), even);
    sums[i] = _mm512_dpwssd_epi32(sums[i], RaisedTrellisValues(states[i], 1), odd);
  }
}

// What the sums of 32 rows come to, in order, less kTrellisMaxValue times the activations' sum.
inline void OrderTrellisSums(const __m512i* sums, __m512i activations, __m512i* rows) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_or_si512(even, SetDword(1));
  const __m512i raised = SetDword(kTrellisMaxValue * _mm512_reduce_add_epi32(activations));
  for (int i = 0; i < 2; ++i) {
    rows[i] = _mm512_sub_epi32(_mm512_add_epi32(_mm512_permutex2var_epi32(sums[2 * i], even, sums[2 * i + 1]),
                                                _mm512_permutex2var_epi32(sums[2 * i], odd, sums[2 * i + 1])),
                               raised);
  }
}

// One token. Bound by the multiplications: four hashes, four sums of bytes and two products for 32 pairs.
template <int kBits>
void OneTokenTrellis(const PackedMatmulArgs& a) {
  const int64_t tiles = TilesAcross(a.w.cols);
  const __m512i ones = _mm512_set1_epi16(1);
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    const uint8_t* tile = a.w.codes + strip * StripBytes(a.w.cols, kBits);
    __m512i sums[4] = {}, activations = _mm512_setzero_si512();
    __m512 totals[2] = {};
    for (int64_t c = 0; c < tiles; ++c, tile += TileBytes(kBits)) {
      PrefetchTile(tile, TileBytes(kBits));
      const int16_t* q = a.x.q + c * kTileCols;
      AddTrellisLine<kBits, 0>(tile, q, sums);
      AddTrellisLine<kBits, 1>(tile, q, sums);
      AddTrellisLine<kBits, 2>(tile, q, sums);
      AddTrellisLine<kBits, 3>(tile, q, sums);
      AddTrellisLine<kBits, 4>(tile, q, sums);
      AddTrellisLine<kBits, 5>(tile, q, sums);
      AddTrellisLine<kBits, 6>(tile, q, sums);
      AddTrellisLine<kBits, 7>(tile, q, sums);
      activations = _mm512_dpwssd_epi32(activations, LoadBytes(q), ones);
      activations = _mm512_dpwssd_epi32(activations, LoadBytes(q + 32), ones);
      if ((c + 1) * kTileCols % kPackedBlockCols == 0 || c + 1 == tiles) {
        __m512i rows[2];
        OrderTrellisSums(sums, activations, rows);
        FlushBlock(rows, totals);
        for (auto& s : sums) s = _mm512_setzero_si512();
        activations = _mm512_setzero_si512();
      }
    }
    StoreRows(a, strip, 0, totals);
  }
}

// As DecodeHalfLine, for a line: (x, y), [4 pairs][32 rows].
template <int kBits, int v>
inline void DecodeTrellisLine(const uint8_t* tile, int32_t* entries) {
  const __m512i raised = _mm512_set1_epi16(kTrellisMaxValue);
  // Of rows 0 2 4 6 and 1 3 5 7, four pairs each: pairs 0 and 1 of eight rows.
  const __m512i order = _mm512_setr_epi32(0, 16, 4, 20, 8, 24, 12, 28, 1, 17, 5, 21, 9, 25, 13, 29);
  __m512i states[4];
  LineStates<kBits, v>(tile, states);
  for (int i = 0; i < 4; ++i) {
    const __m512i x = _mm512_sub_epi16(RaisedTrellisValues(states[i], 0), raised);
    const __m512i y = _mm512_sub_epi16(RaisedTrellisValues(states[i], 1), raised);
    const __m512i even_rows = _mm512_unpacklo_epi16(x, y), odd_rows = _mm512_unpackhi_epi16(x, y);
    for (int j = 0; j < 4; j += 2) {
      const __m512i two = _mm512_permutex2var_epi32(even_rows, _mm512_add_epi32(order, SetDword(j)), odd_rows);
      int32_t* out = entries + (4 * v + j) * kTileRows + 8 * i;
      _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(two));
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + kTileRows), _mm512_extracti64x4_epi64(two, 1));
    }
  }
}

template <int kBits>
inline void DecodeTrellisTile(const uint8_t* tile, int32_t* entries) {
  DecodeTrellisLine<kBits, 0>(tile, entries);
  DecodeTrellisLine<kBits, 1>(tile, entries);
  DecodeTrellisLine<kBits, 2>(tile, entries);
  DecodeTrellisLine<kBits, 3>(tile, entries);
  DecodeTrellisLine<kBits, 4>(tile, entries);
  DecodeTrellisLine<kBits, 5>(tile, entries);
  DecodeTrellisLine<kBits, 6>(tile, entries);
  DecodeTrellisLine<kBits, 7>(tile, entries);
}

}  // namespace qamserve::avx512
