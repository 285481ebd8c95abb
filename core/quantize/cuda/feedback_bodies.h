// What one thread does for error feedback (core/quantize/feedback.h): a row's columns in order, in blocks whose
// feedback to later blocks is a product. For host and device, as row_bodies.h, which says what a body is.
#pragma once

#include <cstdint>

#include "core/codec/packing.h"
#include "core/codec/trellis.h"
#include "core/quantize/cuda/code_bodies.h"

namespace qamserve {

// Columns whose feedback to each other is added one by one, as strip.cc has it: another number gives other bytes.
inline constexpr int kFeedbackBlockCols = 64;

// The columns [begin, end) of a panel of rows. All matrices but `sums` and `factor` are [padded rows][cols].
struct FeedbackBlock {
  int64_t cols, begin, end;
  const float* factor;    // [cols][cols], ErrorFeedback::rows
  const double* weights;  // [cols / 2][3], ErrorFeedback::weights
  const float* sums;      // [padded rows][kFeedbackBlockCols] of the columns before `begin`; not read if that is 0
  float* values;          // normalized; become what codes decode to
  float* errors;          // of the columns done
  double* loss;           // [padded rows]
  CodeRings rings;

  // The target of column `col` of the pair that begins at `pair`; `errors` are those of the block's columns.
  QAMSERVE_HOST_DEVICE float Target(int64_t row, int64_t col, int64_t pair, const float* block_errors) const {
    const float* of = factor + col * cols;
    float sum = begin == 0 ? 0.0f : sums[row * kFeedbackBlockCols + (col - begin)];
    for (int64_t i = begin; i < pair; ++i) sum += block_errors[i - begin] * of[i];
    return values[row * cols + col] + sum;
  }

  // Adds to a row's loss what a pair loses of its targets.
  QAMSERVE_HOST_DEVICE void AddLoss(double& to, int64_t pair, float x, float y, float decoded_x,
                                    float decoded_y) const {
    const double* d = weights + pair / 2 * 3;
    const double e0 = static_cast<double>(x) - static_cast<double>(decoded_x);
    const double e1 = static_cast<double>(y) - static_cast<double>(decoded_y);
    to += d[0] * e0 * e0 + 2 * d[1] * e0 * e1 + d[2] * e1 * e1;
  }
};

// All of a block's columns of one row, for codes that need nothing of other rows. Body of row.
struct FeedbackRow {
  FeedbackBlock block;
  PointTable points;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row) const {
    float errors[kFeedbackBlockCols] = {};
    double loss = block.loss[row];
    float* values = block.values + row * block.cols;
    for (int64_t pair = block.begin; pair < block.end; pair += 2) {
      const float x = block.Target(row, pair, pair, errors), y = block.Target(row, pair + 1, pair, errors);
      float decoded_x = x, decoded_y = y;
      block.rings.At(row, pair / 2) = static_cast<uint16_t>(points.Encode(decoded_x, decoded_y));
      block.AddLoss(loss, pair, x, y, decoded_x, decoded_y);
      float* error = errors + (pair - block.begin);
      error[0] = values[pair] - decoded_x;
      error[1] = values[pair + 1] - decoded_y;
      values[pair] = decoded_x;
      values[pair + 1] = decoded_y;
    }
    for (int64_t col = block.begin; col < block.end; ++col) {
      block.errors[row * block.cols + col] = errors[col - block.begin];
    }
    block.loss[row] = loss;
  }
};

// A trellis codes 32 rows together, so a pair takes three steps: targets, the search, and what it found. Bodies of row.
struct FeedbackTrellisTargets {
  FeedbackBlock block;
  int64_t pair;  // its first column
  float step;
  float* target;  // [2][padded rows]
  float* x;       // [padded rows], in steps: rings of 32 for the search
  float* y;
  int64_t rows;  // padded
  QAMSERVE_HOST_DEVICE void operator()(int64_t row) const {
    const float* errors = block.errors + row * block.cols + block.begin;
    target[row] = block.Target(row, pair, pair, errors);
    target[rows + row] = block.Target(row, pair + 1, pair, errors);
    x[row] = target[row] / step;
    y[row] = target[rows + row] / step;
  }
};

struct FeedbackTrellisValues {
  FeedbackBlock block;
  int64_t pair;
  float step;
  int pair_bits;
  const float* target;
  const uint16_t* found;  // [padded rows]
  int64_t rows;
  QAMSERVE_HOST_DEVICE void operator()(int64_t row) const {
    block.rings.At(row, pair / 2) = found[row];
    const uint32_t state = RingState(found + row / kTileRows * kTileRows, pair_bits, row % kTileRows);
    const float decoded[2] = {static_cast<float>(TrellisValue(state, 0)) * step,
                              static_cast<float>(TrellisValue(state, 1)) * step};
    block.AddLoss(block.loss[row], pair, target[row], target[rows + row], decoded[0], decoded[1]);
    for (int c = 0; c < 2; ++c) {
      const int64_t at = row * block.cols + pair + c;
      block.errors[at] = block.values[at] - decoded[c];
      block.values[at] = decoded[c];
    }
  }
};

}  // namespace qamserve
