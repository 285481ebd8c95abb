// The reference kernels: no instruction set assumed, every product written out from the layout's definition.
#include <cmath>

#include "core/codec/int8_packing.h"
#include "core/codec/packing.h"
#include "core/codec/trellis.h"
#include "core/kernels/cpu/lanes_scalar.h"
#include "core/kernels/kernels.h"

namespace qamserve {
namespace scalar {
namespace {

constexpr int kDotTokens = 3;

#include "core/kernels/cpu/float_kernels.inc"

// The exact integer sum of one row over columns [begin, end) of the padded width.
int32_t BlockSum(const PackedMatrix& w, const uint8_t* strip, int row, const int16_t* q, int64_t begin, int64_t end) {
  int32_t sum = 0;
  for (int64_t col = begin; col < end; col += 2) {
    const uint8_t* tile = strip + (col / kTileCols) * TileBytes(w.pair_bits);
    const int pair = static_cast<int>(col % kTileCols) / 2;
    if (w.table != nullptr) {
      const int32_t entry = w.table[UnpackCode(tile, w.pair_bits, row, pair)];
      sum += static_cast<int16_t>(entry & 0xffff) * q[col] + (entry >> 16) * q[col + 1];
    } else {
      const uint32_t state = TrellisState(tile, w.pair_bits, row, pair);
      sum += TrellisValue(state, 0) * q[col] + TrellisValue(state, 1) * q[col + 1];
    }
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

void TrellisStep(const TrellisStepArgs& a) {
  const auto tx = static_cast<int16_t>(a.target & 0xffff), ty = static_cast<int16_t>(a.target >> 16);
  for (int k = 0; k < a.blocks; ++k) {
    for (int lane = 0; lane < kTrellisLanes; ++lane) {
      uint32_t best = ~uint32_t{0};
      for (int i = 0; i < a.items; ++i) {
        const int32_t point = a.points[(int64_t{k} * a.items + i) * kTrellisLanes + lane];
        const int dx = static_cast<int16_t>(point & 0xffff) - tx, dy = (point >> 16) - ty;
        const uint32_t cost = a.entries[int64_t{k / a.share} * a.items + i] + static_cast<uint32_t>(dx * dx + dy * dy);
        best = cost < best ? cost : best;
      }
      a.best[k * kTrellisLanes + lane] = best;
    }
  }
}

// Activations of 8 or of 14 bits.
template <int64_t kBlockCols, typename Args>
void Int8MatmulBlocks(const Args& a) {
  for (int64_t row = a.strip_begin * kTileRows; row < a.strip_end * kTileRows && row < a.w.rows; ++row) {
    for (int64_t t = 0; t < a.x.tokens; ++t) {
      const auto* q = a.x.q + t * a.x.stride;
      float total = 0;
      for (int64_t begin = 0; begin < a.w.cols; begin += kBlockCols) {
        const int64_t end = begin + kBlockCols < a.w.cols ? begin + kBlockCols : a.w.cols;
        int32_t sum = 0;
        for (int64_t col = begin; col < end; ++col) sum += a.w.data[Int8Offset(a.w.cols, row, col)] * q[col];
        total += static_cast<float>(sum);
      }
      a.y[t * a.y_stride + row] = total * (a.w.row_scale[row] * a.x.scale[t]);
    }
  }
}

void Int8Matmul(const Int8MatmulArgs& a) { Int8MatmulBlocks<kInt8BlockCols>(a); }
void Int8WideMatmul(const Int8WideMatmulArgs& a) { Int8MatmulBlocks<kInt8WideBlockCols>(a); }

}  // namespace
}  // namespace scalar

const Kernels& ScalarKernels() {
  static constexpr Kernels kKernels = {
      "scalar",           scalar::DenseMatmul,    scalar::PackedMatmul,   scalar::QuantizeInput, scalar::RmsNorm,
      scalar::Softmax,    scalar::SiluMul,        scalar::GeluMul,        scalar::ToFloat,       scalar::TrellisStep,
      scalar::Int8Matmul, scalar::QuantizeInput8, scalar::Int8WideMatmul, scalar::SampleWeights};
  return kKernels;
}

}  // namespace qamserve
