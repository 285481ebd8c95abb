// The two gates that need no text: is everything there, and does it dequantize to what went in?
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/codec/half.h"
#include "core/codec/joint.h"
#include "core/model/artifact.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

// Rows looked at in each tensor, spread evenly: a swapped codebook, a zeroed tensor or shifted codes show in any row.
constexpr int64_t kSampledRows = 4;
// A row of n weights has a distortion within a few times sqrt(1/n) of its tensor's; four times the mean is damage.
constexpr double kWorstRow = 4;

struct PackedView {
  const uint8_t* codes;
  const std::byte* norms;
  std::vector<float> scale;  // empty without channel scales
};

// Squared error over energy of one row, both in the scaled basis (where the codec minimizes it).
absl::StatusOr<double> RowError(const Checkpoint& checkpoint, const Rotation& rotation, const RowDecoder& decoder,
                                const QuantizePlan::Tensor& tensor, const PackedView& view, int64_t row) {
  const auto n = static_cast<size_t>(tensor.cols);
  std::vector<float> original(n), decoded(n), scratch(n);
  RETURN_IF_ERROR(checkpoint.ReadRows(tensor.name + ".weight", row, row + 1, original));
  uint16_t norm;
  std::memcpy(&norm, view.norms + row * 2, sizeof(norm));
  const uint8_t* strip = view.codes + (row / kTileRows) * StripBytes(tensor.cols, decoder.format().pair_bits);
  DecodeRow(rotation, decoder, view.scale, norm, strip, static_cast<int>(row % kTileRows), decoded, scratch);
  double error = 0, energy = 0;
  for (size_t j = 0; j < n; ++j) {
    const double s = view.scale.empty() ? 1.0 : static_cast<double>(view.scale[j]);
    const double w = s * static_cast<double>(original[j]), d = s * static_cast<double>(decoded[j]) - w;
    error += d * d;
    energy += w * w;
  }
  return energy > 0 ? error / energy : error;
}

}  // namespace

absl::Status VerifyArtifact(const Checkpoint& checkpoint, const QuantizePlan& plan, const ArtifactInputs& inputs,
                            const std::string& dir) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(dir));
  auto opened = ArtifactReader::Open(files);
  if (!opened.ok())
    return MakeError(absl::StatusCode::kFailedPrecondition, "GATE_COVERAGE", MessageOf(opened.status()));
  const ArtifactReader& artifact = **opened;
  const QuantizationConfig& quantization = artifact.quantization();
  ASSIGN_OR_RETURN(const RotationKind kind, ParseRotationKind(quantization.rotation));
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const QuantizePlan::Tensor& t = plan.tensors[i];
    const RowDecoder decoder(artifact.FormatOf(t.name));
    const int64_t bytes = PackedBytes(t.rows, t.cols, decoder.format().pair_bits);
    auto codes = artifact.Mapped(t.name + kCodesSuffix, DType::kU8, {bytes});
    auto norms = artifact.Mapped(t.name + kRowNormSuffix, DType::kF16, {t.rows});
    for (const absl::Status& status : {codes.status(), norms.status()}) {
      if (!status.ok()) return MakeError(absl::StatusCode::kFailedPrecondition, "GATE_COVERAGE", MessageOf(status));
    }
    PackedView view{reinterpret_cast<const uint8_t*>(*codes), *norms, {}};
    if (quantization.channel_scale) {
      ASSIGN_OR_RETURN(view.scale, artifact.LoadVector(t.group + kChannelScaleSuffix));
    }
    ASSIGN_OR_RETURN(const Rotation rotation, Rotation::Create(t.cols, kind, quantization.rotation_seed));
    const double limit = kWorstRow * inputs.outcomes[i].distortion + 1e-6;
    for (int64_t k = 0; k < std::min(kSampledRows, t.rows); ++k) {
      const int64_t row = k * (t.rows - 1) / std::max<int64_t>(1, std::min(kSampledRows, t.rows) - 1);
      ASSIGN_OR_RETURN(const double error, RowError(checkpoint, rotation, decoder, t, view, row));
      if (!(error <= limit)) {
        return FailedPrecondition(
            "GATE_RECONSTRUCTION",
            "tensor {}, row {}: relative squared error {:.3g} after reading it back; the limit is {:.3g}", t.name, row,
            error, limit);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace qamserve
