// Kernels for AVX2, FMA and F16C. This file is compiled with those enabled; nothing in it runs unless the CPU has them.
#include "core/kernels/kernels.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "core/codec/packing.h"
#include "core/kernels/cpu/int8_avx2.h"
#include "core/kernels/cpu/int8_wide_avx2.h"
#include "core/kernels/cpu/joint_avx2.h"
#include "core/kernels/cpu/trellis_avx2.h"

namespace qamserve {
namespace avx2 {
namespace {

constexpr int kDotTokens = 3;

// The second is written over the first.
// clang-format off
#include "core/kernels/cpu/lanes_avx2.inc"
#include "core/kernels/cpu/float_kernels.inc"
// clang-format on

constexpr int kTileCodes = kTileRows * kTilePairs;  // 1024
constexpr int kPrefetchTiles = 6;                   // ahead of use; measured best of 0, 2, 6, 12 in the layout study

// Bit v of every byte, moved to bit `target` and alone.
template <int v, int target>
inline __m256i PlaneBit(__m256i plane) {
  const __m256i mask = _mm256_set1_epi8(static_cast<char>(1 << target));
  if constexpr (v >= target) return _mm256_and_si256(_mm256_srli_epi16(plane, v - target), mask);
  return _mm256_and_si256(_mm256_slli_epi16(plane, target - v), mask);
}

// The indices of line v, for 32 bytes from n. Code bits above the base go to the low byte while they fit it.
template <int kBits, int v>
inline void LineIndices(const uint8_t* tile, int n, const __m256i* planes, uint16_t* index) {
  constexpr int kBase = BaseLines(kBits);
  __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + kTileLine * (v % kBase) + n));
  if constexpr (kBase == 4) {
    low = _mm256_and_si256(v >= 4 ? _mm256_srli_epi16(low, 4) : low, _mm256_set1_epi8(15));
  }
  __m256i high = _mm256_setzero_si256();
  if constexpr (kBase == 4) {
    if constexpr (kBits > 4) low = _mm256_or_si256(low, PlaneBit<v, 4>(planes[0]));
    if constexpr (kBits > 5) low = _mm256_or_si256(low, PlaneBit<v, 5>(planes[1]));
    if constexpr (kBits > 6) low = _mm256_or_si256(low, PlaneBit<v, 6>(planes[2]));
  } else {
    if constexpr (kBits > 8) high = PlaneBit<v, 0>(planes[0]);
    if constexpr (kBits > 9) high = _mm256_or_si256(high, PlaneBit<v, 1>(planes[1]));
    if constexpr (kBits > 10) high = _mm256_or_si256(high, PlaneBit<v, 2>(planes[2]));
    if constexpr (kBits > 11) high = _mm256_or_si256(high, PlaneBit<v, 3>(planes[3]));
  }
  // Interleaving works within 128-bit halves: the halves are stored where they belong.
  const __m256i first = _mm256_unpacklo_epi8(low, high), second = _mm256_unpackhi_epi8(low, high);
  auto* out = reinterpret_cast<__m128i*>(index + kTileLine * v + n);
  _mm_store_si128(out, _mm256_castsi256_si128(first));
  _mm_store_si128(out + 1, _mm256_castsi256_si128(second));
  _mm_store_si128(out + 2, _mm256_extracti128_si256(first, 1));
  _mm_store_si128(out + 3, _mm256_extracti128_si256(second, 1));
}

// The codes of a tile as 16-bit table indices, index[128 v + n] (see packing.h).
template <int kBits>
inline void TileIndices(const uint8_t* tile, uint16_t* index) {
  constexpr int kBase = BaseLines(kBits);
  for (int n = 0; n < kTileLine; n += 32) {
    __m256i planes[4];
    for (int p = 0; p < kBits - kBase; ++p) {
      planes[p] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + kTileLine * (kBase + p) + n));
    }
    LineIndices<kBits, 0>(tile, n, planes, index);
    LineIndices<kBits, 1>(tile, n, planes, index);
    LineIndices<kBits, 2>(tile, n, planes, index);
    LineIndices<kBits, 3>(tile, n, planes, index);
    LineIndices<kBits, 4>(tile, n, planes, index);
    LineIndices<kBits, 5>(tile, n, planes, index);
    LineIndices<kBits, 6>(tile, n, planes, index);
    LineIndices<kBits, 7>(tile, n, planes, index);
  }
}

// The table entries of four neighbouring pairs of rows r..r+7 (index + 4 r): one 64-bit load brings four indices of a
// row, which leaves the load ports to the table.
inline void EightRowsFourPairs(const uint16_t* index, const int32_t* table, __m256i* entries) {
  __m128i half[2][4];
  for (int h = 0; h < 2; ++h) {
    uint64_t i[4];
    __builtin_memcpy(i, index + 16 * h, sizeof(i));
    for (int j = 0; j < 4; ++j) {
      half[h][j] = _mm_cvtsi32_si128(table[(i[0] >> (16 * j)) & 0xffff]);
      half[h][j] = _mm_insert_epi32(half[h][j], table[(i[1] >> (16 * j)) & 0xffff], 1);
      half[h][j] = _mm_insert_epi32(half[h][j], table[(i[2] >> (16 * j)) & 0xffff], 2);
      half[h][j] = _mm_insert_epi32(half[h][j], table[(i[3] >> (16 * j)) & 0xffff], 3);
    }
  }
  for (int j = 0; j < 4; ++j) entries[j] = _mm256_inserti128_si256(_mm256_castsi128_si256(half[0][j]), half[1][j], 1);
}

inline __m256i BroadcastPair(const int16_t* q) {
  int32_t pair;
  __builtin_memcpy(&pair, q, sizeof(pair));
  return _mm256_set1_epi32(pair);
}

inline __m256i MultiplyAdd(__m256i sum, __m256i weights, __m256i pair) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(weights, pair));
}

// Adds the finished integer sums of a block to the float sums of 32 rows.
inline void FlushBlock(__m256i* sums, __m256* totals) {
  for (int i = 0; i < 4; ++i) {
    totals[i] = _mm256_add_ps(totals[i], _mm256_cvtepi32_ps(sums[i]));
    sums[i] = _mm256_setzero_si256();
  }
}

inline void StoreRows(const PackedMatmulArgs& a, int64_t strip, int64_t t, const __m256* totals) {
  const int64_t row = strip * kTileRows;
  const __m256 x_scale = _mm256_set1_ps(a.x.scale[t]);
  alignas(32) float out[kTileRows];
  for (int i = 0; i < 4; ++i) {
    const __m256 factor = _mm256_mul_ps(_mm256_loadu_ps(a.w.row_scale + row + 8 * i), x_scale);
    _mm256_store_ps(out + 8 * i, _mm256_mul_ps(totals[i], factor));
  }
  const int64_t rows = a.w.rows - row < kTileRows ? a.w.rows - row : kTileRows;
  __builtin_memcpy(a.y + t * a.y_stride + row, out, static_cast<size_t>(rows) * sizeof(float));
}

// One token, up to 9 bits: magnitudes are looked up in registers (joint_avx2.h).
template <int kBits>
void OneTokenByNibbles(const PackedMatmulArgs& a) {
  const int64_t padded = PaddedCols(a.w.cols), tile_bytes = TileBytes(kBits);
  const NibbleTables<kBits> tables(a.w.table);
  auto* pairs = static_cast<PairBytes*>(a.scratch);
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    const uint8_t* tile = a.w.codes + strip * StripBytes(a.w.cols, kBits);
    __m256i sums[4] = {};
    __m256 totals[4] = {};
    for (int64_t c = 0; c < padded; c += kTileCols, tile += tile_bytes) {
      // Once for all strips if they fit.
      if (c % kPairBytesCols == 0 && (strip == a.strip_begin || padded > kPairBytesCols)) {
        PreparePairBytes(a.x.q + c, padded - c < kPairBytesCols ? padded - c : kPairBytesCols, pairs);
      }
      for (int64_t line = 0; line < tile_bytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(tile + kPrefetchTiles * tile_bytes + line), _MM_HINT_T0);
      }
      AddTile<kBits>(tile, tables, pairs + c % kPairBytesCols / 8, sums, std::make_integer_sequence<int, 8>());
      if ((c + kTileCols) % kPackedBlockCols == 0 || c + kTileCols == padded) FlushBlock(sums, totals);
    }
    StoreRows(a, strip, 0, totals);
  }
}

// One token, 10 bits and more: codes become table entries and are multiplied at once. Bound by the scalar table loads,
// about one pair a clock; the indices of the next tile are made while this one is looked up.
template <int kBits>
void OneToken(const PackedMatmulArgs& a) {
  const int64_t tiles = TilesAcross(a.w.cols), tile_bytes = TileBytes(kBits);
  alignas(64) uint16_t index[2][kTileCodes];
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    const uint8_t* tile = a.w.codes + strip * StripBytes(a.w.cols, kBits);
    __m256i sums[4] = {};
    __m256 totals[4] = {};
    TileIndices<kBits>(tile, index[0]);
    for (int64_t c = 0; c < tiles; ++c, tile += tile_bytes) {
      if (c + 1 < tiles) TileIndices<kBits>(tile + tile_bytes, index[(c + 1) & 1]);
      for (int64_t line = 0; line < tile_bytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(tile + kPrefetchTiles * tile_bytes + line), _MM_HINT_T0);
      }
      const int16_t* q = a.x.q + c * kTileCols;
      const uint16_t* at = index[c & 1];
      for (int v = 0; v < 8; ++v, at += kTileLine) {
        __m256i pair[4];
        for (int j = 0; j < 4; ++j) pair[j] = BroadcastPair(q + 8 * v + 2 * j);
        for (int i = 0; i < 4; ++i) {
          __m256i entries[4];
          EightRowsFourPairs(at + 32 * i, a.w.table, entries);
          for (int j = 0; j < 4; ++j) sums[i] = MultiplyAdd(sums[i], entries[j], pair[j]);
        }
      }
      if ((c + 1) * kTileCols % kPackedBlockCols == 0 || c + 1 == tiles) FlushBlock(sums, totals);
    }
    StoreRows(a, strip, 0, totals);
  }
}

// As DecodeTileByNibbles, by scalar loads.
template <int kBits>
inline void DecodeTile(const uint8_t* tile, const int32_t* table, __m256i* entries) {
  alignas(64) uint16_t index[kTileCodes];
  TileIndices<kBits>(tile, index);
  for (int v = 0; v < 8; ++v) {
    for (int i = 0; i < 4; ++i) {
      __m256i four[4];
      EightRowsFourPairs(index + kTileLine * v + 32 * i, table, four);
      for (int j = 0; j < 4; ++j) _mm256_store_si256(entries + 4 * (4 * v + j) + i, four[j]);
    }
  }
}

// One token with trellis codes (trellis_avx2.h).
template <int kBits>
void OneTokenTrellis(const PackedMatmulArgs& a) {
  const int64_t padded = PaddedCols(a.w.cols), tile_bytes = TileBytes(kBits);
  auto* input = reinterpret_cast<TrellisInput*>((reinterpret_cast<uintptr_t>(a.scratch) + 31) & ~uintptr_t{31});
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    const uint8_t* tile = a.w.codes + strip * StripBytes(a.w.cols, kBits);
    __m256i halves[8] = {};
    __m256 totals[4] = {};
    for (int64_t c = 0; c < padded; c += kTileCols, tile += tile_bytes) {
      // Once for all strips if they fit.
      if (c % kTrellisCols == 0 && (strip == a.strip_begin || padded > kTrellisCols)) {
        PrepareTrellisInput(a.x.q + c, padded - c < kTrellisCols ? padded - c : kTrellisCols, input);
      }
      for (int64_t line = 0; line < tile_bytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(tile + kPrefetchTiles * tile_bytes + line), _MM_HINT_T0);
      }
      AddTrellisTile<kBits>(tile, input->split + c % kTrellisCols, halves);
      if ((c + kTileCols) % kPackedBlockCols == 0 || c + kTileCols == padded) {
        __m256i sums[4];
        OrderTrellisSums(halves, input->raised[c % kTrellisCols / kPackedBlockCols], sums);
        FlushBlock(sums, totals);
      }
    }
    StoreRows(a, strip, 0, totals);
  }
}

// kTokens tokens against a decoded tile; their sums live in memory between tiles.
template <int kTokens>
inline void MultiplyTile(const __m256i* entries, const int16_t* q, int64_t stride, __m256i* sums) {
  __m256i s[kTokens][4];
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < 4; ++i) s[t][i] = _mm256_load_si256(sums + 4 * t + i);
  }
  for (int c = 0; c < kTilePairs; ++c) {
    for (int t = 0; t < kTokens; ++t) {
      const __m256i pair = BroadcastPair(q + t * stride + 2 * c);
      for (int i = 0; i < 4; ++i) s[t][i] = MultiplyAdd(s[t][i], _mm256_load_si256(entries + 4 * c + i), pair);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < 4; ++i) _mm256_store_si256(sums + 4 * t + i, s[t][i]);
  }
}

// Scratch of a group of tokens: a decoded tile and both kinds of sums.
struct GroupScratch {
  __m256i entries[4 * kTilePairs];
  __m256i sums[4 * kPackedTokenGroup];
  __m256 totals[4 * kPackedTokenGroup];
};
static_assert(sizeof(GroupScratch) + 32 <= kPackedScratchBytes);

// Decodes tiles of one matrix for a group of tokens.
template <int kBits, bool kTrellis>
class TileDecoder {
 public:
  explicit TileDecoder(const int32_t* table) : tables_(table), table_(table) {}
  void Decode(const uint8_t* tile, __m256i* entries) const {
    if constexpr (kTrellis) {
      DecodeTileTrellis<kBits>(tile, entries);
    } else if constexpr (kByNibbles) {
      DecodeTileByNibbles<kBits>(tile, tables_, entries, std::make_integer_sequence<int, 8>());
    } else {
      DecodeTile<kBits>(tile, table_, entries);
    }
  }

 private:
  static constexpr bool kByNibbles = !kTrellis && kBits <= 9;
  struct Nothing {
    explicit Nothing(const int32_t*) {}
  };
  std::conditional_t<kByNibbles, NibbleTables<std::min(kBits, 9)>, Nothing> tables_;
  const int32_t* table_;
};

template <int kBits, bool kTrellis>
void TokenGroup(const PackedMatmulArgs& a, int64_t first, int64_t tokens, GroupScratch* s) {
  const int64_t tiles = TilesAcross(a.w.cols);
  const TileDecoder<kBits, kTrellis> decoder(a.w.table);
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    const uint8_t* tile = a.w.codes + strip * StripBytes(a.w.cols, kBits);
    __builtin_memset(s->sums, 0, sizeof(s->sums));
    __builtin_memset(s->totals, 0, sizeof(s->totals));
    for (int64_t c = 0; c < tiles; ++c, tile += TileBytes(kBits)) {
      decoder.Decode(tile, s->entries);
      const int16_t* q = a.x.q + first * a.x.stride + c * kTileCols;
      int64_t t = 0;
      for (; t + 2 <= tokens; t += 2) MultiplyTile<2>(s->entries, q + t * a.x.stride, a.x.stride, s->sums + 4 * t);
      if (t < tokens) MultiplyTile<1>(s->entries, q + t * a.x.stride, a.x.stride, s->sums + 4 * t);
      if ((c + 1) * kTileCols % kPackedBlockCols == 0 || c + 1 == tiles) {
        for (t = 0; t < tokens; ++t) FlushBlock(s->sums + 4 * t, s->totals + 4 * t);
      }
    }
    for (int64_t t = 0; t < tokens; ++t) StoreRows(a, strip, first + t, s->totals + 4 * t);
  }
}

template <int kBits, bool kTrellis>
void PackedMatmulCoded(const PackedMatmulArgs& a) {
  if (a.x.tokens == 1) {
    if constexpr (kTrellis) return OneTokenTrellis<kBits>(a);
    if constexpr (!kTrellis && kBits <= 9) return OneTokenByNibbles<kBits>(a);
    if constexpr (!kTrellis && kBits >= 10) return OneToken<kBits>(a);
  }
  auto* scratch = reinterpret_cast<GroupScratch*>((reinterpret_cast<uintptr_t>(a.scratch) + 31) & ~uintptr_t{31});
  for (int64_t first = 0; first < a.x.tokens; first += kPackedTokenGroup) {
    const int64_t left = a.x.tokens - first;
    TokenGroup<kBits, kTrellis>(a, first, left < kPackedTokenGroup ? left : kPackedTokenGroup, scratch);
  }
}

// Four vectors of the running minimum stay in registers while the points stream by: four instructions a vector.
void TrellisStep(const TrellisStepArgs& a) {
  const __m256i target = _mm256_set1_epi32(a.target);
  const int32_t* points = a.points;
  for (int k = 0; k < a.blocks; ++k) {
    const uint32_t* entries = a.entries + int64_t{k / a.share} * a.items;
    __m256i best[4];
    for (auto& b : best) b = _mm256_set1_epi32(-1);
    for (int i = 0; i < a.items; ++i, points += kTrellisLanes) {
      const __m256i entry = _mm256_set1_epi32(static_cast<int32_t>(entries[i]));
      for (int v = 0; v < 4; ++v) {
        const __m256i point = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(points + 8 * v));
        const __m256i d = _mm256_sub_epi16(point, target);
        best[v] = _mm256_min_epu32(best[v], _mm256_add_epi32(_mm256_madd_epi16(d, d), entry));
      }
    }
    for (int v = 0; v < 4; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(a.best + k * kTrellisLanes + 8 * v), best[v]);
    }
  }
}

template <int kBits>
void PackedMatmulBits(const PackedMatmulArgs& a) {
  if constexpr (kBits <= kMaxTrellisPairBits) {
    if (a.w.table == nullptr) return PackedMatmulCoded<kBits, true>(a);
  }
  return PackedMatmulCoded<kBits, false>(a);
}

void PackedMatmul(const PackedMatmulArgs& a) {
  switch (a.w.pair_bits) {
    case 5:
      return PackedMatmulBits<5>(a);
    case 6:
      return PackedMatmulBits<6>(a);
    case 7:
      return PackedMatmulBits<7>(a);
    case 8:
      return PackedMatmulBits<8>(a);
    case 9:
      return PackedMatmulBits<9>(a);
    case 10:
      return PackedMatmulBits<10>(a);
    case 11:
      return PackedMatmulBits<11>(a);
    case 12:
      return PackedMatmulBits<12>(a);
  }
}

}  // namespace
}  // namespace avx2

const Kernels* Avx2Kernels() {
  static constexpr Kernels kKernels = {
      "avx2",           avx2::DenseMatmul,    avx2::PackedMatmul,   avx2::QuantizeInput, avx2::RmsNorm,
      avx2::Softmax,    avx2::SiluMul,        avx2::GeluMul,        avx2::ToFloat,       avx2::TrellisStep,
      avx2::Int8Matmul, avx2::QuantizeInput8, avx2::Int8WideMatmul, avx2::SampleWeights};
  // The builtin asks the system, too, whether it keeps the wide registers; clang's does not know F16C.
  unsigned eax, ebx, ecx, edx;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kKernels : nullptr;
}

}  // namespace qamserve

#else

namespace qamserve {
const Kernels* Avx2Kernels() { return nullptr; }
}  // namespace qamserve

#endif
