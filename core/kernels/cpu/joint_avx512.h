// Products with codebook codes for AVX-512. Included only by avx512.cc.
//
// Magnitudes are looked up in registers, 64 at a time, as unsigned bytes, which is what vpdpbusd multiplies with signed
// ones and adds by fours: the four pairs of a row. A 14-bit activation is two signed bytes, 128 h + l.
#pragma once

#include "core/kernels/cpu/codes_avx512.h"

namespace qamserve::avx512 {

// Activations of four neighbouring pairs: bytes h of the even columns, l of the even columns, h and l of the odd ones.
struct PairActivations {
  int32_t even_high, even_low, odd_high, odd_low;
};
// As many columns as are prepared at once.
constexpr int64_t kChunkCols = 8192;
struct ChunkActivations {
  PairActivations pairs[kChunkCols / 8];
  int32_t block_sums[kChunkCols / kPackedBlockCols];  // of whole activations
};
static_assert(sizeof(ChunkActivations) <= kPackedScratchBytes);
static_assert(kChunkCols % kPackedBlockCols == 0 && 2 * kMaxActivation / 128 <= 127);

// `cols` is a multiple of 64.
inline void PrepareActivations(const int16_t* q, int64_t cols, ChunkActivations* out) {
  const __m512i by_fours = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m512i sum = _mm512_setzero_si512();
  for (int64_t c = 0; c < cols; c += 32) {
    const __m512i whole = LoadBytes(q + c);
    const __m512i high = _mm512_srai_epi16(_mm512_add_epi16(whole, _mm512_set1_epi16(64)), 7);  // -64..64
    const __m512i low = _mm512_sub_epi16(whole, _mm512_slli_epi16(high, 7));                    // -64..63
    const __m512i bytes = _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaa, high, _mm512_slli_epi16(low, 8));
    _mm512_storeu_si512(out->pairs + c / 8, _mm512_shuffle_epi8(bytes, by_fours));
    sum = _mm512_dpwssd_epi32(sum, whole, _mm512_set1_epi16(1));
    if ((c + 32) % kPackedBlockCols == 0 || c + 32 == cols) {
      out->block_sums[c / kPackedBlockCols] = _mm512_reduce_add_epi32(sum);
      sum = _mm512_setzero_si512();
    }
  }
}

// Up to 9 bits magnitudes are at most 127. Their table has 128 more, so that negating a byte gives 128 less the
// magnitude: a weight and 128 as one unsigned byte, and what the 128 add is the same for all rows. From 10 bits on a
// weight does not fit, and both bytes of its activation take its sign.
template <int kBits>
constexpr int kOffset = kBits <= 9 ? 128 : 0;

template <int kBits, int v>
inline void AddHalfLine(const uint8_t* tile, int h, const MagnitudeTable<kBits>& table, __m512i even_high,
                        __m512i even_low, __m512i odd_high, __m512i odd_low, __m512i& high, __m512i& low) {
  HalfLineCodes codes = LookUpHalfLine<kBits, v>(tile, h, table);
  const __m512i zero = _mm512_setzero_si512();
  if constexpr (kOffset<kBits> != 0) {
    codes.x = _mm512_mask_sub_epi8(codes.x, codes.negative_x, zero, codes.x);
    codes.y = _mm512_mask_sub_epi8(codes.y, codes.negative_y, zero, codes.y);
  } else {
    even_high = _mm512_mask_sub_epi8(even_high, codes.negative_x, zero, even_high);
    even_low = _mm512_mask_sub_epi8(even_low, codes.negative_x, zero, even_low);
    odd_high = _mm512_mask_sub_epi8(odd_high, codes.negative_y, zero, odd_high);
    odd_low = _mm512_mask_sub_epi8(odd_low, codes.negative_y, zero, odd_low);
  }
  high = _mm512_dpbusd_epi32(high, codes.x, even_high);
  low = _mm512_dpbusd_epi32(low, codes.x, even_low);
  high = _mm512_dpbusd_epi32(high, codes.y, odd_high);
  low = _mm512_dpbusd_epi32(low, codes.y, odd_low);
}

template <int kBits, int v>
inline void AddLine(const uint8_t* tile, const MagnitudeTable<kBits>& table, const PairActivations* pairs,
                    __m512i* high, __m512i* low) {
  const PairActivations& q = pairs[v];
  const __m512i even_high = SetDword(q.even_high), even_low = SetDword(q.even_low);
  const __m512i odd_high = SetDword(q.odd_high), odd_low = SetDword(q.odd_low);
  AddHalfLine<kBits, v>(tile, 0, table, even_high, even_low, odd_high, odd_low, high[0], low[0]);
  AddHalfLine<kBits, v>(tile, 1, table, even_high, even_low, odd_high, odd_low, high[1], low[1]);
}

// Adds columns of a strip to the float sums of its rows, a block at a time.
template <int kBits>
inline void AddChunk(const uint8_t* tile, int64_t cols, const MagnitudeTable<kBits>& table, const ChunkActivations& q,
                     __m512* totals) {
  const PairActivations* pairs = q.pairs;
  for (int64_t block = 0; block * kPackedBlockCols < cols; ++block) {
    const int64_t left = cols - block * kPackedBlockCols;
    const int64_t tiles = (left < kPackedBlockCols ? left : kPackedBlockCols) / kTileCols;
    __m512i high[2] = {}, low[2] = {};
    for (int64_t c = 0; c < tiles; ++c, tile += TileBytes(kBits), pairs += 8) {
      PrefetchTile(tile, TileBytes(kBits));
      AddLine<kBits, 0>(tile, table, pairs, high, low);
      AddLine<kBits, 1>(tile, table, pairs, high, low);
      AddLine<kBits, 2>(tile, table, pairs, high, low);
      AddLine<kBits, 3>(tile, table, pairs, high, low);
      AddLine<kBits, 4>(tile, table, pairs, high, low);
      AddLine<kBits, 5>(tile, table, pairs, high, low);
      AddLine<kBits, 6>(tile, table, pairs, high, low);
      AddLine<kBits, 7>(tile, table, pairs, high, low);
    }
    const __m512i offset = SetDword(kOffset<kBits> * q.block_sums[block]);
    __m512i sums[2];
    for (int i = 0; i < 2; ++i) {
      sums[i] = _mm512_sub_epi32(_mm512_add_epi32(_mm512_slli_epi32(high[i], 7), low[i]), offset);
    }
    FlushBlock(sums, totals);
  }
}

// One token. Measured on one core from its second-level cache, G weights/s against AVX2's 9: 72 at 5 and 6 bits, 62 at
// 7, 70 at 8, 63 at 9, 50 at 10, 32 at 11, 15 at 12. The activations stay prepared while there is one chunk of them.
template <int kBits>
void OneToken(const PackedMatmulArgs& a) {
  const MagnitudeTable<kBits> table(a.w.table, kOffset<kBits>);
  const int64_t padded = PaddedCols(a.w.cols);
  auto* q = static_cast<ChunkActivations*>(a.scratch);
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    const uint8_t* tiles = a.w.codes + strip * StripBytes(a.w.cols, kBits);
    __m512 totals[2] = {};
    for (int64_t begin = 0; begin < padded; begin += kChunkCols) {
      const int64_t cols = padded - begin < kChunkCols ? padded - begin : kChunkCols;
      if (strip == a.strip_begin || padded > kChunkCols) PrepareActivations(a.x.q + begin, cols, q);
      AddChunk<kBits>(tiles + begin / kTileCols * TileBytes(kBits), cols, table, *q, totals);
    }
    StoreRows(a, strip, 0, totals);
  }
}

// Signed words of the even and of the odd bytes, of which `negative` are to be negated.
struct Words {
  __m512i even, odd;
};
inline Words SignedWords(__m512i magnitudes, __mmask64 negative) {
  negative = _mm512_mask_test_epi8_mask(negative, magnitudes, magnitudes);  // no sign for 0
  const __m512i low = _mm512_mask_sub_epi8(magnitudes, negative, _mm512_setzero_si512(), magnitudes);
  const __m512i high = _mm512_movm_epi8(negative);
  const __m512i low_byte = _mm512_set1_epi16(0xff);
  return {_mm512_ternarylogic_epi32(low_byte, low, _mm512_slli_epi16(high, 8), 0xca),
          _mm512_ternarylogic_epi32(low_byte, _mm512_srli_epi16(low, 8), high, 0xca)};
}

// (x, y) of half a line, [4 pairs][32 rows].
template <int kBits, int v>
inline void DecodeHalfLine(const uint8_t* tile, int h, const MagnitudeTable<kBits>& table, int32_t* entries) {
  const HalfLineCodes codes = LookUpHalfLine<kBits, v>(tile, h, table);
  const Words x = SignedWords(codes.x, codes.negative_x), y = SignedWords(codes.y, codes.negative_y);
  int32_t* out = entries + 4 * v * kTileRows + 16 * h;
  constexpr __mmask32 kUpper = 0xaaaaaaaa;
  _mm512_store_si512(out, _mm512_mask_blend_epi16(kUpper, x.even, _mm512_slli_epi32(y.even, 16)));
  _mm512_store_si512(out + kTileRows, _mm512_mask_blend_epi16(kUpper, x.odd, _mm512_slli_epi32(y.odd, 16)));
  _mm512_store_si512(out + 2 * kTileRows, _mm512_mask_blend_epi16(kUpper, _mm512_srli_epi32(x.even, 16), y.even));
  _mm512_store_si512(out + 3 * kTileRows, _mm512_mask_blend_epi16(kUpper, _mm512_srli_epi32(x.odd, 16), y.odd));
}

template <int kBits>
inline void DecodeTile(const uint8_t* tile, const MagnitudeTable<kBits>& table, int32_t* entries) {
  for (int h = 0; h < 2; ++h) {
    DecodeHalfLine<kBits, 0>(tile, h, table, entries);
    DecodeHalfLine<kBits, 1>(tile, h, table, entries);
    DecodeHalfLine<kBits, 2>(tile, h, table, entries);
    DecodeHalfLine<kBits, 3>(tile, h, table, entries);
    DecodeHalfLine<kBits, 4>(tile, h, table, entries);
    DecodeHalfLine<kBits, 5>(tile, h, table, entries);
    DecodeHalfLine<kBits, 6>(tile, h, table, entries);
    DecodeHalfLine<kBits, 7>(tile, h, table, entries);
  }
}

}  // namespace qamserve::avx512
