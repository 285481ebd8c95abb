// A rotation of one row by a block of threads, for host and device (block.h): the additions of Rotation::Transform in
// its order, in place in shared memory.
#pragma once

#include <cstdint>

#include "core/kernels/cuda/forward/args.h"
#include "core/kernels/cuda/forward/block.h"
#include "core/kernels/cuda/forward/float_math.h"

namespace qamserve {

// Floats that a dense factor wants beside the row: some columns of it at a time, at least 16 of the largest order.
inline constexpr int64_t kRotationScratch = 4096;

// Up to three stages of Sylvester's matrix at once, on elements `stride` apart: what one thread does with 2^kStages of
// them.
template <int kStages>
QAMSERVE_HOST_DEVICE inline void Butterflies(float* x, int64_t stride) {
  constexpr int kCount = 1 << kStages;
  float v[kCount];
  for (int i = 0; i < kCount; ++i) v[i] = x[i * stride];
  for (int half = kCount / 2; half >= 1; half /= 2) {
    for (int i = 0; i < kCount; ++i) {
      if ((i & half) != 0) continue;
      const float a = v[i], b = v[i + half];
      v[i] = a + b;
      v[i + half] = a - b;
    }
  }
  for (int i = 0; i < kCount; ++i) x[i * stride] = v[i];
}

template <int kThreads, int kStages, typename Each>
QAMSERVE_HOST_DEVICE inline void SylvesterStages(float* row, int64_t n, int64_t half, const Each& each) {
  const int64_t stride = half >> (kStages - 1);
  each([&](int thread) {
    for (int64_t i = thread; i < n >> kStages; i += kThreads) {
      Butterflies<kStages>(row + i / stride * 2 * half + i % stride, stride);
    }
  });
}

// Sylvester's matrix of `order` on each of the row's consecutive runs.
template <int kThreads, typename Each>
QAMSERVE_HOST_DEVICE inline void SylvesterRow(float* row, int64_t n, int64_t order, const Each& each) {
  int64_t half = order / 2;
  for (; half >= 4; half /= 8) SylvesterStages<kThreads, 3>(row, n, half, each);
  if (half == 2) SylvesterStages<kThreads, 2>(row, n, half, each);
  if (half == 1) SylvesterStages<kThreads, 1>(row, n, half, each);
}

// A dense factor along one axis of [n / order / inner][order][inner]. `order` is a multiple of 4, as Paley's are: a
// thread adds up four results at a time, so that it reads a value once for four.
template <int kThreads, typename Each>
QAMSERVE_HOST_DEVICE inline void DenseFactorRow(float* row, int64_t n, const float* entries, int64_t order,
                                                int64_t inner, bool transpose, float* scratch, const Each& each) {
  constexpr int kRows = 4;
  const int64_t columns = n / order, at_once = kRotationScratch / order;
  const int64_t row_step = transpose ? 1 : order, col_step = transpose ? order : 1;
  const auto place = [&](int64_t column, int64_t i) { return (column / inner * order + i) * inner + column % inner; };
  for (int64_t first = 0; first < columns; first += at_once) {
    const int64_t count = columns - first < at_once ? columns - first : at_once;
    each([&](int thread) {
      for (int64_t i = thread; i < order * count; i += kThreads) scratch[i] = row[place(first + i % count, i / count)];
    });
    each([&](int thread) {
      for (int64_t i = thread; i < order / kRows * count; i += kThreads) {
        const int64_t column = i % count, out = i / count * kRows;
        float sum[kRows] = {};
        for (int64_t k = 0; k < order; ++k) {
          const float value = scratch[k * count + column];
          for (int r = 0; r < kRows; ++r) {
            // Exact but for the sum, so fused or not is the same.
            sum[r] = FusedMultiplyAdd(entries[(out + r) * row_step + k * col_step], value, sum[r]);
          }
        }
        for (int r = 0; r < kRows; ++r) row[place(first + column, out + r)] = sum[r];
      }
    });
  }
}

// Without signs and scale.
template <int kThreads, typename Each>
QAMSERVE_HOST_DEVICE inline void TransformRow(const RotationView& rotation, bool transpose, float* row, float* scratch,
                                              const Each& each) {
  int64_t inner = rotation.n / rotation.blocks;
  for (int f = 0; f < rotation.factors; ++f) {
    const int64_t order = rotation.order[f];
    inner /= order;
    if (rotation.entries[f] == nullptr) {
      SylvesterRow<kThreads>(row, rotation.n, order, each);  // always the last factor: inner is 1
    } else {
      DenseFactorRow<kThreads>(row, rotation.n, rotation.entries[f], order, inner, transpose, scratch, each);
    }
  }
}

}  // namespace qamserve
