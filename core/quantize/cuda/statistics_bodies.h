// What one thread does to add up calibration inputs (core/quantize/input_sums.h). For host and device, as row_bodies.h,
// which says what a body is.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/quantize/cuda/product_body.h"

namespace qamserve {

// Body of a channel.
struct AddInputSquares {
  const float* x;  // [tokens][cols]
  int64_t tokens, cols;
  double* squares;
  float* max_abs;
  QAMSERVE_HOST_DEVICE void operator()(int64_t col) const {
    double sum = squares[col];
    float largest = max_abs[col];
    for (int64_t t = 0; t < tokens; ++t) {
      const double v = static_cast<double>(x[t * cols + col]);
      sum += v * v;
      const float magnitude = fabsf(x[t * cols + col]);
      largest = largest < magnitude ? magnitude : largest;
    }
    squares[col] = sum;
    max_abs[col] = largest;
  }
};

// Inputs by channel, padded with zeros, as products want them. Body of (channel, token).
struct InputsByChannel {
  const float* x;  // [tokens][cols]
  int64_t tokens, cols, padded;
  float* channels;  // [cols][padded]
  QAMSERVE_HOST_DEVICE void operator()(int64_t col, int64_t t) const {
    channels[col * padded + t] = t < tokens ? x[t * cols + col] : 0.0f;
  }
};

// Memory of one group's sums.
struct InputSumsMemory {
  int64_t cols = 0;
  double* squares = nullptr;
  float* max_abs = nullptr;
  float* outer = nullptr;     // null: not asked for
  float* channels = nullptr;  // [cols][padded tokens], with `outer`
};

inline constexpr int64_t PaddedTokens(int64_t tokens) {
  return (tokens + kProductLanes - 1) / kProductLanes * kProductLanes;
}

template <typename Grid>
void AddInputsOn(Grid& grid, const InputSumsMemory& m, const float* x, int64_t tokens) {
  grid.ForEach(m.cols, AddInputSquares{x, tokens, m.cols, m.squares, m.max_abs});
  if (m.outer == nullptr) return;
  const int64_t padded = PaddedTokens(tokens);
  grid.ForEach(m.cols, padded, InputsByChannel{x, tokens, m.cols, padded, m.channels});
  grid.Product({m.channels, padded, m.cols, m.channels, padded, m.cols, padded, m.outer, 0, /*triangle=*/true});
}

}  // namespace qamserve
