// Kernels for AMX. This file is compiled with its byte tiles and AVX-512 enabled; nothing in it runs unless the CPU has
// both.
#include "core/kernels/cpu/amx.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "core/codec/int8_packing.h"
#include "core/kernels/cpu/joint_avx512.h"
#include "core/kernels/cpu/tiles_amx.h"
#include "core/kernels/cpu/trellis_avx512.h"

namespace qamserve::amx {
namespace {

constexpr int64_t kBlockSteps = kPackedBlockCols / kTileCols;  // 8
// Tokens that share the decoded weights of a block.
constexpr int64_t kGroup = 128;

// The weights of a block of a strip as tiles, [step][2][2][kTileSize]: of rows 0..15 and of rows 16..31, in two parts
// each where a byte does not hold a weight.
constexpr int64_t kDecodedStep = 4 * kTileSize;
// A group's activations of a block, its weights, the sums of a product, and the sums of each token's activations.
struct PackedScratch {
  int8_t activations[kGroup * kPackedBlockCols * 2];
  uint8_t weights[kBlockSteps * kDecodedStep];
  FourSums sums;
  int32_t activation_sums[kGroup];
};
static_assert(sizeof(PackedScratch) + 64 <= kPackedScratchBytes);

// How a codec's weights become unsigned bytes. Decode writes the tiles of one step; Sum is what the four sums of 16
// rows of token t come to, where `activations` is the sum of the token's activations.

// Up to 9 bits: a weight and 128 is a byte (joint_avx512.h), and one product has both halves of the rows.
template <int kBits>
struct RaisedWeights {
  static constexpr bool kHalvesTogether = true;
  avx512::MagnitudeTable<kBits> table;
  explicit RaisedWeights(const PackedMatrix& w) : table(w.table, 128) {}

  template <int... v>
  void Decode(const uint8_t* tile, uint8_t* out, std::integer_sequence<int, v...>) const {
    for (int h = 0; h < 2; ++h) (DecodeLine<v>(tile, h, out + h * kTileSize), ...);
  }
  template <int v>
  void DecodeLine(const uint8_t* tile, int h, uint8_t* out) const {
    const avx512::HalfLineCodes codes = avx512::LookUpHalfLine<kBits, v>(tile, h, table);
    const __m512i zero = _mm512_setzero_si512();
    _mm512_store_si512(out + 128 * v, _mm512_mask_sub_epi8(codes.x, codes.negative_x, zero, codes.x));
    _mm512_store_si512(out + 128 * v + 64, _mm512_mask_sub_epi8(codes.y, codes.negative_y, zero, codes.y));
  }
  static __m512i Sum(const FourSums& s, int half, int64_t t, int32_t activations) {
    const __m512i sum =
        half == 0 ? JoinParts(s.high_first[t], s.low_first[t]) : JoinParts(s.high_second[t], s.low_second[t]);
    return _mm512_sub_epi32(sum, _mm512_set1_epi32(128 * activations));
  }
};

// From 10 bits on a weight has 8 bits and a sign: positive ones in the first part, negative ones in the second.
template <int kBits>
struct PartedWeights {
  static constexpr bool kHalvesTogether = false;
  avx512::MagnitudeTable<kBits> table;
  explicit PartedWeights(const PackedMatrix& w) : table(w.table, 0) {}

  template <int... v>
  void Decode(const uint8_t* tile, uint8_t* out, std::integer_sequence<int, v...>) const {
    for (int h = 0; h < 2; ++h) (DecodeLine<v>(tile, h, out + 2 * h * kTileSize), ...);
  }
  template <int v>
  void DecodeLine(const uint8_t* tile, int h, uint8_t* out) const {
    const avx512::HalfLineCodes codes = avx512::LookUpHalfLine<kBits, v>(tile, h, table);
    uint8_t* x = out + 128 * v;
    _mm512_store_si512(x, _mm512_maskz_mov_epi8(~codes.negative_x, codes.x));
    _mm512_store_si512(x + 64, _mm512_maskz_mov_epi8(~codes.negative_y, codes.y));
    _mm512_store_si512(x + kTileSize, _mm512_maskz_mov_epi8(codes.negative_x, codes.x));
    _mm512_store_si512(x + kTileSize + 64, _mm512_maskz_mov_epi8(codes.negative_y, codes.y));
  }
  static __m512i Sum(const FourSums& s, int, int64_t t, int32_t) {
    return _mm512_sub_epi32(JoinParts(s.high_first[t], s.low_first[t]), JoinParts(s.high_second[t], s.low_second[t]));
  }
};

// A trellis's value raised by kTrellisMaxValue is 0 to 1020: its upper bits in the first part, the lower two in the
// second.
template <int kBits>
struct TrellisWeights {
  static constexpr bool kHalvesTogether = false;
  explicit TrellisWeights(const PackedMatrix&) {}

  template <int... v>
  void Decode(const uint8_t* tile, uint8_t* out, std::integer_sequence<int, v...>) const {
    (DecodeLine<v>(tile, out), ...);
  }
  template <int v>
  void DecodeLine(const uint8_t* tile, uint8_t* out) const {
    __m512i states[4];
    avx512::LineStates<kBits, v>(tile, states);
    for (int i = 0; i < 4; ++i) {  // rows 8 i .. 8 i + 7
      uint8_t* to = out + i / 2 * (2 * kTileSize) + i % 2 * 32 + 128 * v;
      for (int column = 0; column < 2; ++column) {
        const __m512i value = avx512::RaisedTrellisValues(states[i], column);
        StoreBytes(_mm512_srli_epi16(value, 2), to + 64 * column);
        StoreBytes(_mm512_and_si512(value, _mm512_set1_epi16(3)), to + kTileSize + 64 * column);
      }
    }
  }
  static void StoreBytes(__m512i words, uint8_t* to) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(words));
  }
  static __m512i Sum(const FourSums& s, int, int64_t t, int32_t activations) {
    const __m512i upper = _mm512_slli_epi32(JoinParts(s.high_first[t], s.low_first[t]), 2);
    const __m512i sum = _mm512_add_epi32(upper, JoinParts(s.high_second[t], s.low_second[t]));
    return _mm512_sub_epi32(sum, _mm512_set1_epi32(kTrellisMaxValue * activations));
  }
};

// Even columns of four pairs, then their odd ones, as the weights' tile rows are.
inline __m256i PairOrder() {
  return _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
}

// A group of tokens, a block of columns and a strip.
struct BlockPlace {
  int64_t first_token, tokens, strip, steps;
  bool first_block, last_block;
};

template <typename Weights>
inline void AddStripBlock(const PackedMatmulArgs& a, const BlockPlace& at, const TokenTiles& tiles, PackedScratch* s) {
  const uint32_t mask = RowMask(a.w.rows, at.strip);
  for (int64_t tile = 0; tile < tiles.tiles; ++tile) {
    const int8_t* activations = s->activations + tile * tiles.rows * at.steps * 128;
    const int64_t first = tile * tiles.rows, count = std::min(tiles.rows, at.tokens - first);
    for (int half = 0; half < 2; ++half) {
      if (!Weights::kHalvesTogether || half == 0) {
        const uint8_t* weights = s->weights + 2 * half * kTileSize;
        MultiplySteps<false>(activations, tiles.rows, weights, weights + kTileSize, at.steps, kDecodedStep, 64,
                             &s->sums);
      }
      const auto rows = static_cast<__mmask16>(mask >> (16 * half));
      for (int64_t t = 0; t < count; ++t) {
        float* y = a.y + (at.first_token + first + t) * a.y_stride + at.strip * kTileRows + 16 * half;
        AddBlock(Weights::Sum(s->sums, half, t, s->activation_sums[first + t]), rows, at.first_block, y);
      }
    }
  }
  for (int64_t t = 0; at.last_block && t < at.tokens; ++t) ScaleRows(a, at.strip, at.first_token + t);
}

// Blocks are the outer loop, so that a group's activations of one are prepared once for all strips; sums of rows wait
// in y between blocks. Measured on one core, G weights/s times tokens, beside the AVX-512 kernels: see kMinTokens.
template <int kBits, typename Weights>
void MultiplyGroup(const PackedMatmulArgs& a, const Weights& decoder, int64_t first_token, int64_t tokens,
                   PackedScratch* s) {
  const TokenTiles tiles(tokens);
  const TileShape shape(static_cast<int>(tiles.rows));
  const int64_t padded = PaddedCols(a.w.cols);
  for (int64_t begin = 0; begin < padded; begin += kPackedBlockCols) {
    const int64_t cols = std::min(padded - begin, kPackedBlockCols), steps = cols / kTileCols;
    for (int64_t t = 0; t < tokens; ++t) {
      int8_t* out = s->activations + t / tiles.rows * tiles.rows * steps * 128 + t % tiles.rows * 64;
      s->activation_sums[t] =
          SplitActivations(a.x.q + (first_token + t) * a.x.stride + begin, cols, PairOrder(), tiles.rows, out);
    }
    for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
      const uint8_t* tile = a.w.codes + strip * StripBytes(a.w.cols, kBits) + begin / kTileCols * TileBytes(kBits);
      for (int64_t step = 0; step < steps; ++step, tile += TileBytes(kBits)) {
        avx512::PrefetchTile(tile, TileBytes(kBits));
        decoder.Decode(tile, s->weights + step * kDecodedStep, std::make_integer_sequence<int, 8>());
      }
      AddStripBlock<Weights>(a, {first_token, tokens, strip, steps, begin == 0, begin + cols == padded}, tiles, s);
    }
  }
}

template <int kBits, typename Weights>
void MultiplyGroups(const PackedMatmulArgs& a) {
  const Weights decoder(a.w);
  for (int64_t first = 0; first < a.x.tokens; first += kGroup) {
    MultiplyGroup<kBits>(a, decoder, first, std::min(kGroup, a.x.tokens - first),
                         static_cast<PackedScratch*>(a.scratch));
  }
}

template <int kBits>
void PackedMatmulBits(const PackedMatmulArgs& a) {
  if constexpr (kBits <= kMaxTrellisPairBits) {
    if (a.w.table == nullptr) return MultiplyGroups<kBits, TrellisWeights<kBits>>(a);
  }
  if constexpr (kBits <= 9) {
    MultiplyGroups<kBits, RaisedWeights<kBits>>(a);
  } else {
    MultiplyGroups<kBits, PartedWeights<kBits>>(a);
  }
}

// 8-bit weights lie as tiles do: half a line is a tile row. Activations of a tile's tokens are prepared once for all
// strips.
struct alignas(64) Int8Scratch {
  int8_t activations[kTileTokens * kMaxInt8Cols];
  FourSums sums;
};

// `count` tokens from `first` on, which lie in tiles of `rows`, in blocks of kBlockCols. An activation has kBytes;
// multiply(activations, weights, steps) fills the sums.
template <int64_t kBlockCols, int kBytes, typename Args, typename Multiply>
inline void Int8Tokens(const Args& a, int64_t first, int64_t count, int64_t rows, Int8Scratch* s, Multiply multiply) {
  const int64_t padded = PaddedCols(a.w.cols);
  for (int64_t strip = a.strip_begin; strip < a.strip_end; ++strip) {
    const int8_t* w = a.w.data + strip * Int8StripBytes(a.w.cols);
    const uint32_t mask = RowMask(a.w.rows, strip);
    for (int64_t begin = 0; begin < padded; begin += kBlockCols) {
      const int64_t cols = std::min(padded - begin, kBlockCols);
      multiply(s->activations + begin * kBytes * rows, w + begin * kTileRows, cols / kTileCols);
      for (int64_t t = 0; t < count; ++t) {
        float* y = a.y + (first + t) * a.y_stride + strip * kTileRows;
        const __m512i low_rows =
            kBytes == 2 ? JoinParts(s->sums.high_first[t], s->sums.low_first[t]) : LoadSums(s->sums.high_first[t]);
        const __m512i high_rows =
            kBytes == 2 ? JoinParts(s->sums.high_second[t], s->sums.low_second[t]) : LoadSums(s->sums.high_second[t]);
        AddBlock(low_rows, static_cast<__mmask16>(mask), begin == 0, y);
        AddBlock(high_rows, static_cast<__mmask16>(mask >> 16), begin == 0, y + 16);
      }
    }
    for (int64_t t = 0; t < count; ++t) ScaleRows(a, strip, first + t);
  }
}

// 8-bit activations have one part: two of the four sums. Weights of a step are 16 lines.
void MultiplyBytes(const int8_t* activations, int64_t rows, const int8_t* w, int64_t n, FourSums* sums) {
  constexpr int64_t kStep = kTileCols * kTileRows;
  CompilerBarrier();
  _tile_zero(0);
  _tile_zero(2);
  for (int64_t i = 0; i < n; ++i) {
    _tile_loadd(4, activations + i * 64 * rows, 64);
    _tile_loadd(6, w + i * kStep, kTileLine);
    _tile_loadd(7, w + i * kStep + 64, kTileLine);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(2, 4, 7);
  }
  _tile_stored(0, sums->high_first, 64);
  _tile_stored(2, sums->high_second, 64);
  CompilerBarrier();
}

}  // namespace

bool Usable() {
  // Bits 24 and 25 of EDX, leaf 7: tiles and their byte products.
  unsigned eax, ebx, ecx, edx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx >> 24 & 3u) != 3u) return false;
  // The 8 KiB of tiles are saved only for processes that asked for them.
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
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

void Int8Matmul(const Int8MatmulArgs& a) {
  Int8Scratch scratch;
  const int64_t padded = PaddedCols(a.w.cols);
  const TokenTiles tiles(a.x.tokens);
  const TileShape shape(static_cast<int>(tiles.rows));
  for (int64_t first = 0; first < a.x.tokens; first += tiles.rows) {
    const int64_t count = std::min(tiles.rows, a.x.tokens - first);
    for (int64_t t = 0; t < count; ++t) {
      const int8_t* q = a.x.q + (first + t) * a.x.stride;
      for (int64_t c = 0; c < padded; c += 64) {
        __builtin_memcpy(scratch.activations + c * tiles.rows + t * 64, q + c, 64);
      }
    }
    Int8Tokens<kInt8BlockCols, 1>(
        a, first, count, tiles.rows, &scratch,
        [&](const int8_t* x, const int8_t* w, int64_t n) { MultiplyBytes(x, tiles.rows, w, n, &scratch.sums); });
  }
}

void Int8WideMatmul(const Int8WideMatmulArgs& a) {
  Int8Scratch scratch;
  const int64_t padded = PaddedCols(a.w.cols);
  const TokenTiles tiles(a.x.tokens);
  const TileShape shape(static_cast<int>(tiles.rows));
  const __m256i as_they_are =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (int64_t first = 0; first < a.x.tokens; first += tiles.rows) {
    const int64_t count = std::min(tiles.rows, a.x.tokens - first);
    for (int64_t t = 0; t < count; ++t) {
      SplitActivations(a.x.q + (first + t) * a.x.stride, padded, as_they_are, tiles.rows, scratch.activations + t * 64);
    }
    Int8Tokens<kInt8WideBlockCols, 2>(
        a, first, count, tiles.rows, &scratch, [&](const int8_t* x, const int8_t* w, int64_t n) {
          MultiplySteps<true>(x, tiles.rows, w, w + 64, n, kTileCols * kTileRows, kTileLine, &scratch.sums);
        });
  }
}

}  // namespace qamserve::amx

#else

namespace qamserve::amx {
bool Usable() { return false; }
void PackedMatmul(const PackedMatmulArgs&) {}
void Int8Matmul(const Int8MatmulArgs&) {}
void Int8WideMatmul(const Int8WideMatmulArgs&) {}
}  // namespace qamserve::amx

#endif
