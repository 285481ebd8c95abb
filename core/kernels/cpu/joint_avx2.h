// Products with codebook codes of up to 9 bits for AVX2. Included only by avx2.cc.
//
// A quarter of a line is a register: 8 rows by 4 neighbouring pairs. Magnitudes are looked up 16 at a time by vpshufb,
// as unsigned bytes of at most 127, which is what vpmaddubsw multiplies with signed ones. A 14-bit activation is two
// such bytes, 128 h + l with |h| and |l| at most 64, that take the sign of their weight; two products of both columns
// of a pair are at most 4 x 127 x 64 = 32512 and fit a word.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <utility>

#include "core/codec/packing.h"
#include "core/kernels/kernels.h"

namespace qamserve::avx2 {

inline __m256i LoadQuarterLine(const uint8_t* tile, int line, int i) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + kTileLine * line + 32 * i));
}

// Activations of four neighbouring pairs: bytes h of the even columns, l of the even columns, h and l of the odd ones.
struct PairBytes {
  int32_t even_high, even_low, odd_high, odd_low;
};
// Columns whose activations are prepared at once: what fits the scratch.
inline constexpr int64_t kPairBytesCols = 8192;
static_assert(kPairBytesCols / 8 * sizeof(PairBytes) <= kPackedScratchBytes && kMaxActivation / 128 + 1 <= 64);

// `cols` is a multiple of 64.
inline void PreparePairBytes(const int16_t* q, int64_t cols, PairBytes* pairs) {
  const __m256i by_fours =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  for (int64_t c = 0; c < cols; c += 16) {
    const __m256i whole = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + c));
    const __m256i high = _mm256_srai_epi16(_mm256_add_epi16(whole, _mm256_set1_epi16(64)), 7);  // -64..64
    const __m256i low = _mm256_sub_epi16(whole, _mm256_slli_epi16(high, 7));                    // -64..63
    const __m256i bytes = _mm256_or_si256(_mm256_and_si256(high, _mm256_set1_epi16(0xff)), _mm256_slli_epi16(low, 8));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + c / 8), _mm256_shuffle_epi8(bytes, by_fours));
  }
}

// The magnitudes of a codebook, 16 to a table; each table but the first holds what differs (xor) from the one before.
template <int kBits>
struct NibbleTables {
  static constexpr int kMagnitudes = 1 << (kBits - 2);
  static constexpr int kTables = kMagnitudes > 16 ? kMagnitudes / 16 : 1;
  __m256i x[kTables], y[kTables];

  explicit NibbleTables(const int32_t* table) {
    __m256i last_x = _mm256_setzero_si256(), last_y = last_x;
    for (int k = 0; k < kTables; ++k) {
      alignas(16) uint8_t xs[16], ys[16];
      // Eight are repeated, so that a lookup does not see the index bit above theirs.
      for (int i = 0; i < 16; ++i) {
        const int32_t entry = table[(16 * k + i) % kMagnitudes];
        xs[i] = static_cast<uint8_t>(entry & 0xffff);
        ys[i] = static_cast<uint8_t>(entry >> 16);
      }
      const __m256i own_x = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(xs)));
      const __m256i own_y = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(ys)));
      x[k] = _mm256_xor_si256(own_x, last_x);
      y[k] = _mm256_xor_si256(own_y, last_y);
      last_x = own_x;
      last_y = own_y;
    }
  }
};

// Magnitudes of a quarter line. A vpshufb reads its table at bits 0 to 3 of the index and gives 0 where bit 7 is set:
// an index less 16 k is negative up to table k - 1. So the sum (xor) of all tables' answers runs up to the index's own
// table, whose entry is what is left of it. Five instructions a table; choosing by blends takes as many where a blend
// is one instruction, and more elsewhere.
template <int kBits>
inline void LookUpQuarterLine(const NibbleTables<kBits>& tables, __m256i magnitude, __m256i* x, __m256i* y) {
  *x = _mm256_shuffle_epi8(tables.x[0], magnitude);
  *y = _mm256_shuffle_epi8(tables.y[0], magnitude);
  for (int k = 1; k < NibbleTables<kBits>::kTables; ++k) {
    magnitude = _mm256_sub_epi8(magnitude, _mm256_set1_epi8(16));
    *x = _mm256_xor_si256(*x, _mm256_shuffle_epi8(tables.x[k], magnitude));
    *y = _mm256_xor_si256(*y, _mm256_shuffle_epi8(tables.y[k], magnitude));
  }
}

// Bit v of every byte, moved to bit 7; the others are whatever.
template <int v>
inline __m256i ToSignBit(__m256i plane) {
  return _mm256_slli_epi16(plane, 7 - v);
}

// The magnitude's index and, in bit 7 of each byte, the signs of quarter i of line v.
template <int kBits, int v>
inline void SplitCodes(const uint8_t* tile, int i, __m256i* magnitude, __m256i* sign_x, __m256i* sign_y) {
  constexpr int kBase = BaseLines(kBits);
  __m256i index = LoadQuarterLine(tile, v % kBase, i);
  if constexpr (kBase == 8) {
    // 8 bits: magnitude, sx, sy. 9 bits: magnitude, sx, and sy in a plane.
    *sign_x = ToSignBit<kBits - 2>(index);
    *sign_y = kBits == 8 ? index : ToSignBit<v>(LoadQuarterLine(tile, 8, i));
    *magnitude = _mm256_and_si256(index, _mm256_set1_epi8((1 << (kBits - 2)) - 1));
  } else {
    if constexpr (v >= 4) index = _mm256_srli_epi16(index, 4);
    auto code_bit = [&](int bit) {  // in bit 7
      return bit < 4 ? _mm256_slli_epi16(index, 7 - bit) : ToSignBit<v>(LoadQuarterLine(tile, bit, i));
    };
    *sign_x = code_bit(kBits - 2);
    *sign_y = code_bit(kBits - 1);
    *magnitude = _mm256_and_si256(index, _mm256_set1_epi8(kBits >= 6 ? 15 : 7));
    if constexpr (kBits == 7) {
      const __m256i fifth = _mm256_and_si256(code_bit(4), _mm256_set1_epi8(static_cast<char>(0x80)));
      *magnitude = _mm256_or_si256(*magnitude, _mm256_srli_epi16(fifth, 3));
    }
  }
}

// Adds line v of a tile to the sums of its 32 rows.
template <int kBits, int v>
inline void AddLine(const uint8_t* tile, const NibbleTables<kBits>& tables, const PairBytes* pairs, __m256i* sums) {
  const __m256i even_high = _mm256_set1_epi32(pairs[v].even_high), even_low = _mm256_set1_epi32(pairs[v].even_low);
  const __m256i odd_high = _mm256_set1_epi32(pairs[v].odd_high), odd_low = _mm256_set1_epi32(pairs[v].odd_low);
  const __m256i not_zero = _mm256_set1_epi8(1);  // a sign of 0 would make its product 0
  for (int i = 0; i < 4; ++i) {
    __m256i magnitude, sign_x, sign_y, x, y;
    SplitCodes<kBits, v>(tile, i, &magnitude, &sign_x, &sign_y);
    sign_x = _mm256_or_si256(sign_x, not_zero);
    sign_y = _mm256_or_si256(sign_y, not_zero);
    LookUpQuarterLine<kBits>(tables, magnitude, &x, &y);
    const __m256i high = _mm256_add_epi16(_mm256_maddubs_epi16(x, _mm256_sign_epi8(even_high, sign_x)),
                                          _mm256_maddubs_epi16(y, _mm256_sign_epi8(odd_high, sign_y)));
    const __m256i low = _mm256_add_epi16(_mm256_maddubs_epi16(x, _mm256_sign_epi8(even_low, sign_x)),
                                         _mm256_maddubs_epi16(y, _mm256_sign_epi8(odd_low, sign_y)));
    sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(high, _mm256_set1_epi16(128)));
    sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
  }
}

// Adds a tile to the sums of its 32 rows; `pairs` are those of its 32 pairs.
template <int kBits, int... v>
inline void AddTile(const uint8_t* tile, const NibbleTables<kBits>& tables, const PairBytes* pairs, __m256i* sums,
                    std::integer_sequence<int, v...>) {
  (AddLine<kBits, v>(tile, tables, pairs, sums), ...);
}

// Writes (x, y) of 8 rows by 4 pairs, both words, where they belong in a tile of [pair][32 rows]: `out` is that of the
// first pair's first row. `first` and `second` hold the columns of rows 0 1 4 5 and 2 3 6 7, four pairs of each.
inline void StorePoints(__m256i first_x, __m256i first_y, __m256i second_x, __m256i second_y, __m256i* out) {
  const __m256i r04 = _mm256_unpacklo_epi16(first_x, first_y), r15 = _mm256_unpackhi_epi16(first_x, first_y);
  const __m256i r26 = _mm256_unpacklo_epi16(second_x, second_y), r37 = _mm256_unpackhi_epi16(second_x, second_y);
  const __m256i a = _mm256_unpacklo_epi32(r04, r15), b = _mm256_unpackhi_epi32(r04, r15);
  const __m256i c = _mm256_unpacklo_epi32(r26, r37), d = _mm256_unpackhi_epi32(r26, r37);
  _mm256_store_si256(out, _mm256_unpacklo_epi64(a, c));
  _mm256_store_si256(out + 4, _mm256_unpackhi_epi64(a, c));
  _mm256_store_si256(out + 8, _mm256_unpacklo_epi64(b, d));
  _mm256_store_si256(out + 12, _mm256_unpackhi_epi64(b, d));
}

template <int kBits, int v>
inline void DecodeLine(const uint8_t* tile, const NibbleTables<kBits>& tables, __m256i* entries) {
  const __m256i not_zero = _mm256_set1_epi8(1);
  for (int i = 0; i < 4; ++i) {
    __m256i magnitude, sign_x, sign_y, x, y;
    SplitCodes<kBits, v>(tile, i, &magnitude, &sign_x, &sign_y);
    LookUpQuarterLine<kBits>(tables, magnitude, &x, &y);
    x = _mm256_sign_epi8(x, _mm256_or_si256(sign_x, not_zero));
    y = _mm256_sign_epi8(y, _mm256_or_si256(sign_y, not_zero));
    const __m256i x_high = _mm256_cmpgt_epi8(_mm256_setzero_si256(), x);
    const __m256i y_high = _mm256_cmpgt_epi8(_mm256_setzero_si256(), y);
    StorePoints(_mm256_unpacklo_epi8(x, x_high), _mm256_unpacklo_epi8(y, y_high), _mm256_unpackhi_epi8(x, x_high),
                _mm256_unpackhi_epi8(y, y_high), entries + 16 * v + i);
  }
}

// Table entries of a tile, [pair][32 rows], ready to be multiplied with many tokens.
template <int kBits, int... v>
inline void DecodeTileByNibbles(const uint8_t* tile, const NibbleTables<kBits>& tables, __m256i* entries,
                                std::integer_sequence<int, v...>) {
  (DecodeLine<kBits, v>(tile, tables, entries), ...);
}

}  // namespace qamserve::avx2
