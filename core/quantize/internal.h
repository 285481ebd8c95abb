// Shared by the parts of core/quantize; nothing outside includes it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/format/artifact_format.h"
#include "core/format/safetensors.h"
#include "core/model/artifact.h"
#include "core/model/checkpoint.h"
#include "core/model/weights.h"
#include "core/quantize/quantize.h"

namespace qamserve {

// What calibration knows of one group's inputs, over all shards in order.
struct GroupStatistics {
  std::vector<double> mean_square;  // [cols]
  std::vector<float> max_abs;       // [cols]
  std::vector<float> outer;         // [cols][cols] mean of x x', if asked for
};
absl::StatusOr<GroupStatistics> ReadStatistics(const std::vector<std::string>& shards, const std::string& group,
                                               int64_t cols, bool outer);

// INVALID_ARGUMENT (BPW_RANGE).
absl::StatusOr<TensorFormat> FormatFor(Codec codec, double bpw);

// The group that a tensor of the plan belongs to, with all its layers.
absl::StatusOr<GroupNames> GroupOf(const Checkpoint& checkpoint, const std::string& group);

// What the artifact's weights file declares, in file order: codes first, so that each starts at a multiple of
// kCodesAlignment; then scales, norms, and the tensors that are kept as they are.
std::vector<SafetensorsWriter::Declaration> ArtifactDeclarations(const Checkpoint& checkpoint, const QuantizeSpec& spec,
                                                                 const QuantizePlan& plan);
std::map<std::string, std::string> ArtifactMetadata();

// What becomes of the input embedding and the output head: QuantizePlan::embeddings.
std::vector<QuantizePlan::Tensor> PlanEmbeddings(const Checkpoint& checkpoint, const QuantizeSpec& spec);
// Appends the codes of all plan.embeddings and returns their norms, one after the other. INVALID_ARGUMENT
// (TENSOR_NOT_FINITE, TENSOR_RANGE) names the tensor.
absl::StatusOr<std::vector<uint16_t>> WriteEmbeddings(const Checkpoint& checkpoint, const QuantizeSpec& spec,
                                                      const QuantizePlan& plan, ProgressFn progress,
                                                      SafetensorsWriter& writer);
// GATE_COVERAGE unless each is there, GATE_RECONSTRUCTION unless sampled rows come back to within half a step.
absl::Status VerifyEmbeddings(const Checkpoint& checkpoint, const QuantizePlan& plan, const ArtifactReader& artifact);

// The types that a tensor of codec full may be stored in: the checkpoint's where that has 16 bits, else BF16 or F16,
// whichever loses less. The first has the longest name, so that a header that says it is never too short for another.
std::vector<DType> FullTypes(const TensorInfo& info);
// Writes a tensor of codec full, a few rows at a time, to `out_path` as NAME.weight. INVALID_ARGUMENT (TENSOR_RANGE)
// names the tensor if no type holds its largest value.
absl::StatusOr<TensorOutcome> StoreFullPrecision(const Checkpoint& checkpoint, const QuantizePlan::Tensor& tensor,
                                                 ProgressFn progress, const std::string& out_path);

// The tensors that are not quantized, by Hugging Face name, sorted.
std::vector<std::string> KeptTensors(const Checkpoint& checkpoint, const QuantizePlan& plan);
// The type a kept tensor is stored in: its own if that is a plain float type, else F16 (block types).
DType KeptType(const TensorInfo& info);

// Rows that the gates look at in a tensor, spread evenly: a swapped codebook, a zeroed tensor or shifted codes show in
// any row.
std::vector<int64_t> SampledRows(int64_t rows);
// Of a tensor that the gates cannot open: one that is missing or has another shape fails the first, one whose values
// cannot be used the second.
absl::Status AsGate(const absl::Status& status);

// GATE_COVERAGE and GATE_RECONSTRUCTION on an assembled folder.
absl::Status VerifyArtifact(const Checkpoint& checkpoint, const QuantizePlan& plan, const ArtifactInputs& inputs,
                            const std::string& dir);

}  // namespace qamserve
