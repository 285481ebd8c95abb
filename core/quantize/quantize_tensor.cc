#include <algorithm>
#include <cmath>

#include "core/codec/codebook.h"
#include "core/codec/half.h"
#include "core/codec/joint.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

// Sums of squares of the columns of all layers that share the input; rows are added in order.
absl::StatusOr<std::vector<double>> ColumnEnergy(const Checkpoint& checkpoint, const GroupNames& group, int64_t cols) {
  constexpr int64_t kRowsAtOnce = 32;
  std::vector<double> energy(static_cast<size_t>(cols), 0.0);
  std::vector<float> rows(static_cast<size_t>(kRowsAtOnce * cols));
  for (const std::string& name : group.layers) {
    const int64_t count = checkpoint.Info(name + ".weight").rows();
    for (int64_t row = 0; row < count; row += kRowsAtOnce) {
      const int64_t end = std::min(count, row + kRowsAtOnce);
      const auto part = std::span(rows).first(static_cast<size_t>((end - row) * cols));
      RETURN_IF_ERROR(checkpoint.ReadRows(name + ".weight", row, end, part));
      for (size_t i = 0; i < part.size(); i += energy.size()) {
        for (size_t j = 0; j < energy.size(); ++j)
          energy[j] += static_cast<double>(part[i + j]) * static_cast<double>(part[i + j]);
      }
    }
  }
  return energy;
}

// What a strip of 32 rows adds to the totals; kept apart so that they add up in strip order.
struct StripErrors {
  absl::Status status;
  double relative = 0;         // sum over rows of squared error / energy
  double weighted = 0;         // sum of h_j (w_j - w^_j)^2
  double weighted_energy = 0;  // sum of h_j w_j^2
};

struct TensorJob {
  const Checkpoint& checkpoint;
  const QuantizePlan::Tensor& tensor;
  const Rotation& rotation;
  const NearestPoint& nearest;
  int pair_bits;
  const std::vector<float>& scale;         // empty without channel scales
  const std::vector<double>& mean_square;  // empty without channel scales
  std::vector<uint8_t>& codes;
  std::vector<uint16_t>& norms;
};

void AddWeightedError(const TensorJob& job, std::span<const float> original, std::span<float> reconstructed,
                      std::span<float> scratch, StripErrors& out) {
  job.rotation.ApplyInverse(reconstructed.data(), scratch.data());
  for (size_t j = 0; j < original.size(); ++j) {
    const double w = static_cast<double>(original[j]);
    const double error = static_cast<double>(reconstructed[j] / job.scale[j]) - w;
    out.weighted += job.mean_square[j] * error * error;
    out.weighted_energy += job.mean_square[j] * w * w;
  }
}

StripErrors EncodeStrip(const TensorJob& job, int64_t strip) {
  StripErrors out;
  const int64_t cols = job.tensor.cols, first = strip * kTileRows;
  const int64_t count = std::min<int64_t>(kTileRows, job.tensor.rows - first);
  const auto n = static_cast<size_t>(cols);
  std::vector<float> rows(static_cast<size_t>(count) * n), original(n), scratch(n);
  out.status = job.checkpoint.ReadRows(job.tensor.name + ".weight", first, first + count, rows);
  if (!out.status.ok()) return out;
  std::vector<std::vector<uint16_t>> codes(static_cast<size_t>(count), std::vector<uint16_t>((n + 1) / 2));
  for (int64_t r = 0; r < count; ++r) {
    const std::span<float> row(rows.data() + r * cols, n);
    std::copy(row.begin(), row.end(), original.begin());
    const EncodedRow encoded =
        EncodeRow(job.rotation, job.nearest, job.scale, row, scratch, codes[static_cast<size_t>(r)]);
    if (encoded.norm == 0x7c00) {
      out.status = InvalidArgument("TENSOR_RANGE", "{}: tensor {}, row {}: its norm does not fit binary16 (65504)",
                                   job.checkpoint.origin(), job.tensor.name, first + r);
      return out;
    }
    job.norms[static_cast<size_t>(first + r)] = encoded.norm;
    if (encoded.energy > 0) out.relative += encoded.squared_error / encoded.energy;
    if (!job.mean_square.empty()) AddWeightedError(job, original, row, scratch, out);
  }
  const int64_t bytes = StripBytes(cols, job.pair_bits);
  PackStrip(codes, job.pair_bits,
            std::span(job.codes).subspan(static_cast<size_t>(strip * bytes), static_cast<size_t>(bytes)));
  return out;
}

absl::Status WritePacked(const TensorJob& job, const std::string& path) {
  std::vector<SafetensorsWriter::Declaration> declarations = {
      {job.tensor.name + kCodesSuffix, DType::kU8, {static_cast<int64_t>(job.codes.size())}},
      {job.tensor.name + kRowNormSuffix, DType::kF16, {job.tensor.rows}}};
  if (!job.scale.empty())
    declarations.push_back({job.tensor.group + kChannelScaleSuffix, DType::kF16, {job.tensor.cols}});
  ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, declarations, ArtifactMetadata(), 8));
  RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(job.codes))));
  RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(job.norms))));
  std::vector<uint16_t> halves;
  for (float s : job.scale) halves.push_back(FloatToHalf(s));
  RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(halves))));
  return writer.Commit();
}

}  // namespace

absl::StatusOr<TensorOutcome> QuantizeTensor(const Checkpoint& checkpoint, const QuantizeSpec& spec,
                                             const QuantizePlan::Tensor& tensor,
                                             const std::vector<std::string>& statistics, ThreadPool& pool,
                                             const std::string& out_path) {
  ASSIGN_OR_RETURN(const int pair_bits, PairBitsFor(spec.bpw));
  ASSIGN_OR_RETURN(const Rotation rotation, Rotation::Create(tensor.cols, spec.rotation, spec.seed));
  ASSIGN_OR_RETURN(const GroupNames group, GroupOf(checkpoint, tensor.group));
  const NearestPoint nearest(CodebookFor(pair_bits));
  std::vector<double> mean_square;
  std::vector<float> scale;
  if (spec.channel_scale) {
    ASSIGN_OR_RETURN(mean_square, ReadMeanSquares(statistics, tensor.group, tensor.cols));
    ASSIGN_OR_RETURN(const std::vector<double> energy, ColumnEnergy(checkpoint, group, tensor.cols));
    scale = ChannelScale(mean_square, energy);
  }
  std::vector<uint8_t> codes(static_cast<size_t>(PackedBytes(tensor.rows, tensor.cols, pair_bits)));
  std::vector<uint16_t> norms(static_cast<size_t>(tensor.rows));
  const TensorJob job{checkpoint, tensor, rotation, nearest, pair_bits, scale, mean_square, codes, norms};

  std::vector<StripErrors> strips(static_cast<size_t>(StripsDown(tensor.rows)));
  pool.ParallelFor(static_cast<int64_t>(strips.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) strips[static_cast<size_t>(s)] = EncodeStrip(job, s);
  });
  StripErrors total;
  for (const StripErrors& strip : strips) {
    RETURN_IF_ERROR(strip.status);
    total.relative += strip.relative;
    total.weighted += strip.weighted;
    total.weighted_energy += strip.weighted_energy;
  }
  RETURN_IF_ERROR(WritePacked(job, out_path));

  TensorOutcome outcome{tensor.name, tensor.rows, tensor.cols};
  int64_t group_rows = 0;
  for (const std::string& name : group.layers) group_rows += checkpoint.Info(name + ".weight").rows();
  outcome.bpw = spec.bpw + 16.0 / static_cast<double>(tensor.cols) +
                (spec.channel_scale ? 16.0 / static_cast<double>(group_rows) : 0.0);
  outcome.distortion = total.relative / static_cast<double>(tensor.rows);
  outcome.weighted_error = total.weighted_energy > 0 ? total.weighted / total.weighted_energy : 0;
  return outcome;
}

}  // namespace qamserve
