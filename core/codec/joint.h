// The joint codec: from rows of weights to codes and norms. Pure functions of their input; no threads, no I/O.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/codec/codebook.h"
#include "core/codec/packing.h"
#include "core/codec/rotation.h"
#include "core/codec/tensor_format.h"

namespace qamserve {

// s_j = (h_j / c_j)^(1/4): with the error white after the rotation, this minimizes
// (sum h_j / s_j^2) (sum c_j s_j^2), the expected output error, and does not depend on the rate.
// h: mean square of input channel j. c: sum of squares of column j over all layers that share the input.
// The result has mean 1, lies in [2^-10, 2^10] and is exact in binary16. Channels that are never active, or have no
// weight, count as one 2^-20th of the largest.
std::vector<float> ChannelScale(std::span<const double> mean_square, std::span<const double> column_energy);

// s_j = c_j^(-1/2): every column has the same energy, so that no error is spent on columns whose inputs error feedback
// looks after anyway. For use with error feedback, whose own metric has the inputs in it. Mean, limits and dead columns
// as above.
std::vector<float> EqualEnergyScale(std::span<const double> column_energy);

// SmoothQuant's (Xiao et al., arXiv 2211.10438) with alpha = 1/2: s_j = sqrt(max |x_j| / max |w_j|), which shares the
// range between 8-bit activations and weights. Mean, limits and dead channels as above.
std::vector<float> SmoothingScale(std::span<const float> input_max, std::span<const float> weight_max);

// What a scaled, rotated row is divided by, as binary16: its root mean square, from its sum of squares `energy`; for
// Codec::kUniform, what puts its largest magnitude on the outermost level; for Codec::kInt8, its largest magnitude. 0
// for a zero row.
uint16_t RowNorm(const TensorFormat& format, std::span<const float> row, double energy);

struct EncodedRow {
  uint16_t norm = 0;         // RowNorm
  double squared_error = 0;  // sum over the row, rotated basis, units of the weights
  double energy = 0;         // sum of squares of the scaled, rotated row
};

// Encodes one row of `rotation.size()` weights in a codebook codec. `scale` is empty or one factor a column. `row` is
// overwritten by the reconstruction in the scaled, rotated basis. `codes` gets (cols + 1) / 2 codes; an odd last column
// is paired with 0.
EncodedRow EncodeRow(const TensorFormat& format, const Rotation& rotation, const NearestPoint& nearest,
                     std::span<const float> scale, std::span<float> row, std::span<float> scratch,
                     std::span<uint16_t> codes);

// The weights of one packed row of any codec, back in the original basis.
void DecodeRow(const Rotation& rotation, const RowDecoder& decoder, std::span<const float> scale, uint16_t norm,
               const uint8_t* strip, int row_in_strip, std::span<float> row, std::span<float> scratch);

// Packs the codes of up to 32 rows into one zeroed strip.
void PackStrip(std::span<const std::vector<uint16_t>> rows, int pair_bits, std::span<uint8_t> strip);

}  // namespace qamserve
