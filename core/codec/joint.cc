#include "core/codec/joint.h"

#include <algorithm>
#include <cmath>

#include "core/codec/half.h"

namespace qamserve {

namespace {

// Mean 1, within limits, exact in binary16.
std::vector<float> Normalized(const std::vector<double>& s) {
  double sum = 0;
  for (double v : s) sum += v;
  const double mean = sum / static_cast<double>(s.size());
  std::vector<float> scale(s.size());
  for (size_t j = 0; j < s.size(); ++j) {
    scale[j] = HalfToFloat(FloatToHalf(static_cast<float>(std::clamp(s[j] / mean, 0x1p-10, 0x1p10))));
  }
  return scale;
}

}  // namespace

std::vector<float> ChannelScale(std::span<const double> mean_square, std::span<const double> column_energy) {
  const size_t n = mean_square.size();
  const double h_floor = *std::max_element(mean_square.begin(), mean_square.end()) * 0x1p-20;
  const double c_floor = *std::max_element(column_energy.begin(), column_energy.end()) * 0x1p-20;
  if (h_floor <= 0 || c_floor <= 0) return std::vector<float>(n, 1.0f);
  std::vector<double> s(n);
  for (size_t j = 0; j < n; ++j) {
    // Square roots are exactly rounded everywhere; pow is not.
    s[j] = std::sqrt(std::sqrt(std::max(mean_square[j], h_floor) / std::max(column_energy[j], c_floor)));
  }
  return Normalized(s);
}

std::vector<float> EqualEnergyScale(std::span<const double> column_energy) {
  const size_t n = column_energy.size();
  const double floor = *std::max_element(column_energy.begin(), column_energy.end()) * 0x1p-20;
  if (floor <= 0) return std::vector<float>(n, 1.0f);
  std::vector<double> s(n);
  for (size_t j = 0; j < n; ++j) s[j] = 1 / std::sqrt(std::max(column_energy[j], floor));
  return Normalized(s);
}

std::vector<float> SmoothingScale(std::span<const float> input_max, std::span<const float> weight_max) {
  const size_t n = input_max.size();
  const double x_floor = static_cast<double>(*std::max_element(input_max.begin(), input_max.end())) * 0x1p-20;
  const double w_floor = static_cast<double>(*std::max_element(weight_max.begin(), weight_max.end())) * 0x1p-20;
  if (x_floor <= 0 || w_floor <= 0) return std::vector<float>(n, 1.0f);
  std::vector<double> s(n);
  for (size_t j = 0; j < n; ++j) {
    s[j] = std::sqrt(std::max(static_cast<double>(input_max[j]), x_floor) /
                     std::max(static_cast<double>(weight_max[j]), w_floor));
  }
  return Normalized(s);
}

uint16_t RowNorm(const TensorFormat& format, std::span<const float> row, double energy) {
  if (format.codec != Codec::kUniform && format.codec != Codec::kInt8) {
    return FloatToHalf(static_cast<float>(std::sqrt(energy / static_cast<double>(row.size()))));
  }
  float largest = 0;
  for (float w : row) largest = std::max(largest, std::fabs(w));
  if (format.codec == Codec::kInt8) return FloatToHalf(largest);
  const Codebook& codebook = *CodebookOf(format);
  return FloatToHalf(largest / (static_cast<float>(codebook.outermost) * codebook.step));
}

EncodedRow EncodeRow(const TensorFormat& format, const Rotation& rotation, const NearestPoint& nearest,
                     std::span<const float> scale, std::span<float> row, std::span<float> scratch,
                     std::span<uint16_t> codes) {
  const size_t n = row.size();
  if (!scale.empty()) {
    for (size_t j = 0; j < n; ++j) row[j] *= scale[j];
  }
  rotation.Apply(row.data(), scratch.data());
  EncodedRow out;
  for (float w : row) out.energy += static_cast<double>(w) * static_cast<double>(w);
  out.norm = RowNorm(format, row, out.energy);
  const float norm = HalfToFloat(out.norm);
  if (norm == 0.0f) {
    // A zero row, or one below the smallest binary16: codes do not matter, the norm makes them zero.
    std::fill(codes.begin(), codes.end(), uint16_t{0});
    std::fill(row.begin(), row.end(), 0.0f);
    out.squared_error = out.energy;
    return out;
  }
  const float inverse = 1.0f / norm;
  for (size_t j = 0; j < n; j += 2) {
    const float x = row[j], y = j + 1 < n ? row[j + 1] : 0.0f;
    const NearestPoint::Point point = nearest.Encode(x * inverse, y * inverse);
    codes[j / 2] = static_cast<uint16_t>(point.code);
    row[j] = point.x * norm;
    const double dx = static_cast<double>(row[j]) - static_cast<double>(x);
    out.squared_error += dx * dx;
    if (j + 1 < n) {
      row[j + 1] = point.y * norm;
      const double dy = static_cast<double>(row[j + 1]) - static_cast<double>(y);
      out.squared_error += dy * dy;
    }
  }
  return out;
}

void DecodeRow(const Rotation& rotation, const RowDecoder& decoder, std::span<const float> scale, uint16_t norm,
               const uint8_t* strip, int row_in_strip, std::span<float> row, std::span<float> scratch) {
  const float factor = HalfToFloat(norm);
  decoder.Decode(strip, row_in_strip, static_cast<int64_t>(row.size()), row.data());
  for (float& w : row) w *= factor;
  rotation.ApplyInverse(row.data(), scratch.data());
  if (!scale.empty()) {
    for (size_t j = 0; j < row.size(); ++j) row[j] /= scale[j];
  }
}

void PackStrip(std::span<const std::vector<uint16_t>> rows, int pair_bits, std::span<uint8_t> strip) {
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t pair = 0; pair < rows[r].size(); ++pair) {
      uint8_t* tile = strip.data() + static_cast<int64_t>(pair / kTilePairs) * TileBytes(pair_bits);
      PackCode(tile, pair_bits, static_cast<int>(r), static_cast<int>(pair % kTilePairs), rows[r][pair]);
    }
  }
}

}  // namespace qamserve
