// Codes of the packed layout (core/codec/packing.h) as AVX-512 takes them: half a line at a time, 64 bytes, which are
// 16 rows by 4 neighbouring pairs. Included only by avx512.cc.
//
// Figures are for Zen 4, where tests and multiplications share two of four pipes, permutations have one of those and a
// third, and all pipes are half as wide as a register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/codec/packing.h"
#include "core/kernels/kernels.h"

namespace qamserve::avx512 {

constexpr int kHalfLine = kTileLine / 2;  // bytes
constexpr int kPrefetchTiles = 6;         // ahead of use; measured best of 0, 2, 6, 12 in the layout study

inline __m512i LoadBytes(const void* p) { return _mm512_loadu_si512(p); }
inline __m512i SetDword(int32_t v) { return _mm512_set1_epi32(v); }

// Half `h` of the plane of code bit `bit`.
inline __m512i Plane(const uint8_t* tile, int bit, int h) { return LoadBytes(tile + kTileLine * bit + kHalfLine * h); }

// The bytes in which bit v of a plane is set.
template <int v>
inline __mmask64 PlaneMask(__m512i plane) {
  return _mm512_test_epi8_mask(plane, _mm512_set1_epi8(static_cast<char>(1 << v)));
}

// `bytes` with bit `target` of each replaced by bit v of the plane's.
template <int v, int target>
inline __m512i InsertPlaneBit(__m512i bytes, __m512i plane) {
  if constexpr (v > target) plane = _mm512_srli_epi16(plane, v - target);
  if constexpr (v < target) plane = _mm512_slli_epi16(plane, target - v);
  return _mm512_ternarylogic_epi32(_mm512_set1_epi8(static_cast<char>(1 << target)), plane, bytes, 0xca);  // a ? b : c
}

inline void PrefetchTile(const uint8_t* tile, int64_t tile_bytes) {
  for (int64_t line = 0; line < tile_bytes; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(tile + kPrefetchTiles * tile_bytes + line), _MM_HINT_T0);
  }
}

// The magnitudes of a codebook, 64 or 128 to a lookup. `kOffset` is added to each.
template <int kBits>
struct MagnitudeTable {
  static constexpr int kMagnitudes = 1 << (kBits - 2);
  static constexpr int kVectors = kMagnitudes > 64 ? kMagnitudes / 64 : 1;
  __m512i x[kVectors], y[kVectors];

  MagnitudeTable(const int32_t* table, int offset) {
    alignas(64) uint8_t xs[64 * kVectors], ys[64 * kVectors];
    // Small ones are repeated, so that a lookup does not see the index bits above theirs.
    for (int i = 0; i < 64 * kVectors; ++i) {
      const int32_t entry = table[i % kMagnitudes];
      xs[i] = static_cast<uint8_t>((entry & 0xffff) + offset);
      ys[i] = static_cast<uint8_t>((entry >> 16) + offset);
    }
    for (int i = 0; i < kVectors; ++i) {
      x[i] = _mm512_load_si512(xs + 64 * i);
      y[i] = _mm512_load_si512(ys + 64 * i);
    }
  }
};

// Magnitudes of half a line and which of them are negative.
struct HalfLineCodes {
  __m512i x, y;
  __mmask64 negative_x, negative_y;
};

// The half line's index bytes: magnitude bits 0..7, fewer where the codebook has fewer, then whatever.
template <int kBits, int v>
inline __m512i IndexBytes(const uint8_t* tile, int h) {
  constexpr int kBase = BaseLines(kBits);
  __m512i index = LoadBytes(tile + kTileLine * (v % kBase) + kHalfLine * h);
  if constexpr (kBase == 4 && v >= 4) index = _mm512_srli_epi16(index, 4);
  if constexpr (kBits == 7) index = InsertPlaneBit<v, 4>(index, Plane(tile, 4, h));
  return index;
}

// Looks up magnitudes of 7 bits and less by one permutation, of 8 by two, of 9 by four, of 10 by eight. A permutation
// under a mask leaves the index where the mask is clear, so that the next one finds it there: two of them need no
// blend. A chain of four measured 27 G weights/s at 11 bits, two chains of two and a blend 32, blends alone 25.
template <int kVectors>
inline __m512i LookUp(const __m512i* t, __m512i index, __mmask64 k7, __mmask64 k8, __mmask64 n8, __mmask64 k9) {
  if constexpr (kVectors == 1) {
    return _mm512_permutexvar_epi8(index, t[0]);
  } else if constexpr (kVectors == 2) {
    return _mm512_permutex2var_epi8(t[0], index, t[1]);
  } else if constexpr (kVectors == 4) {  // n8: not k7
    const __m512i first = _mm512_mask2_permutex2var_epi8(t[0], index, n8, t[1]);
    return _mm512_mask2_permutex2var_epi8(t[2], first, k7, t[3]);
  } else if constexpr (kVectors == 8) {
    __m512i low = _mm512_mask2_permutex2var_epi8(t[0], index, n8, t[1]);
    __m512i high = _mm512_mask2_permutex2var_epi8(t[2], index, n8, t[3]);
    low = _mm512_mask2_permutex2var_epi8(t[4], low, k8, t[5]);
    high = _mm512_mask2_permutex2var_epi8(t[6], high, k8, t[7]);
    return _mm512_mask_blend_epi8(k7, low, high);
  } else {
    return _mm512_mask_blend_epi8(k9, LookUp<8>(t, index, k7, k8, n8, k9), LookUp<8>(t + 8, index, k7, k8, n8, k9));
  }
}

template <int kBits, int v>
inline HalfLineCodes LookUpHalfLine(const uint8_t* tile, int h, const MagnitudeTable<kBits>& table) {
  constexpr int kSignX = kBits - 2, kSignY = kBits - 1, kBase = BaseLines(kBits) == 8 ? 8 : 4;
  const __m512i index = IndexBytes<kBits, v>(tile, h);
  auto plane_mask = [&](int bit) { return PlaneMask<v>(Plane(tile, bit, h)); };
  HalfLineCodes codes;
  if constexpr (kSignX < kBase) {
    codes.negative_x = PlaneMask<kSignX>(index);
  } else {
    codes.negative_x = plane_mask(kSignX);
  }
  if constexpr (kSignY < kBase) {
    codes.negative_y = PlaneMask<kSignY>(index);
  } else {
    codes.negative_y = plane_mask(kSignY);
  }
  __mmask64 k7 = 0, k8 = 0, n8 = 0, k9 = 0;
  if constexpr (kBits >= 10) k7 = _mm512_movepi8_mask(index);
  if constexpr (kBits == 10) n8 = _knot_mask64(k7);
  if constexpr (kBits >= 11) k8 = plane_mask(8), n8 = _knot_mask64(k8);
  if constexpr (kBits >= 12) k9 = plane_mask(9);
  constexpr int kVectors = MagnitudeTable<kBits>::kVectors;
  codes.x = LookUp<kVectors>(table.x, index, k7, k8, n8, k9);
  codes.y = LookUp<kVectors>(table.y, index, k7, k8, n8, k9);
  return codes;
}

// Adds the finished integer sums of a block to the float sums of 32 rows.
inline void FlushBlock(const __m512i* sums, __m512* totals) {
  for (int i = 0; i < 2; ++i) totals[i] = _mm512_add_ps(totals[i], _mm512_cvtepi32_ps(sums[i]));
}

// Of any of the three kinds of arguments.
template <typename Args>
inline void StoreRows(const Args& a, int64_t strip, int64_t t, const __m512* totals) {
  const int64_t row = strip * kTileRows;
  const __m512 x_scale = _mm512_set1_ps(a.x.scale[t]);
  const int64_t rows = a.w.rows - row < kTileRows ? a.w.rows - row : kTileRows;
  const uint32_t mask = rows < kTileRows ? (uint32_t{1} << rows) - 1 : ~uint32_t{0};
  for (int i = 0; i < 2; ++i) {
    const __m512 factor = _mm512_mul_ps(_mm512_loadu_ps(a.w.row_scale + row + 16 * i), x_scale);
    _mm512_mask_storeu_ps(a.y + t * a.y_stride + row + 16 * i, static_cast<__mmask16>(mask >> (16 * i)),
                          _mm512_mul_ps(totals[i], factor));
  }
}

}  // namespace qamserve::avx512
