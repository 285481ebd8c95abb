#include "core/quantize/input_sums.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/kernels.h"

namespace qamserve {
namespace {

// Tokens are added in order for every column, whatever the number of threads.
void AddSquares(const float* x, int64_t tokens, int64_t cols, ThreadPool& pool, InputSums& sums) {
  sums.squares.resize(static_cast<size_t>(cols));
  sums.max_abs.resize(static_cast<size_t>(cols));
  pool.ParallelFor(cols, 256, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = x + t * cols;
      for (int64_t j = begin; j < end; ++j) {
        const auto i = static_cast<size_t>(j);
        sums.squares[i] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
        sums.max_abs[i] = std::max(sums.max_abs[i], std::fabs(row[j]));
      }
    }
  });
}

// Adds x' x. Every entry is one dot product over the tokens, so it does not depend on how the work is split.
void AddOuterProducts(const float* x, int64_t tokens, int64_t cols, ThreadPool& pool, std::vector<float>& sums) {
  constexpr int64_t kRows = 32, kColumns = 64;  // of 1024 tokens: 384 KiB, within a second-level cache
  const int64_t padded = (tokens + 7) / 8 * 8;
  std::vector<float> channels(static_cast<size_t>(cols * padded), 0.0f);
  pool.ParallelFor(cols, 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t j = begin; j < end; ++j) channels[static_cast<size_t>(j * padded + t)] = x[t * cols + j];
    }
  });
  sums.resize(static_cast<size_t>(TriangleSize(cols)));
  const Kernels& kernels = BestKernels();
  pool.ParallelFor((cols + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    float product[kRows * kColumns];
    for (int64_t i0 = begin * kRows; i0 < std::min(cols, end * kRows); i0 += kRows) {
      const int64_t i1 = std::min(cols, i0 + kRows);
      for (int64_t j0 = 0; j0 < i1; j0 += kColumns) {
        const int64_t j1 = std::min(i1, j0 + kColumns);
        const DenseRows w{&channels[static_cast<size_t>(j0 * padded)], DenseType::kF32, padded};
        kernels.dense_matmul(
            {&channels[static_cast<size_t>(i0 * padded)], padded, w, product, kColumns, i1 - i0, j1 - j0, padded});
        for (int64_t i = i0; i < i1; ++i) {
          float* row = &sums[static_cast<size_t>(TriangleSize(i))];
          for (int64_t j = j0; j < std::min(j1, i + 1); ++j) row[j] += product[(i - i0) * kColumns + j - j0];
        }
      }
    }
  });
}

}  // namespace

void AddInputs(const float* x, int64_t tokens, int64_t cols, bool outer, ThreadPool& pool, InputSums& sums) {
  AddSquares(x, tokens, cols, pool, sums);
  if (outer) AddOuterProducts(x, tokens, cols, pool, sums.outer);
}

}  // namespace qamserve
