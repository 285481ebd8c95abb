// The input embedding and the output head in 8 bits. They are the last thing that an artifact needs and the cheapest to
// quantize, so that they have no tasks of their own: they are rounded while the artifact is written.
#include <algorithm>
#include <cmath>

#include "core/codec/int8_packing.h"
#include "core/model/dequantize.h"
#include "core/model/parameters.h"
#include "core/quantize/internal.h"
#include "core/quantize/pair_coder.h"
#include "core/quantize/strip.h"

namespace qamserve {

std::vector<QuantizePlan::Tensor> PlanEmbeddings(const Checkpoint& checkpoint, const QuantizeSpec& spec) {
  std::vector<QuantizePlan::Tensor> out;
  if (spec.embedding_bits == 16) return out;
  constexpr TensorFormat kFormat{.codec = Codec::kInt8, .pair_bits = kInt8PairBits};
  std::vector<std::string> names = {kInputEmbedding};
  if (!checkpoint.config().tie_embeddings) names.push_back(kOutputHead);
  for (const std::string& name : names) {
    const TensorInfo& info = checkpoint.Info(name + ".weight");
    const int64_t rows = info.rows(), cols = info.cols();
    out.push_back({name, "", rows, cols, kFormat, CodesBytes(kFormat, rows, cols) + rows * 2});
  }
  return out;
}

absl::StatusOr<std::vector<uint16_t>> WriteEmbeddings(const Checkpoint& checkpoint, const QuantizeSpec& spec,
                                                      const QuantizePlan& plan, ProgressFn progress,
                                                      SafetensorsWriter& writer) {
  std::vector<uint16_t> norms;
  int64_t total = 0;
  for (const QuantizePlan::Tensor& tensor : plan.embeddings) total += tensor.rows;
  for (const QuantizePlan::Tensor& tensor : plan.embeddings) {
    ASSIGN_OR_RETURN(const Rotation rotation, Rotation::Create(tensor.cols, spec.rotation, spec.seed));
    const CoderTables tables(tensor.format);
    const StripContext context{.rotation = rotation, .tables = tables, .scale = {}, .mean_square = {}};
    for (int64_t row = 0; row < tensor.rows; row += kTileRows) {
      const int64_t count = std::min<int64_t>(kTileRows, tensor.rows - row);
      std::vector<float> rows(static_cast<size_t>(count * tensor.cols));
      RETURN_IF_ERROR(checkpoint.ReadRows(tensor.name + ".weight", row, row + count, rows));
      std::vector<uint8_t> codes(static_cast<size_t>(CodesStripBytes(tensor.format, tensor.cols)));
      norms.resize(norms.size() + static_cast<size_t>(count));
      const auto outcome = EncodeStrip(context, rows, std::span(norms).last(static_cast<size_t>(count)), codes);
      if (!outcome.ok()) {
        return Annotate(outcome.status(),
                        fmt::format("{}: tensor {}, rows from {}", checkpoint.origin(), tensor.name, row));
      }
      RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(codes))));
      RETURN_IF_ERROR(progress(static_cast<double>(norms.size()) / static_cast<double>(total)));
    }
  }
  return norms;
}

absl::Status VerifyEmbeddings(const Checkpoint& checkpoint, const QuantizePlan& plan, const ArtifactReader& artifact) {
  for (const QuantizePlan::Tensor& t : plan.embeddings) {
    const auto rows = Dequantizer(artifact).Open(t.name + ".weight");
    if (!rows.ok()) return AsGate(Annotate(rows.status(), "tensor " + t.name));
    if (!rows->quantized()) return FailedPrecondition("GATE_COVERAGE", "tensor {} was not quantized", t.name);
    ASSIGN_OR_RETURN(const auto rotation, artifact.RotationFor(t.cols));
    std::vector<float> original(static_cast<size_t>(t.cols)), decoded(original.size()), scratch(original.size());
    for (const int64_t row : SampledRows(t.rows)) {
      RETURN_IF_ERROR(checkpoint.ReadRows(t.name + ".weight", row, row + 1, original));
      rows->Read(row, row + 1, decoded);
      rotation->Apply(original.data(), scratch.data());
      rotation->Apply(decoded.data(), scratch.data());
      float largest = 0;
      for (const float w : original) largest = std::max(largest, std::fabs(w));
      // Half a step, a hundredth more for the rounding of the norm and of rotations, and half of the smallest norm.
      const float limit = 0.505f * largest / static_cast<float>(kInt8MaxWeight) + 0x1p-25f;
      for (size_t j = 0; j < original.size(); ++j) {
        if (std::fabs(decoded[j] - original[j]) <= limit) continue;
        return FailedPrecondition(
            "GATE_RECONSTRUCTION",
            "tensor {}, row {}, column {} (rotated): {:.6g} reads back as {:.6g}; they may differ by {:.3g}", t.name,
            row, j, original[j], decoded[j], limit);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace qamserve
