// The packed layout: the same bytes on disk, under SIMD and under CUDA.
//
// A matrix of codes [rows][pairs] is cut into tiles of 32 rows x 32 pairs (64 columns). A tile of b bits a pair has
// exactly 128 b bytes: b lines of 128. Tiles of a strip of 32 rows follow each other along the columns; strips follow
// each other. Rows are padded to 32 and columns to 64 with code 0 (whose row norm, or activation, is 0).
//
// Row r, pair c of a tile: v = c / 4, n = 4 r + c mod 4, so a 32-bit lane holds four neighbouring pairs of one row.
//   b >= 8: lines 0..7 are bytes: byte 128 v + n is code bits 0..7
//   b <  8: lines 0..3 are nibbles: byte 128 (v mod 4) + n, low nibble for v < 4, high for v >= 4, is code bits 0..3
//   every further code bit, ascending, is one line: bit v of byte n
// docs/artifact_format.md has an example in bytes.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define QAMSERVE_HOST_DEVICE __host__ __device__
#else
#define QAMSERVE_HOST_DEVICE
#endif

namespace qamserve {

inline constexpr int kTileRows = 32;
inline constexpr int kTilePairs = 32;
inline constexpr int kTileCols = 2 * kTilePairs;
inline constexpr int kTileLine = 128;  // bytes

QAMSERVE_HOST_DEVICE inline constexpr int64_t TileBytes(int pair_bits) { return int64_t{kTileLine} * pair_bits; }
QAMSERVE_HOST_DEVICE inline constexpr int64_t TilesAcross(int64_t cols) { return (cols + kTileCols - 1) / kTileCols; }
QAMSERVE_HOST_DEVICE inline constexpr int64_t StripsDown(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
QAMSERVE_HOST_DEVICE inline constexpr int64_t StripBytes(int64_t cols, int pair_bits) {
  return TilesAcross(cols) * TileBytes(pair_bits);
}
QAMSERVE_HOST_DEVICE inline constexpr int64_t PackedBytes(int64_t rows, int64_t cols, int pair_bits) {
  return StripsDown(rows) * StripBytes(cols, pair_bits);
}
QAMSERVE_HOST_DEVICE inline constexpr int64_t PaddedCols(int64_t cols) { return TilesAcross(cols) * kTileCols; }

// Lines that hold whole bytes or nibbles, and the code bits they hold.
QAMSERVE_HOST_DEVICE inline constexpr int BaseLines(int pair_bits) { return pair_bits >= 8 ? 8 : 4; }

// The code of row r, pair c of a tile.
QAMSERVE_HOST_DEVICE inline uint32_t UnpackCode(const uint8_t* tile, int pair_bits, int r, int c) {
  const int v = c >> 2, n = 4 * r + (c & 3);
  const int base = BaseLines(pair_bits);
  uint32_t code = base == 8 ? tile[kTileLine * v + n] : (tile[kTileLine * (v & 3) + n] >> (v >= 4 ? 4 : 0)) & 15u;
  for (int bit = base; bit < pair_bits; ++bit) {
    code |= static_cast<uint32_t>((tile[kTileLine * bit + n] >> v) & 1) << bit;
  }
  return code;
}

// Sets the code of row r, pair c of a tile that was all zero there.
QAMSERVE_HOST_DEVICE inline void PackCode(uint8_t* tile, int pair_bits, int r, int c, uint32_t code) {
  const int v = c >> 2, n = 4 * r + (c & 3);
  const int base = BaseLines(pair_bits);
  if (base == 8) {
    tile[kTileLine * v + n] = static_cast<uint8_t>(code);
  } else {
    tile[kTileLine * (v & 3) + n] |= static_cast<uint8_t>((code & 15u) << (v >= 4 ? 4 : 0));
  }
  for (int bit = base; bit < pair_bits; ++bit) {
    tile[kTileLine * bit + n] |= static_cast<uint8_t>(((code >> bit) & 1u) << v);
  }
}

}  // namespace qamserve
