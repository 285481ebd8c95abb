// Codec full: the linear layers as matrices of 16-bit floats. Beside the codecs it is what they are measured against;
// it goes through the same tasks, gates and reports as they do.
#include <algorithm>
#include <cmath>

#include "core/codec/half.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

constexpr int64_t kRowsAtOnce = 64;

uint16_t Round(DType type, float value) { return type == DType::kF16 ? FloatToHalf(value) : FloatToBFloat16(value); }
double ValueOf(DType type, uint16_t bits) {
  return static_cast<double>(type == DType::kF16 ? HalfToFloat(bits) : BFloat16ToFloat(bits));
}

// Hands `add` the rows of a tensor in order, a few at a time.
absl::Status ForEachRows(const Checkpoint& checkpoint, const QuantizePlan::Tensor& tensor, ProgressFn progress,
                         absl::FunctionRef<absl::Status(std::span<const float>)> add) {
  std::vector<float> rows(static_cast<size_t>(std::min(kRowsAtOnce, tensor.rows) * tensor.cols));
  for (int64_t row = 0; row < tensor.rows; row += kRowsAtOnce) {
    const int64_t end = std::min(tensor.rows, row + kRowsAtOnce);
    const auto part = std::span(rows).first(static_cast<size_t>((end - row) * tensor.cols));
    RETURN_IF_ERROR(checkpoint.ReadRows(tensor.name + ".weight", row, end, part));
    RETURN_IF_ERROR(add(part));
    RETURN_IF_ERROR(progress(static_cast<double>(end) / static_cast<double>(tensor.rows)));
  }
  return absl::OkStatus();
}

// The type that loses least of a tensor; of two that lose as much, F16, which widened tensors have anyway.
absl::StatusOr<DType> ChooseType(const Checkpoint& checkpoint, const QuantizePlan::Tensor& tensor,
                                 ProgressFn progress) {
  const std::vector<DType> types = FullTypes(checkpoint.Info(tensor.name + ".weight"));
  if (types.size() == 1) return types.front();
  std::vector<double> errors(types.size(), 0.0);
  float largest = 0;
  RETURN_IF_ERROR(ForEachRows(checkpoint, tensor, progress, [&](std::span<const float> rows) {
    for (const float w : rows) {
      largest = std::max(largest, std::fabs(w));
      for (size_t i = 0; i < types.size(); ++i) {
        const double error = ValueOf(types[i], Round(types[i], w)) - static_cast<double>(w);
        errors[i] += error * error;  // infinite where the value does not fit
      }
    }
    return absl::OkStatus();
  }));
  size_t best = 0;
  for (size_t i = 1; i < types.size(); ++i) {
    if (errors[i] <= errors[best]) best = i;
  }
  if (std::isfinite(errors[best])) return types[best];
  return InvalidArgument("TENSOR_RANGE", "{}: tensor {}.weight has a value of magnitude {:.6g}, above what BF16 holds",
                         checkpoint.origin(), tensor.name, largest);
}

}  // namespace

std::vector<DType> FullTypes(const TensorInfo& info) {
  if (info.dtype == DType::kF16 || info.dtype == DType::kBF16) return {info.dtype};
  return {DType::kBF16, DType::kF16};
}

absl::StatusOr<TensorOutcome> StoreFullPrecision(const Checkpoint& checkpoint, const QuantizePlan::Tensor& tensor,
                                                 ProgressFn progress, const std::string& out_path) {
  auto choosing = [&](double fraction) { return progress(0.5 * fraction); };
  ASSIGN_OR_RETURN(const DType type, ChooseType(checkpoint, tensor, choosing));
  ASSIGN_OR_RETURN(SafetensorsWriter writer,
                   SafetensorsWriter::Create(out_path, {{tensor.name + ".weight", type, {tensor.rows, tensor.cols}}},
                                             ArtifactMetadata(), 8));
  TensorOutcome outcome{tensor.name, tensor.rows, tensor.cols};
  outcome.bpw = tensor.format.pair_bits / 2.0;
  outcome.type = DTypeName(type);
  const auto cols = static_cast<size_t>(tensor.cols);
  std::vector<uint16_t> stored;
  auto store = [&](std::span<const float> rows) {
    stored.clear();
    double error = 0, energy = 0;
    for (const float w : rows) {
      stored.push_back(Round(type, w));
      const double difference = ValueOf(type, stored.back()) - static_cast<double>(w);
      error += difference * difference;
      energy += static_cast<double>(w) * static_cast<double>(w);
      if (stored.size() % cols != 0) continue;
      const double relative = energy > 0 ? error / energy : 0;
      outcome.distortion += relative / static_cast<double>(tensor.rows);
      outcome.worst_row_distortion = std::max(outcome.worst_row_distortion, relative);
      error = energy = 0;
    }
    return writer.Append(std::as_bytes(std::span(stored)));
  };
  auto storing = [&](double fraction) { return progress(0.5 + 0.5 * fraction); };
  RETURN_IF_ERROR(ForEachRows(checkpoint, tensor, storing, store));
  RETURN_IF_ERROR(writer.Commit());
  return outcome;
}

}  // namespace qamserve
