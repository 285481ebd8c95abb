// Products with trellis codes (core/codec/trellis.h) for AVX2. Included only by avx2.cc.
//
// A quarter of a line is a register: 8 rows by 4 neighbouring pairs. States are made as low and high bytes, which costs
// less than 16-bit lanes; interleaving them gives words of rows 0 1 4 5 and 2 3 6 7. The codes a row above lie four
// bytes before, those above the first row at the end of the line.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <utility>

#include "core/codec/packing.h"
#include "core/codec/trellis.h"
#include "core/kernels/cpu/joint_avx2.h"
#include "core/kernels/kernels.h"

namespace qamserve::avx2 {

inline __m256i MaskBytes(__m256i bytes, int mask) {
  return _mm256_and_si256(bytes, _mm256_set1_epi8(static_cast<char>(mask)));
}
inline __m256i LoadBytes(const uint8_t* bytes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)); }

// Code bits above the base of 32 bytes, for all eight v at once: fields of bits are gathered from the planes, so that a
// shift and a mask give those of one v. With one plane nothing is gained and nothing is gathered.
template <int kPlanes>
struct PlaneFields {
  __m256i fields[kPlanes < 3 ? 2 : 4];

  // `planes`: the first plane's quarter line; the others follow a line apart.
  explicit PlaneFields(const uint8_t* planes) {
    static_assert(kPlanes >= 1 && kPlanes <= 3);
    const __m256i p0 = LoadBytes(planes);
    if constexpr (kPlanes == 1) {
      fields[0] = fields[1] = p0;
    } else {
      // Two bits: of v = 0 2 4 6, then of v = 1 3 5 7.
      const __m256i p1 = LoadBytes(planes + kTileLine);
      const __m256i even = _mm256_or_si256(MaskBytes(p0, 0x55), _mm256_slli_epi16(MaskBytes(p1, 0x55), 1));
      const __m256i odd = _mm256_or_si256(MaskBytes(_mm256_srli_epi16(p0, 1), 0x55), MaskBytes(p1, 0xaa));
      if constexpr (kPlanes == 2) {
        fields[0] = even;
        fields[1] = odd;
      } else {
        // Four bits: of v = 0 4, 1 5, 2 6, 3 7.
        const __m256i p2 = LoadBytes(planes + 2 * kTileLine);
        const __m256i even2 = MaskBytes(p2, 0x55), odd2 = MaskBytes(_mm256_srli_epi16(p2, 1), 0x55);
        fields[0] = _mm256_or_si256(MaskBytes(even, 0x33), _mm256_slli_epi16(MaskBytes(even2, 0x33), 2));
        fields[1] = _mm256_or_si256(MaskBytes(odd, 0x33), _mm256_slli_epi16(MaskBytes(odd2, 0x33), 2));
        fields[2] = _mm256_or_si256(MaskBytes(_mm256_srli_epi16(even, 2), 0x33), MaskBytes(even2, 0xcc));
        fields[3] = _mm256_or_si256(MaskBytes(_mm256_srli_epi16(odd, 2), 0x33), MaskBytes(odd2, 0xcc));
      }
    }
  }

  // The bits of v as numbers.
  template <int v>
  __m256i Get() const {
    if constexpr (kPlanes == 1) return MaskBytes(_mm256_srli_epi16(fields[0], v), 1);
    if constexpr (kPlanes == 2) return MaskBytes(_mm256_srli_epi16(fields[v & 1], v & ~1), 3);
    if constexpr (kPlanes == 3) return MaskBytes(_mm256_srli_epi16(fields[v & 3], v & ~3), 7);
  }
};

// The codes of a tile of less than 8 bits, a byte each, with the last three rows of a line in front of it.
inline constexpr int kFrontBytes = 32;
struct CodeLines {
  alignas(32) uint8_t line[8][kFrontBytes + kTileLine];
};

template <int kBits, int v>
inline void UnpackQuarterLine(const uint8_t* tile, int i, const PlaneFields<kBits - 4>& planes, CodeLines* codes) {
  __m256i low = LoadBytes(tile + kTileLine * (v & 3) + 32 * i);
  low = MaskBytes(v >= 4 ? _mm256_srli_epi16(low, 4) : low, 15);
  low = _mm256_or_si256(low, _mm256_slli_epi16(planes.template Get<v>(), 4));
  _mm256_store_si256(reinterpret_cast<__m256i*>(codes->line[v] + kFrontBytes + 32 * i), low);
  if (i == 3) _mm256_store_si256(reinterpret_cast<__m256i*>(codes->line[v]), low);
}

template <int kBits, int... v>
inline void UnpackLines(const uint8_t* tile, CodeLines* codes, std::integer_sequence<int, v...>) {
  for (int i = 0; i < 4; ++i) {
    const PlaneFields<kBits - 4> planes(tile + 4 * kTileLine + 32 * i);
    (UnpackQuarterLine<kBits, v>(tile, i, planes, codes), ...);
  }
}

// The states of quarter i of line v as bytes. `code`: the quarter's codes, a byte each with 12 more in front.
template <int kBits>
inline void StateBytes(const uint8_t* code, __m256i* low, __m256i* high) {
  static_assert(kBits >= 5 && kBits < 8);
  const __m256i above = LoadBytes(code - 4), above2 = LoadBytes(code - 8);
  *low = _mm256_or_si256(LoadBytes(code), MaskBytes(_mm256_slli_epi16(above, kBits), 0xff << kBits));
  *high = _mm256_or_si256(MaskBytes(_mm256_srli_epi16(above, 8 - kBits), 0xff >> (16 - 2 * kBits)),
                          MaskBytes(_mm256_slli_epi16(above2, 2 * kBits - 8), 0xff << (2 * kBits - 8)));
  if constexpr (kBits == 5) {
    *high = _mm256_or_si256(*high, MaskBytes(_mm256_slli_epi16(LoadBytes(code - 12), 7), 0x80));
  }
}

// Of a tile of 8 bits and more: the low bytes of the codes, and those of the codes a row above.
inline void LowBytes(const uint8_t* line, int i, __m256i* low, __m256i* above) {
  *low = LoadBytes(line + 32 * i);
  if (i > 0) {
    *above = LoadBytes(line + 32 * i - 4);
    return;
  }
  int32_t last;
  __builtin_memcpy(&last, line + kTileLine - 4, sizeof(last));
  *above = _mm256_permutevar8x32_epi32(*low, _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6));
  *above = _mm256_blend_epi32(*above, _mm256_set1_epi32(last), 1);
}

// 16 states to 16 values of one column, kTrellisMaxValue too large: 0 to 1020.
inline __m256i RaisedTrellisValues(__m256i state, int column) {
  const __m256i ones = _mm256_set1_epi8(1);
  const __m256i h1 = _mm256_mullo_epi16(state, _mm256_set1_epi16(static_cast<int16_t>(kTrellisA[column])));
  const __m256i h2 =
      _mm256_add_epi16(_mm256_mullo_epi16(state, _mm256_set1_epi16(static_cast<int16_t>(kTrellisB[column]))),
                       _mm256_set1_epi16(static_cast<int16_t>(kTrellisC[column])));
  return _mm256_add_epi16(_mm256_maddubs_epi16(h1, ones), _mm256_maddubs_epi16(h2, ones));
}

// Calls use(v, first, second) for each v with the states of quarter i of its line: words of rows 0 1 4 5, then 2 3 6 7.
// `codes` is scratch that FillCodes has filled for this tile; not used from 8 bits on.
template <int kBits, typename Use, int... v>
inline void ForStates(const uint8_t* tile, int i, const CodeLines* codes, Use use, std::integer_sequence<int, v...>) {
  if constexpr (kBits < 8) {
    auto one = [&](int at) {
      __m256i low, high;
      StateBytes<kBits>(codes->line[at] + kFrontBytes + 32 * i, &low, &high);
      use(at, _mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high));
    };
    (one(v), ...);
  } else if constexpr (kBits == 8) {
    auto one = [&](int at) {
      __m256i low, above;
      LowBytes(tile + kTileLine * at, i, &low, &above);
      use(at, _mm256_unpacklo_epi8(low, above), _mm256_unpackhi_epi8(low, above));
    };
    (one(v), ...);
  } else {
    const PlaneFields<kBits - 8> planes(tile + 8 * kTileLine + 32 * i);
    auto one = [&](int at, __m256i bits) {
      __m256i low, above;
      LowBytes(tile + kTileLine * at, i, &low, &above);
      above = kBits == 9 ? _mm256_add_epi8(above, above)
                         : MaskBytes(_mm256_slli_epi16(above, kBits - 8), 0xff << (kBits - 8));
      const __m256i high = _mm256_or_si256(above, bits);
      use(at, _mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high));
    };
    (one(v, planes.template Get<v>()), ...);
  }
}

template <int kBits>
inline void FillCodes([[maybe_unused]] const uint8_t* tile, [[maybe_unused]] CodeLines* codes) {
  if constexpr (kBits < 8) UnpackLines<kBits>(tile, codes, std::make_integer_sequence<int, 8>());
}

// Activations of a run of blocks for one token: even columns of four pairs, then odd ones; and, for each block, what
// the raised values have too much.
inline constexpr int64_t kTrellisCols = 16384;
struct TrellisInput {
  alignas(32) int16_t split[kTrellisCols];
  int32_t raised[kTrellisCols / kPackedBlockCols];
};
static_assert(sizeof(TrellisInput) + 32 <= kPackedScratchBytes);

// `cols` is a multiple of 64.
inline void PrepareTrellisInput(const int16_t* q, int64_t cols, TrellisInput* input) {
  const __m256i by_column =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  for (int64_t begin = 0; begin < cols; begin += kPackedBlockCols) {
    const int64_t end = cols - begin < kPackedBlockCols ? cols : begin + kPackedBlockCols;
    __m256i sum = _mm256_setzero_si256();
    for (int64_t c = begin; c < end; c += 16) {
      const __m256i whole = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + c));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(whole, _mm256_set1_epi16(1)));
      _mm256_store_si256(reinterpret_cast<__m256i*>(input->split + c), _mm256_shuffle_epi8(whole, by_column));
    }
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
    int32_t total = 0;
    for (const int32_t lane : lanes) total += lane;
    input->raised[begin / kPackedBlockCols] = kTrellisMaxValue * total;
  }
}

// Adds a tile to the sums of its rows, two registers for each 8 of them; those of a row lie in two neighbouring lanes.
// `split`: of its 64 columns. Sums of raised values may wrap around; what is left without the excess fits.
template <int kBits>
inline void AddTrellisTile(const uint8_t* tile, const int16_t* split, __m256i* sums) {
  CodeLines codes;
  FillCodes<kBits>(tile, &codes);
  for (int i = 0; i < 4; ++i) {
    __m256i first_sum = sums[2 * i], second_sum = sums[2 * i + 1];
    auto add = [&](int v, __m256i first, __m256i second) {
      int64_t acts[2];
      __builtin_memcpy(acts, split + 8 * v, sizeof(acts));
      const __m256i even = _mm256_set1_epi64x(acts[0]), odd = _mm256_set1_epi64x(acts[1]);
      first_sum = _mm256_add_epi32(first_sum, _mm256_madd_epi16(RaisedTrellisValues(first, 0), even));
      second_sum = _mm256_add_epi32(second_sum, _mm256_madd_epi16(RaisedTrellisValues(second, 0), even));
      first_sum = _mm256_add_epi32(first_sum, _mm256_madd_epi16(RaisedTrellisValues(first, 1), odd));
      second_sum = _mm256_add_epi32(second_sum, _mm256_madd_epi16(RaisedTrellisValues(second, 1), odd));
    };
    ForStates<kBits>(tile, i, &codes, add, std::make_integer_sequence<int, 8>());
    sums[2 * i] = first_sum;
    sums[2 * i + 1] = second_sum;
  }
}

// The sums of 32 rows in order, less the excess; `sums` begin again.
inline void OrderTrellisSums(__m256i* sums, int32_t raised, __m256i* rows) {
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_sub_epi32(_mm256_hadd_epi32(sums[2 * i], sums[2 * i + 1]), _mm256_set1_epi32(raised));
    sums[2 * i] = sums[2 * i + 1] = _mm256_setzero_si256();
  }
}

// (x, y) of a tile, [pair][32 rows], ready to be multiplied with many tokens.
template <int kBits>
inline void DecodeTileTrellis(const uint8_t* tile, __m256i* entries) {
  CodeLines codes;
  FillCodes<kBits>(tile, &codes);
  const __m256i excess = _mm256_set1_epi16(kTrellisMaxValue);
  for (int i = 0; i < 4; ++i) {
    auto decode = [&](int v, __m256i first, __m256i second) {
      auto values = [&](__m256i state, int column) {
        return _mm256_sub_epi16(RaisedTrellisValues(state, column), excess);
      };
      StorePoints(values(first, 0), values(first, 1), values(second, 0), values(second, 1), entries + 16 * v + i);
    };
    ForStates<kBits>(tile, i, &codes, decode, std::make_integer_sequence<int, 8>());
  }
}

}  // namespace qamserve::avx2
