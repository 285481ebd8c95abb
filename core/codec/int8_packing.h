// The layout of 8-bit weights: the same bytes on disk, under SIMD and under CUDA.
//
// A matrix [rows][cols] is cut into strips of 32 rows, a strip into lines of 128 bytes that hold four neighbouring
// columns of its rows: column c of row r is byte 4 (r mod 32) + c mod 4 of line c / 4 of strip r / 32. Lines of a strip
// follow each other, then the next strip. Rows are padded to 32 and columns to 64 with 0, as in packing.h.
//
// A 32-bit lane thus holds four columns of one row, which is what byte-wise multiply-add instructions take, lanes are
// summed without a transpose, and a whole matrix is one stream of bytes.
#pragma once

#include <cstdint>

#include "core/codec/packing.h"

namespace qamserve {

inline constexpr int kInt8PairBits = 16;
inline constexpr int kInt8MaxWeight = 127;
inline constexpr int kInt8LineCols = 4;
static_assert(kTileRows * kInt8LineCols == kTileLine);

QAMSERVE_HOST_DEVICE inline constexpr int64_t Int8StripBytes(int64_t cols) { return PaddedCols(cols) * kTileRows; }
QAMSERVE_HOST_DEVICE inline constexpr int64_t Int8Bytes(int64_t rows, int64_t cols) {
  return StripsDown(rows) * Int8StripBytes(cols);
}

// Where the weight of row r, column c of a matrix of `cols` columns lies.
QAMSERVE_HOST_DEVICE inline constexpr int64_t Int8Offset(int64_t cols, int64_t r, int64_t c) {
  return r / kTileRows * Int8StripBytes(cols) + c / kInt8LineCols * kTileLine + r % kTileRows * kInt8LineCols +
         c % kInt8LineCols;
}

}  // namespace qamserve
