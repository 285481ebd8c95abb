// What one thread does to rows on their way to codes: scale, rotate, normalize, measure. For host and device, so that a
// test on any machine can run all threads one after the other and compare bits with core/quantize/strip.cc.
//
// A body is called once for every (row, i) or for every i, in any order and at once: what it writes, no other call of
// the same launch reads. Float operations are those of the CPU, in the same order and without contraction (the tree is
// built with --fmad=false); sums that the CPU adds up one by one are one thread's here, too. That is what makes the
// bytes of an artifact the same on every device; it costs little, since there are thousands of rows.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/codec/half.h"
#include "core/codec/packing.h"

namespace qamserve {

// x <- x scale, x <- x signs. Body of (row, col); either factor may be absent.
struct ScaleRows {
  const float* in;
  float* out;
  int64_t cols;
  const float* scale;
  const float* signs;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row, int64_t col) const {
    float w = in[row * cols + col];
    if (scale != nullptr) w *= scale[col];
    if (signs != nullptr) w *= signs[col];
    out[row * cols + col] = w;
  }
};

// A dense Hadamard factor along the middle axis of [outer][order][inner], out of place. Body of (row, element).
struct DenseFactorRows {
  const float* in;
  float* out;
  int64_t cols;
  const float* entries;  // [order][order]
  uint32_t order, inner;
  bool transpose;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row, int64_t element) const {
    const auto e = static_cast<uint32_t>(element);
    const uint32_t k = e % inner, to = e / inner % order, outer = e / inner / order;
    const float* source = in + row * cols + static_cast<int64_t>(outer) * order * inner + k;
    const float* sign = transpose ? entries + to : entries + static_cast<int64_t>(to) * order;
    const uint32_t stride = transpose ? order : 1;
    float sum = 0;
    for (uint32_t from = 0; from < order; ++from) {
      sum += sign[static_cast<int64_t>(from) * stride] * source[static_cast<int64_t>(from) * inner];
    }
    out[row * cols + element] = sum;
  }
};

// kStages steps of Sylvester's butterflies, of halves 2^(kStages - 1) least, ..., 2 least, least, in place. Body of
// (row, group of 2^kStages elements that only meet each other).
template <int kStages>
struct SylvesterRows {
  static constexpr int kPoints = 1 << kStages;
  float* x;
  int64_t cols;
  uint32_t least;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row, int64_t group) const {
    const auto g = static_cast<uint32_t>(group);
    float* at = x + row * cols + static_cast<int64_t>(g / least) * kPoints * least + g % least;
    float v[kPoints];
    for (int j = 0; j < kPoints; ++j) v[j] = at[static_cast<int64_t>(j) * least];
    for (int half = kPoints / 2; half >= 1; half /= 2) {
      for (int j = 0; j < kPoints; ++j) {
        if ((j & half) != 0) continue;
        const float a = v[j], b = v[j + half];
        v[j] = a + b;
        v[j + half] = a - b;
      }
    }
    for (int j = 0; j < kPoints; ++j) at[static_cast<int64_t>(j) * least] = v[j];
  }
};

// x <- in factor, or in (factor signs). Body of (row, col); in may be out.
struct FinishRotation {
  const float* in;
  float* out;
  int64_t cols;
  float factor;
  const float* signs;  // of the inverse, else null
  QAMSERVE_HOST_DEVICE void operator()(int64_t row, int64_t col) const {
    const float by = signs == nullptr ? factor : factor * signs[col];
    out[row * cols + col] = in[row * cols + col] * by;
  }
};

// Energy and norm of a row. Body of row.
struct RowNorms {
  const float* rows;
  int64_t cols;
  float outermost;  // of codecs whose largest weight is on the outermost level: that level; else 0
  double* energy;
  uint16_t* norms;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row) const {
    const float* x = rows + row * cols;
    double sum = 0;
    float largest = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const double w = static_cast<double>(x[j]);
      sum += w * w;
      const float magnitude = fabsf(x[j]);
      largest = largest < magnitude ? magnitude : largest;
    }
    energy[row] = sum;
    norms[row] =
        FloatToHalf(outermost > 0 ? largest / outermost : static_cast<float>(sqrt(sum / static_cast<double>(cols))));
  }
};

// Targets of the coders that look at columns: standard deviations. Rows from `count` on, which fill the last strip, are
// zero. Body of (row, col).
struct NormalizeRows {
  const float* rows;
  float* values;
  int64_t count, cols;
  const uint16_t* norms;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row, int64_t col) const {
    const float norm = row < count ? HalfToFloat(norms[row]) : 0.0f;
    values[row * cols + col] = norm == 0.0f ? 0.0f : rows[row * cols + col] / norm;
  }
};

// From standard deviations to weights, in place. Body of (row, col).
struct DenormalizeRows {
  float* values;
  int64_t cols;
  const uint16_t* norms;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row, int64_t col) const {
    values[row * cols + col] *= HalfToFloat(norms[row]);
  }
};

// Squared error of a row in the rotated basis. Body of row.
struct RowErrors {
  const float* decoded;
  const float* rows;
  int64_t cols;
  double* squared;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row) const {
    double sum = 0;
    for (int64_t j = row * cols; j < (row + 1) * cols; ++j) {
      const double d = static_cast<double>(decoded[j]) - static_cast<double>(rows[j]);
      sum += d * d;
    }
    squared[row] = sum;
  }
};

// One weight's terms of the channel-weighted error and energy. `decoded` is back in the basis of `weights`, but for the
// scale. Body of (row, col).
struct WeightedTerms {
  const float* weights;
  const float* decoded;
  int64_t cols;
  const float* scale;  // or null
  const double* mean_square;
  double* error_terms;
  double* energy_terms;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row, int64_t col) const {
    const int64_t at = row * cols + col;
    const double w = static_cast<double>(weights[at]);
    const float r = scale == nullptr ? decoded[at] : decoded[at] / scale[col];
    const double error = static_cast<double>(r) - w;
    error_terms[at] = mean_square[col] * error * error;
    energy_terms[at] = mean_square[col] * w * w;
  }
};

// The terms of a strip, row by row. Body of i: strip i / 2; even i sums errors, odd i energies.
struct WeightedSums {
  const double* error_terms;
  const double* energy_terms;
  int64_t count, cols;
  double* sums;  // [strips][2]
  QAMSERVE_HOST_DEVICE void operator()(int64_t i) const {
    const double* terms = (i & 1) != 0 ? energy_terms : error_terms;
    const int64_t first = i / 2 * kTileRows, end = first + kTileRows < count ? first + kTileRows : count;
    double sum = 0;
    for (int64_t at = first * cols; at < end * cols; ++at) sum += terms[at];
    sums[i] = sum;
  }
};

}  // namespace qamserve
