// The two gates that need no text: is everything there, and does it dequantize to what went in?
#include <algorithm>

#include "core/model/artifact.h"
#include "core/model/dequantize.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

// A row of n weights has a distortion within a few times sqrt(1/n) of its tensor's: up to four times the mean is fine.
constexpr double kWorstRow = 4;
// Above that a row may be as bad as the worst that was measured, but for rounding.
constexpr double kSlack = 1.05;
// And no worse, after a rotation, than if one point lay two standard deviations outside of the codebook: at high rates
// such a point makes most of a short row's error. Without rotation a row's strength may be in one weight.
constexpr double kOverload = 2.0 * 2.0;

// The largest relative squared error with which a row of `cols` weights may come back.
double RowLimit(const TensorOutcome& measured, int64_t cols, bool rotated) {
  const double usual = kWorstRow * measured.distortion;
  double worst = kSlack * measured.worst_row_distortion;
  if (rotated) worst = std::min(worst, usual + kOverload / static_cast<double>(cols));
  return std::max(usual, worst) + 1e-6;
}

// Squared error over energy of one row, both in the scaled basis (where the codec minimizes it).
absl::StatusOr<double> RowError(const Checkpoint& checkpoint, const DequantizedRows& rows, const std::string& name,
                                int64_t row) {
  const auto n = static_cast<size_t>(rows.cols());
  std::vector<float> original(n), decoded(n);
  RETURN_IF_ERROR(checkpoint.ReadRows(name, row, row + 1, original));
  rows.Read(row, row + 1, decoded);
  const std::span<const float> scale = rows.channel_scale();
  double error = 0, energy = 0;
  for (size_t j = 0; j < n; ++j) {
    const double s = scale.empty() ? 1.0 : static_cast<double>(scale[j]);
    const double w = s * static_cast<double>(original[j]), d = s * static_cast<double>(decoded[j]) - w;
    error += d * d;
    energy += w * w;
  }
  return energy > 0 ? error / energy : error;
}

}  // namespace

std::vector<int64_t> SampledRows(int64_t rows) {
  constexpr int64_t kSampled = 4;
  std::vector<int64_t> out;
  const int64_t count = std::min(kSampled, rows);
  for (int64_t k = 0; k < count; ++k) out.push_back(k * (rows - 1) / std::max<int64_t>(1, count - 1));
  return out;
}

absl::Status AsGate(const absl::Status& status) {
  const char* gate = ReasonOf(status) == "TENSOR_NOT_FINITE" ? "GATE_RECONSTRUCTION" : "GATE_COVERAGE";
  return MakeError(absl::StatusCode::kFailedPrecondition, gate, MessageOf(status));
}

absl::Status VerifyArtifact(const Checkpoint& checkpoint, const QuantizePlan& plan, const ArtifactInputs& inputs,
                            const std::string& dir) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(dir));
  auto opened = ArtifactReader::Open(files);
  if (!opened.ok()) return AsGate(opened.status());
  const Dequantizer dequantizer(**opened);
  const bool rotated = (*opened)->quantization().rotation == RotationKindName(RotationKind::kFull);
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const QuantizePlan::Tensor& t = plan.tensors[i];
    const auto rows = dequantizer.Open(t.name + ".weight");
    if (!rows.ok()) return AsGate(Annotate(rows.status(), "tensor " + t.name));
    const TensorOutcome& measured = inputs.outcomes[i];
    const double limit = RowLimit(measured, t.cols, rotated);
    for (const int64_t row : SampledRows(t.rows)) {
      ASSIGN_OR_RETURN(const double error, RowError(checkpoint, *rows, t.name + ".weight", row));
      if (!(error <= limit)) {
        return FailedPrecondition(
            "GATE_RECONSTRUCTION",
            "tensor {}, row {}: relative squared error {:.3g} after reading it back; the limit is {:.3g}", t.name, row,
            error, limit);
      }
    }
  }
  return VerifyEmbeddings(checkpoint, plan, **opened);
}

}  // namespace qamserve
