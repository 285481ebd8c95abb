// Quantizes a strip of 32 rows of one tensor: scale, rotate, normalize, code. Shared by the parts of core/quantize.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/codec/rotation.h"
#include "core/quantize/feedback.h"
#include "core/quantize/pair_coder.h"

namespace qamserve {

// Everything that the strips of a tensor share. Spans are empty where there is nothing.
struct StripContext {
  const Rotation& rotation;
  const CoderTables& tables;
  std::span<const float> scale;         // [cols] channel scales
  std::span<const double> mean_square;  // [cols] of the inputs, in the original basis
  const ErrorFeedback* feedback = nullptr;
};

// What a strip adds to its tensor's totals.
struct StripOutcome {
  double relative = 0;         // sum over rows of squared error over energy, in the scaled, rotated basis
  double worst_row = 0;        // the largest of these quotients
  double weighted = 0;         // sum of h_j (w_j - w^_j)^2 in the original basis
  double weighted_energy = 0;  // sum of h_j w_j^2
  double feedback_loss = 0;    // expected squared output error by the full statistics; 0 without feedback
};

// `rows`: [count][cols] weights, count <= 32; overwritten. `norms` gets count binary16 norms, `packed` the zeroed strip
// its codes. INVALID_ARGUMENT (TENSOR_RANGE) names the row, counted within the strip, whose norm does not fit.
absl::StatusOr<StripOutcome> EncodeStrip(const StripContext& context, std::span<float> rows, std::span<uint16_t> norms,
                                         std::span<uint8_t> packed);

}  // namespace qamserve
