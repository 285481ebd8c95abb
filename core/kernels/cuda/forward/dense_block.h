// The product of a dense matrix and up to 8 tokens by a block of threads, for host and device (block.h): heads and
// layers that are not quantized.
//
// A block takes 32 rows of the matrix, a thread one lane (column mod 8) of a row and all tokens. Weights pass through
// shared memory, 128 columns at a time, so that they are read 16 bytes a thread. Counted: 3 shared reads (one of the
// weight, two of 8 tokens' activations) and 8 fused additions a weight. Not measured yet.
#pragma once

#include <cstdint>

#include "core/kernels/cuda/forward/args.h"
#include "core/kernels/cuda/forward/block.h"
#include "core/kernels/cuda/forward/float_math.h"

namespace qamserve {

// Elements of a type, 8 at a time. Rows begin at multiples of 16 bytes.
template <typename T>
struct alignas(16) EightOf {
  T v[8];
};
QAMSERVE_HOST_DEVICE inline void ReadEight(const DenseRows& w, int64_t at, float (&out)[8]) {
  if (w.type == DenseType::kF32) {
    const EightOf<float> eight = *reinterpret_cast<const EightOf<float>*>(static_cast<const float*>(w.data) + at);
    for (int i = 0; i < 8; ++i) out[i] = eight.v[i];
    return;
  }
  const auto eight = *reinterpret_cast<const EightOf<uint16_t>*>(static_cast<const uint16_t*>(w.data) + at);
  for (int i = 0; i < 8; ++i) {
    out[i] = w.type == DenseType::kF16 ? FloatOfHalf(eight.v[i]) : FloatOfBFloat16(eight.v[i]);
  }
}

struct DenseBlock {
  using Args = DenseMatmulArgs;
  static constexpr int kTokens = 8;
  static constexpr int kRows = 32;
  static constexpr int kThreads = kRows * kLanes;
  static constexpr int kCols = 128;
  static constexpr int kStride = kCols + 8;  // the rows of a warp then meet in no bank
  static QAMSERVE_HOST_DEVICE int64_t RowBlocks(const Args& a) { return (a.outs + kRows - 1) / kRows; }
  static int64_t Blocks(const Args& a) { return RowBlocks(a) * ((a.tokens + kTokens - 1) / kTokens); }
  static int64_t SharedBytes(const Args&) { return (kRows * kStride + kCols * kTokens) * 4; }

  struct Sums {
    float of[kTokens];
  };

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    const int64_t first_row = block % RowBlocks(a) * kRows, first_token = block / RowBlocks(a) * kTokens;
    const int rows = static_cast<int>(a.outs - first_row < kRows ? a.outs - first_row : kRows);
    const int tokens = static_cast<int>(a.tokens - first_token < kTokens ? a.tokens - first_token : kTokens);
    auto* const weights = reinterpret_cast<float*>(shared);  // [row][kStride]
    float* const inputs = weights + kRows * kStride;         // [column][token]
    typename Each::template Own<Sums> sums;
    for (int64_t first = 0; first < a.k; first += kCols) {
      const int cols = static_cast<int>(a.k - first < kCols ? a.k - first : kCols);
      each([&](int thread) {
        for (int i = thread; i < rows * cols / 8; i += kThreads) {
          const int row = i / (cols / 8), col = i % (cols / 8) * 8;
          float eight[8];
          ReadEight(a.w, (first_row + row) * a.w.stride + first + col, eight);
          for (int n = 0; n < 8; ++n) weights[row * kStride + col + n] = eight[n];
        }
        for (int i = thread; i < cols * kTokens; i += kThreads) {
          const int token = i / cols, col = i % cols;
          inputs[col * kTokens + token] = token < tokens ? a.x[(first_token + token) * a.x_stride + first + col] : 0.0f;
        }
      });
      each([&](int thread) {
        const int row = thread / kLanes;
        if (row >= rows) return;
        Sums own = sums[thread];
        for (int col = thread % kLanes; col < cols; col += kLanes) {
          const float weight = weights[row * kStride + col];
          for (int t = 0; t < kTokens; ++t) own.of[t] = FusedMultiplyAdd(weight, inputs[col * kTokens + t], own.of[t]);
        }
        sums[thread] = own;
      });
    }
    each([&](int thread) {
      for (int t = 0; t < kTokens; ++t) weights[t * kThreads + thread] = sums[thread].of[t];
    });
    each([&](int thread) {
      const int token = thread / kRows, row = thread % kRows;
      if (token >= tokens || row >= rows) return;
      a.y[(first_token + token) * a.y_stride + first_row + row] = AddLanes(weights + token * kThreads + row * kLanes);
    });
  }
};

}  // namespace qamserve
