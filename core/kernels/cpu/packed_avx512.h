// Groups of tokens against packed codes for AVX-512, and the choice of what multiplies. Included only by avx512.cc.
#pragma once

#include "core/kernels/cpu/joint_avx512.h"
#include "core/kernels/cpu/trellis_avx512.h"

namespace qamserve::avx512 {

// kTokens tokens against a decoded tile; their sums live in memory between tiles.
template <int kTokens>
inline void MultiplyTile(const int32_t* entries, const int16_t* q, int64_t stride, __m512i (*sums)[2]) {
  __m512i s[kTokens][2];
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < 2; ++i) s[t][i] = sums[t][i];
  }
  for (int c = 0; c < kTilePairs; ++c, entries += kTileRows) {
    const __m512i first = _mm512_load_si512(entries), second = _mm512_load_si512(entries + 16);
    for (int t = 0; t < kTokens; ++t) {
      int32_t two;
      __builtin_memcpy(&two, q + t * stride + 2 * c, sizeof(two));
      const __m512i pair = SetDword(two);
      s[t][0] = _mm512_dpwssd_epi32(s[t][0], first, pair);
      s[t][1] = _mm512_dpwssd_epi32(s[t][1], second, pair);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < 2; ++i) sums[t][i] = s[t][i];
  }
}

// Scratch of a group of tokens: a decoded tile and both kinds of sums.
struct GroupScratch {
  int32_t entries[kTilePairs * kTileRows];
  __m512i sums[kPackedTokenGroup][2];
  __m512 totals[kPackedTokenGroup][2];
};
static_assert(sizeof(GroupScratch) + 64 <= kPackedScratchBytes);

inline void MultiplyTokens(GroupScratch* s, const int16_t* q, int64_t stride, int64_t tokens) {
  int64_t t = 0;
  for (; t + 8 <= tokens; t += 8) MultiplyTile<8>(s->entries, q + t * stride, stride, s->sums + t);
  if (t + 4 <= tokens) MultiplyTile<4>(s->entries, q + t * stride, stride, s->sums + t), t += 4;
  if (t + 2 <= tokens) MultiplyTile<2>(s->entries, q + t * stride, stride, s->sums + t), t += 2;
  if (t < tokens) MultiplyTile<1>(s->entries, q + t * stride, stride, s->sums + t);
}

// `decode` makes the (x, y) of a tile.
template <int kBits, typename Decode>
inline void TokenGroup(const PackedMatmulArgs& a, int64_t first, int64_t tokens, GroupScratch* s, Decode decode) {
  const int64_t tiles = TilesAcross(a.w.cols);
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    const uint8_t* tile = a.w.codes + strip * StripBytes(a.w.cols, kBits);
    __builtin_memset(s->sums, 0, sizeof(s->sums));
    __builtin_memset(s->totals, 0, sizeof(s->totals));
    for (int64_t c = 0; c < tiles; ++c, tile += TileBytes(kBits)) {
      PrefetchTile(tile, TileBytes(kBits));
      decode(tile, s->entries);
      MultiplyTokens(s, a.x.q + first * a.x.stride + c * kTileCols, a.x.stride, tokens);
      if ((c + 1) * kTileCols % kPackedBlockCols == 0 || c + 1 == tiles) {
        for (int64_t t = 0; t < tokens; ++t) FlushBlock(s->sums[t], s->totals[t]);
        __builtin_memset(s->sums, 0, sizeof(s->sums));
      }
    }
    for (int64_t t = 0; t < tokens; ++t) StoreRows(a, strip, first + t, s->totals[t]);
  }
}

template <int kBits, typename Decode>
void TokenGroups(const PackedMatmulArgs& a, Decode decode) {
  for (int64_t first = 0; first < a.x.tokens; first += kPackedTokenGroup) {
    const int64_t left = a.x.tokens - first;
    TokenGroup<kBits>(a, first, left < kPackedTokenGroup ? left : kPackedTokenGroup,
                      static_cast<GroupScratch*>(a.scratch), decode);
  }
}

template <int kBits>
void PackedMatmulBits(const PackedMatmulArgs& a) {
  if constexpr (kBits <= kMaxTrellisPairBits) {
    if (a.w.table == nullptr) {
      if (a.x.tokens == 1) return OneTokenTrellis<kBits>(a);
      return TokenGroups<kBits>(a, DecodeTrellisTile<kBits>);
    }
  }
  switch (a.x.tokens) {
    case 1:
      return FewTokens<kBits, 1>(a, 0);
    case 2:
      return FewTokens<kBits, 2>(a, 0);
    case 3:
      return FewTokens<kBits, 3>(a, 0);
    case 4:
      return FewTokens<kBits, 4>(a, 0);
  }
  const MagnitudeTable<kBits> table(a.w.table, 0);
  TokenGroups<kBits>(a, [&](const uint8_t* tile, int32_t* entries) {
    DecodeTile(tile, table, entries, std::make_integer_sequence<int, 8>());
  });
}

inline void* AlignScratch(void* scratch) {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(scratch) + 63) & ~uintptr_t{63});
}

inline void PackedMatmul(const PackedMatmulArgs& unaligned) {
  PackedMatmulArgs a = unaligned;
  a.scratch = AlignScratch(a.scratch);
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

}  // namespace qamserve::avx512
