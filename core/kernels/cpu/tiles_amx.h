// What the tile registers of AMX hold, and the arithmetic around them. Included only by amx.cc.
//
// A product takes activations as the left matrix (a token a row, 64 bytes of it) and weights as the right one, of which
// a tile row holds four neighbouring entries of 16 rows of the layer: half a line of the packed layout. A 14-bit
// activation is two bytes, 128 h + l; sums of both are exact and put together when a block of columns ends.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/kernels/cpu/codes_avx512.h"

namespace qamserve::amx {

inline constexpr int kTileTokens = 16;
inline constexpr int64_t kTileSize = 1024;  // bytes of a whole tile register

// Sums 0 to 3, activations 4 and 5, weights 6 and 7. Released when it ends.
class TileShape {
 public:
  explicit TileShape(int tokens) {
    Config config;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = 64;
      config.rows[i] = static_cast<uint8_t>(i < 6 ? tokens : 16);
    }
    _tile_loadconfig(&config);
  }
  ~TileShape() { _tile_release(); }
  TileShape(const TileShape&) = delete;
  TileShape& operator=(const TileShape&) = delete;

 private:
  // As the manual of the instruction set has it.
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
  static_assert(sizeof(Config) == 64);
};

// Tokens in as few tiles as they need, all but the last with the same number.
struct TokenTiles {
  int64_t tiles, rows;
  explicit TokenTiles(int64_t tokens)
      : tiles((tokens + kTileTokens - 1) / kTileTokens), rows((tokens + tiles - 1) / tiles) {}
};

// Sums of the four products of activations h and l with two tiles of weights.
struct alignas(64) FourSums {
  int32_t high_first[kTileTokens][16], low_first[kTileTokens][16];
  int32_t high_second[kTileTokens][16], low_second[kTileTokens][16];
};

// The compiler's tile loads and stores do not say that they read and write memory.
inline void CompilerBarrier() { __asm__ volatile("" ::: "memory"); }

// Activations of `n` steps of 64 columns, [step][h, l][row][64]; weights of a step are `weight_step` apart and their
// tile rows `weight_stride`. kSigned tells whether weights are.
template <bool kSigned>
inline void MultiplySteps(const int8_t* activations, int64_t rows, const void* first, const void* second, int64_t n,
                          int64_t weight_step, int64_t weight_stride, FourSums* sums) {
  const auto* b0 = static_cast<const char*>(first);
  const auto* b1 = static_cast<const char*>(second);
  const int64_t part = 64 * rows;
  CompilerBarrier();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < n; ++i) {
    _tile_loadd(4, activations + 2 * i * part, 64);
    _tile_loadd(5, activations + (2 * i + 1) * part, 64);
    _tile_loadd(6, b0 + i * weight_step, weight_stride);
    _tile_loadd(7, b1 + i * weight_step, weight_stride);
    if constexpr (kSigned) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 5, 6);
      _tile_dpbssd(2, 4, 7);
      _tile_dpbssd(3, 5, 7);
    } else {
      _tile_dpbsud(0, 4, 6);
      _tile_dpbsud(1, 5, 6);
      _tile_dpbsud(2, 4, 7);
      _tile_dpbsud(3, 5, 7);
    }
  }
  _tile_stored(0, sums->high_first, 64);
  _tile_stored(1, sums->low_first, 64);
  _tile_stored(2, sums->high_second, 64);
  _tile_stored(3, sums->low_second, 64);
  CompilerBarrier();
}

inline __m512i LoadSums(const int32_t* sums) { return _mm512_load_si512(sums); }

// 128 h + l.
inline __m512i JoinParts(const int32_t* high, const int32_t* low) {
  return _mm512_add_epi32(_mm512_slli_epi32(LoadSums(high), 7), LoadSums(low));
}

// Writes `n` activations (a multiple of 64) of one token as bytes h and l, [step][h, l][row][64], in the order of
// `shuffle` within each eight. Returns their sum.
inline int32_t SplitActivations(const int16_t* q, int64_t n, __m256i shuffle, int64_t rows, int8_t* out) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t c = 0; c < n; c += 32) {
    const __m512i whole = avx512::LoadBytes(q + c);
    const __m512i high = _mm512_srai_epi16(_mm512_add_epi16(whole, _mm512_set1_epi16(64)), 7);  // -64..64
    const __m512i low = _mm512_sub_epi16(whole, _mm512_slli_epi16(high, 7));                    // -64..63
    int8_t* at = out + c / 64 * (2 * 64 * rows) + c % 64;
    auto store = [&](__m512i words, int8_t* to) {
      const __m256i bytes = _mm256_shuffle_epi8(_mm512_cvtepi16_epi8(words), shuffle);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
    };
    store(high, at);
    store(low, at + 64 * rows);
    sum = _mm512_dpwssd_epi32(sum, whole, _mm512_set1_epi16(1));
  }
  return _mm512_reduce_add_epi32(sum);
}

// Adds a finished block to the float sums of 16 rows of a token, which wait in y.
inline void AddBlock(__m512i block, __mmask16 rows, bool first, float* y) {
  const __m512 before = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, y);
  _mm512_mask_storeu_ps(y, rows, _mm512_add_ps(before, _mm512_cvtepi32_ps(block)));
}

// The rows of a strip that there are, of 32.
inline uint32_t RowMask(int64_t rows, int64_t strip) {
  const int64_t left = rows - strip * kTileRows;
  return left < kTileRows ? (uint32_t{1} << left) - 1 : ~uint32_t{0};
}

// Scales the sums of a token's rows of a strip, when all blocks are in. Of any of the three kinds of arguments.
template <typename Args>
inline void ScaleRows(const Args& a, int64_t strip, int64_t t) {
  const uint32_t mask = RowMask(a.w.rows, strip);
  const __m512 x_scale = _mm512_set1_ps(a.x.scale[t]);
  for (int i = 0; i < 2; ++i) {
    const int64_t row = strip * kTileRows + 16 * i;
    const auto rows = static_cast<__mmask16>(mask >> (16 * i));
    float* y = a.y + t * a.y_stride + row;
    const __m512 factor = _mm512_mul_ps(_mm512_loadu_ps(a.w.row_scale + row), x_scale);
    _mm512_mask_storeu_ps(y, rows, _mm512_mul_ps(_mm512_maskz_loadu_ps(rows, y), factor));
  }
}

}  // namespace qamserve::amx
