// The reference kernels: no instruction set assumed, every product written out from the layout's definition.
#include <cmath>

#include "core/codec/int8_packing.h"
#include "core/codec/packing.h"
#include "core/kernels/cpu/lanes_scalar.h"
#include "core/kernels/kernels.h"

namespace qamserve {
namespace scalar {
namespace {

#include "core/kernels/cpu/float_kernels.inc"

// The exact integer sum of one row over columns [begin, end) of the padded width.
int32_t BlockSum(const PackedMatrix& w, const uint8_t* strip, int row, const int16_t* q, int64_t begin, int64_t end) {
  int32_t sum = 0;
  for (int64_t col = begin; col < end; col += 2) {
    const uint8_t* tile = strip + (col / kTileCols) * TileBytes(w.pair_bits);
    const uint32_t code = UnpackCode(tile, w.pair_bits, row, static_cast<int>(col % kTileCols) / 2);
    const int32_t entry = w.table[code];
    sum += static_cast<int16_t>(entry & 0xffff) * q[col] + (entry >> 16) * q[col + 1];
  }
  return sum;
}

void PackedMatmul(const PackedMatmulArgs& a) {
  const int64_t padded = PaddedCols(a.w.cols);
  for (int64_t row = a.strip_begin * kTileRows; row < a.strip_end * kTileRows && row < a.w.rows; ++row) {
    const uint8_t* strip = a.w.codes + (row / kTileRows) * StripBytes(a.w.cols, a.w.pair_bits);
    for (int64_t t = 0; t < a.x.tokens; ++t) {
      float sum = 0;
      for (int64_t begin = 0; begin < padded; begin += kPackedBlockCols) {
        const int64_t end = begin + kPackedBlockCols < padded ? begin + kPackedBlockCols : padded;
        sum += static_cast<float>(
            BlockSum(a.w, strip, static_cast<int>(row % kTileRows), a.x.q + t * a.x.stride, begin, end));
      }
      a.y[t * a.y_stride + row] = sum * (a.w.row_scale[row] * a.x.scale[t]);
    }
  }
}

void Int8Matmul(const Int8MatmulArgs& a) {
  for (int64_t row = a.strip_begin * kTileRows; row < a.strip_end * kTileRows && row < a.w.rows; ++row) {
    for (int64_t t = 0; t < a.x.tokens; ++t) {
      const int8_t* q = a.x.q + t * a.x.stride;
      float total = 0;
      for (int64_t begin = 0; begin < a.w.cols; begin += kInt8BlockCols) {
        const int64_t end = begin + kInt8BlockCols < a.w.cols ? begin + kInt8BlockCols : a.w.cols;
        int32_t sum = 0;
        for (int64_t col = begin; col < end; ++col) sum += a.w.data[Int8Offset(a.w.cols, row, col)] * q[col];
        total += static_cast<float>(sum);
      }
      a.y[t * a.y_stride + row] = total * (a.w.row_scale[row] * a.x.scale[t]);
    }
  }
}

}  // namespace
}  // namespace scalar

const Kernels& ScalarKernels() {
  static constexpr Kernels kKernels = {
      "scalar",        scalar::DenseMatmul, scalar::PackedMatmul,  scalar::QuantizeInput,
      scalar::RmsNorm, scalar::Softmax,     scalar::SiluMul,       scalar::GeluMul,
      scalar::ToFloat, scalar::Int8Matmul,  scalar::QuantizeInput8};
  return kKernels;
}

}  // namespace qamserve
