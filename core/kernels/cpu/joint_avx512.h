// Products with codebook codes for AVX-512. Included only by avx512.cc.
//
// Magnitudes are looked up in registers, 64 at a time, as unsigned bytes, which is what vpdpbusd multiplies with signed
// ones and adds by fours: the four pairs of a row. A 14-bit activation is two signed bytes, 128 h + l.
#pragma once

#include <bit>
#include <utility>

#include "core/kernels/cpu/codes_avx512.h"

namespace qamserve::avx512 {

// Activations of four neighbouring pairs: bytes h of the even columns, l of the even columns, h and l of the odd ones.
struct PairActivations {
  int32_t even_high, even_low, odd_high, odd_low;
};
// A chunk of columns of kTokens tokens. What is prepared at once is the same for any number of them.
template <int kTokens>
struct ChunkActivations {
  static constexpr int64_t kCols = 8192 / int64_t{std::bit_ceil(unsigned{kTokens})};
  PairActivations pairs[kTokens][kCols / 8];
  int32_t block_sums[kTokens][kCols / kPackedBlockCols];  // of whole activations
  static_assert(kCols % kPackedBlockCols == 0);
};
static_assert(sizeof(ChunkActivations<1>) + 64 <= kPackedScratchBytes && kMaxActivation / 128 + 1 <= 127);

// `cols` is a multiple of 64.
inline void PrepareActivations(const int16_t* q, int64_t cols, PairActivations* pairs, int32_t* block_sums) {
  const __m512i by_fours = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m512i sum = _mm512_setzero_si512();
  for (int64_t c = 0; c < cols; c += 32) {
    const __m512i whole = LoadBytes(q + c);
    const __m512i high = _mm512_srai_epi16(_mm512_add_epi16(whole, _mm512_set1_epi16(64)), 7);  // -64..64
    const __m512i low = _mm512_sub_epi16(whole, _mm512_slli_epi16(high, 7));                    // -64..63
    const __m512i bytes = _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaa, high, _mm512_slli_epi16(low, 8));
    _mm512_storeu_si512(pairs + c / 8, _mm512_shuffle_epi8(bytes, by_fours));
    sum = _mm512_dpwssd_epi32(sum, whole, _mm512_set1_epi16(1));
    if ((c + 32) % kPackedBlockCols == 0 || c + 32 == cols) {
      block_sums[c / kPackedBlockCols] = _mm512_reduce_add_epi32(sum);
      sum = _mm512_setzero_si512();
    }
  }
}

// Up to 9 bits magnitudes are at most 127. Their table has 128 more, so that negating a byte gives 128 less the
// magnitude: a weight and 128 as one unsigned byte, and what the 128 add is the same for all rows. From 10 bits on a
// weight does not fit, and both bytes of its activation take its sign.
template <int kBits>
constexpr int kOffset = kBits <= 9 ? 128 : 0;

// Sums of 128 times what the bytes h and of what the bytes l came to, for the rows of half a line.
struct HalfSums {
  __m512i high = _mm512_setzero_si512(), low = _mm512_setzero_si512();
};

// `pairs` are those of the line's tile, `stride` apart from token to token, `sums` two apart.
template <int kBits, int kTokens, int v>
inline void AddHalfLine(const uint8_t* tile, int h, const MagnitudeTable<kBits>& table, const PairActivations* pairs,
                        int64_t stride, HalfSums* sums) {
  HalfLineCodes codes = LookUpHalfLine<kBits, v>(tile, h, table);
  const __m512i zero = _mm512_setzero_si512();
  if constexpr (kOffset<kBits> != 0) {
    codes.x = _mm512_mask_sub_epi8(codes.x, codes.negative_x, zero, codes.x);
    codes.y = _mm512_mask_sub_epi8(codes.y, codes.negative_y, zero, codes.y);
  }
  for (int t = 0; t < kTokens; ++t) {
    const PairActivations& q = pairs[t * stride + v];
    __m512i even_high = SetDword(q.even_high), even_low = SetDword(q.even_low);
    __m512i odd_high = SetDword(q.odd_high), odd_low = SetDword(q.odd_low);
    if constexpr (kOffset<kBits> == 0) {
      even_high = _mm512_mask_sub_epi8(even_high, codes.negative_x, zero, even_high);
      even_low = _mm512_mask_sub_epi8(even_low, codes.negative_x, zero, even_low);
      odd_high = _mm512_mask_sub_epi8(odd_high, codes.negative_y, zero, odd_high);
      odd_low = _mm512_mask_sub_epi8(odd_low, codes.negative_y, zero, odd_low);
    }
    HalfSums& s = sums[2 * t];
    s.high = _mm512_dpbusd_epi32(s.high, codes.x, even_high);
    s.low = _mm512_dpbusd_epi32(s.low, codes.x, even_low);
    s.high = _mm512_dpbusd_epi32(s.high, codes.y, odd_high);
    s.low = _mm512_dpbusd_epi32(s.low, codes.y, odd_low);
  }
}

// One token takes both halves of a line in turn, which have the same activations; more leave registers for the sums of
// one half only.
template <int kBits, int kTokens, int... v>
inline void AddTile(const uint8_t* tile, const MagnitudeTable<kBits>& table, const PairActivations* pairs,
                    int64_t stride, HalfSums* sums, std::integer_sequence<int, v...>) {
  if constexpr (kTokens == 1) {
    ((AddHalfLine<kBits, 1, v>(tile, 0, table, pairs, stride, sums),
      AddHalfLine<kBits, 1, v>(tile, 1, table, pairs, stride, sums + 1)),
     ...);
  } else {
    (AddHalfLine<kBits, kTokens, v>(tile, 0, table, pairs, stride, sums), ...);
    (AddHalfLine<kBits, kTokens, v>(tile, 1, table, pairs, stride, sums + 1), ...);
  }
}

// Adds columns of a strip to the float sums of its rows, a block at a time.
template <int kBits, int kTokens>
inline void AddChunk(const uint8_t* tile, int64_t cols, const MagnitudeTable<kBits>& table,
                     const ChunkActivations<kTokens>& q, __m512 (*totals)[2]) {
  constexpr int64_t kStride = ChunkActivations<kTokens>::kCols / 8;
  const PairActivations* pairs = q.pairs[0];
  for (int64_t block = 0; block * kPackedBlockCols < cols; ++block) {
    const int64_t left = cols - block * kPackedBlockCols;
    const int64_t tiles = (left < kPackedBlockCols ? left : kPackedBlockCols) / kTileCols;
    HalfSums sums[2 * kTokens];
    for (int64_t c = 0; c < tiles; ++c, tile += TileBytes(kBits), pairs += 8) {
      PrefetchTile(tile, TileBytes(kBits));
      AddTile<kBits, kTokens>(tile, table, pairs, kStride, sums, std::make_integer_sequence<int, 8>());
    }
    for (int t = 0; t < kTokens; ++t) {
      const __m512i offset = SetDword(kOffset<kBits> * q.block_sums[t][block]);
      __m512i rows[2];
      for (int h = 0; h < 2; ++h) {
        const HalfSums& s = sums[2 * t + h];
        rows[h] = _mm512_sub_epi32(_mm512_add_epi32(_mm512_slli_epi32(s.high, 7), s.low), offset);
      }
      FlushBlock(rows, totals[t]);
    }
  }
}

// Tokens [first, first + kTokens). Measured on one core from its second-level cache, G weights/s times tokens:
//            8 bits  9  10  11  12
//   1 token      90 89  40  31  18   (AVX2: 9 at every rate)
//   2            77 83  49  38  24   (33, 30, -, 22, 16 by decoding to words as larger groups do)
//   4            64 62  47  40  32   (53, 51, -, 40, 30)
// Activations are prepared once if one chunk holds them.
template <int kBits, int kTokens>
void FewTokens(const PackedMatmulArgs& a, int64_t first) {
  using Chunk = ChunkActivations<kTokens>;
  const MagnitudeTable<kBits> table(a.w.table, kOffset<kBits>);
  const int64_t padded = PaddedCols(a.w.cols);
  auto* q = static_cast<Chunk*>(a.scratch);
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    const uint8_t* tiles = a.w.codes + strip * StripBytes(a.w.cols, kBits);
    __m512 totals[kTokens][2] = {};
    for (int64_t begin = 0; begin < padded; begin += Chunk::kCols) {
      const int64_t cols = padded - begin < Chunk::kCols ? padded - begin : Chunk::kCols;
      for (int t = 0; t < kTokens && (strip == a.strip_begin || padded > Chunk::kCols); ++t) {
        PrepareActivations(a.x.q + (first + t) * a.x.stride + begin, cols, q->pairs[t], q->block_sums[t]);
      }
      AddChunk<kBits, kTokens>(tiles + begin / kTileCols * TileBytes(kBits), cols, table, *q, totals);
    }
    for (int t = 0; t < kTokens; ++t) StoreRows(a, strip, first + t, totals[t]);
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

template <int kBits, int... v>
inline void DecodeTile(const uint8_t* tile, const MagnitudeTable<kBits>& table, int32_t* entries,
                       std::integer_sequence<int, v...>) {
  for (int h = 0; h < 2; ++h) (DecodeHalfLine<kBits, v>(tile, h, table, entries), ...);
}

}  // namespace qamserve::avx512
