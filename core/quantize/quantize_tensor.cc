#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/codec/half.h"
#include "core/codec/joint.h"
#include "core/quantize/device.h"
#include "core/quantize/feedback.h"
#include "core/quantize/internal.h"
#include "core/quantize/pair_coder.h"
#include "core/quantize/strip.h"

namespace qamserve {

struct PackedTensor {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> norms;
  std::vector<float> scale;  // empty without channel scales
};

namespace {

// Calls add(weights of a few rows) for all layers that share the input, in order.
absl::Status ForEachRow(const Checkpoint& checkpoint, const GroupNames& group, int64_t cols,
                        absl::FunctionRef<void(std::span<const float>)> add) {
  constexpr int64_t kRowsAtOnce = 32;
  std::vector<float> rows(static_cast<size_t>(kRowsAtOnce * cols));
  for (const std::string& name : group.layers) {
    const int64_t count = checkpoint.Info(name + ".weight").rows();
    for (int64_t row = 0; row < count; row += kRowsAtOnce) {
      const int64_t end = std::min(count, row + kRowsAtOnce);
      const auto part = std::span(rows).first(static_cast<size_t>((end - row) * cols));
      RETURN_IF_ERROR(checkpoint.ReadRows(name + ".weight", row, end, part));
      for (size_t i = 0; i < part.size(); i += static_cast<size_t>(cols)) {
        add(part.subspan(i, static_cast<size_t>(cols)));
      }
    }
  }
  return absl::OkStatus();
}

// The scale of a group's input channels: what loses least in the outputs; with error feedback, which has the inputs in
// its metric already, columns of equal energy; for 8-bit activations, what shares their range with the weights'.
absl::StatusOr<std::vector<float>> ComputeScale(const Checkpoint& checkpoint, const GroupNames& group, Codec codec,
                                                bool feedback, const GroupStatistics& inputs) {
  const size_t n = inputs.mean_square.size();
  if (codec == Codec::kInt8) {
    std::vector<float> largest(n, 0.0f);
    RETURN_IF_ERROR(ForEachRow(checkpoint, group, static_cast<int64_t>(n), [&](std::span<const float> row) {
      for (size_t j = 0; j < n; ++j) largest[j] = std::max(largest[j], std::fabs(row[j]));
    }));
    return SmoothingScale(inputs.max_abs, largest);
  }
  std::vector<double> energy(n, 0.0);
  RETURN_IF_ERROR(ForEachRow(checkpoint, group, static_cast<int64_t>(n), [&](std::span<const float> row) {
    for (size_t j = 0; j < n; ++j) energy[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
  }));
  return feedback ? EqualEnergyScale(energy) : ChannelScale(inputs.mean_square, energy);
}

absl::Status WritePacked(const QuantizePlan::Tensor& tensor, const PackedTensor& packed, const std::string& path) {
  std::vector<SafetensorsWriter::Declaration> declarations = {
      {tensor.name + kCodesSuffix, DType::kU8, {static_cast<int64_t>(packed.codes.size())}},
      {tensor.name + kRowNormSuffix, DType::kF16, {tensor.rows}}};
  if (!packed.scale.empty()) declarations.push_back({tensor.group + kChannelScaleSuffix, DType::kF16, {tensor.cols}});
  ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, declarations, ArtifactMetadata(), 8));
  RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(packed.codes))));
  RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(packed.norms))));
  std::vector<uint16_t> halves;
  for (float s : packed.scale) halves.push_back(FloatToHalf(s));
  RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(halves))));
  return writer.Commit();
}

void AddOutcome(const StripOutcome& strip, StripOutcome& total) {
  total.relative += strip.relative;
  total.worst_row = std::max(total.worst_row, strip.worst_row);
  total.weighted += strip.weighted;
  total.weighted_energy += strip.weighted_energy;
  total.feedback_loss += strip.feedback_loss;
}

// Says of an error which rows it was in.
absl::Status AtRows(const absl::Status& status, const Checkpoint& checkpoint, const QuantizePlan::Tensor& tensor,
                    int64_t first) {
  return Annotate(status, fmt::format("{}: tensor {}, rows from {}", checkpoint.origin(), tensor.name, first));
}

// The strips of a tensor, added up in order.
absl::StatusOr<StripOutcome> EncodeStrips(const Checkpoint& checkpoint, const QuantizePlan::Tensor& tensor,
                                          const StripContext& context, ThreadPool& pool, ProgressFn progress,
                                          PackedTensor& packed) {
  const int64_t strips = StripsDown(tensor.rows), cols = tensor.cols;
  const int64_t bytes = CodesStripBytes(context.tables.format(), cols);
  auto encode = [&](int64_t strip) -> absl::StatusOr<StripOutcome> {
    const int64_t first = strip * kTileRows, count = std::min<int64_t>(kTileRows, tensor.rows - first);
    std::vector<float> rows(static_cast<size_t>(count * cols));
    RETURN_IF_ERROR(checkpoint.ReadRows(tensor.name + ".weight", first, first + count, rows));
    auto outcome = EncodeStrip(
        context, rows, std::span(packed.norms).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
        std::span(packed.codes).subspan(static_cast<size_t>(strip * bytes), static_cast<size_t>(bytes)));
    if (outcome.ok()) return outcome;
    return AtRows(outcome.status(), checkpoint, tensor, first);
  };
  StripOutcome total;
  std::vector<absl::StatusOr<StripOutcome>> outcomes(static_cast<size_t>(pool.threads()));
  for (int64_t done = 0; done < strips; done += pool.threads()) {
    const int64_t now = std::min<int64_t>(pool.threads(), strips - done);
    pool.ParallelFor(now, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) outcomes[static_cast<size_t>(s)] = encode(done + s);
    });
    for (int64_t s = 0; s < now; ++s) {
      ASSIGN_OR_RETURN(const StripOutcome outcome, outcomes[static_cast<size_t>(s)]);
      AddOutcome(outcome, total);
    }
    RETURN_IF_ERROR(progress(static_cast<double>(done + now) / static_cast<double>(strips)));
  }
  return total;
}

// The same by a device, a panel of strips at a time, which all threads read.
absl::StatusOr<StripOutcome> EncodePanels(const Checkpoint& checkpoint, const QuantizePlan::Tensor& tensor,
                                          DeviceCoder& coder, ThreadPool& pool, ProgressFn progress,
                                          PackedTensor& packed) {
  const int64_t cols = tensor.cols, strip_bytes = CodesStripBytes(tensor.format, cols);
  const int64_t panel = std::min(tensor.rows, coder.panel_rows());
  std::vector<float> rows(static_cast<size_t>(panel * cols));
  std::vector<absl::Status> read(static_cast<size_t>(StripsDown(panel)));
  std::vector<StripOutcome> outcomes;
  StripOutcome total;
  for (int64_t first = 0; first < tensor.rows; first += panel) {
    const int64_t count = std::min(panel, tensor.rows - first), strips = StripsDown(count);
    pool.ParallelFor(strips, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        const int64_t from = s * kTileRows, to = std::min(count, from + kTileRows);
        read[static_cast<size_t>(s)] = checkpoint.ReadRows(
            tensor.name + ".weight", first + from, first + to,
            std::span(rows).subspan(static_cast<size_t>(from * cols), static_cast<size_t>((to - from) * cols)));
      }
    });
    for (int64_t s = 0; s < strips; ++s) RETURN_IF_ERROR(read[static_cast<size_t>(s)]);
    outcomes.assign(static_cast<size_t>(strips), {});
    const absl::Status status = coder.Encode(
        std::span(rows).first(static_cast<size_t>(count * cols)),
        std::span(packed.norms).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
        std::span(packed.codes)
            .subspan(static_cast<size_t>(first / kTileRows * strip_bytes), static_cast<size_t>(strips * strip_bytes)),
        outcomes);
    if (!status.ok()) return AtRows(status, checkpoint, tensor, first);
    for (const StripOutcome& outcome : outcomes) AddOutcome(outcome, total);
    RETURN_IF_ERROR(progress(static_cast<double>(first + count) / static_cast<double>(tensor.rows)));
  }
  return total;
}

}  // namespace

Quantizer::Quantizer(std::shared_ptr<const Checkpoint> checkpoint, const QuantizeSpec& spec,
                     std::shared_ptr<QuantizeDevice> device)
    : checkpoint_(std::move(checkpoint)), spec_(spec), device_(std::move(device)) {}
Quantizer::~Quantizer() = default;

absl::StatusOr<std::shared_ptr<const Quantizer>> Quantizer::Create(std::shared_ptr<const Checkpoint> checkpoint,
                                                                   const QuantizeSpec& spec,
                                                                   std::shared_ptr<QuantizeDevice> device) {
  std::shared_ptr<Quantizer> out(new Quantizer(std::move(checkpoint), spec, std::move(device)));
  ASSIGN_OR_RETURN(out->plan_, PlanQuantization(*out->checkpoint_, spec, 1));
  for (const QuantizePlan::Tensor& tensor : out->plan_.tensors) {
    if (!HasCodes(tensor.format)) continue;
    auto& tables = out->tables_[{tensor.format.codec, tensor.format.pair_bits}];
    if (tables == nullptr) tables = std::make_unique<const CoderTables>(tensor.format);
    auto& rotation = out->rotations_[tensor.cols];
    if (rotation != nullptr) continue;
    ASSIGN_OR_RETURN(Rotation made, Rotation::Create(tensor.cols, spec.rotation, spec.seed));
    rotation = std::make_unique<const Rotation>(std::move(made));
  }
  return out;
}

absl::StatusOr<std::vector<float>> Quantizer::ScaleOf(const QuantizePlan::Tensor& tensor,
                                                      const std::vector<std::string>& statistics,
                                                      const GroupStatistics& inputs) const {
  constexpr size_t kKept = 8;
  const std::string key = fmt::format("{} {}", tensor.group, fmt::join(statistics, " "));
  // Made under the lock: whoever else wants it waits for it instead of reading the group's weights, too.
  std::lock_guard lock(mutex_);
  for (const auto& [kept, scale] : scales_) {
    if (kept == key) return scale;
  }
  ASSIGN_OR_RETURN(const GroupNames group, GroupOf(*checkpoint_, tensor.group));
  ASSIGN_OR_RETURN(std::vector<float> scale,
                   ComputeScale(*checkpoint_, group, tensor.format.codec, spec_.error_feedback, inputs));
  scales_.emplace_back(key, scale);
  if (scales_.size() > kKept) scales_.pop_front();
  return scale;
}

absl::StatusOr<StripOutcome> Quantizer::EncodeTensor(const QuantizePlan::Tensor& tensor, GroupStatistics& inputs,
                                                     ThreadPool& pool, ProgressFn progress,
                                                     PackedTensor& packed) const {
  const Rotation& rotation = *rotations_.at(tensor.cols);
  if (device_ != nullptr && device_->Encodes(tensor.format)) {
    ASSIGN_OR_RETURN(const auto coder, device_->MakeCoder({.group = tensor.group,
                                                           .format = tensor.format,
                                                           .rows = tensor.rows,
                                                           .rotation = rotation,
                                                           .scale = packed.scale,
                                                           .mean_square = inputs.mean_square,
                                                           .outer = inputs.outer}));
    return EncodePanels(*checkpoint_, tensor, *coder, pool, progress, packed);
  }
  std::optional<ErrorFeedback> feedback;
  if (spec_.error_feedback) {
    ASSIGN_OR_RETURN(feedback, ErrorFeedback::Create(tensor.group, inputs.outer, packed.scale, rotation));
    inputs.outer = {};
  }
  const StripContext context{.rotation = rotation,
                             .tables = *tables_.at({tensor.format.codec, tensor.format.pair_bits}),
                             .scale = packed.scale,
                             .mean_square = inputs.mean_square,
                             .feedback = feedback ? &*feedback : nullptr};
  return EncodeStrips(*checkpoint_, tensor, context, pool, progress, packed);
}

absl::StatusOr<TensorOutcome> Quantizer::QuantizeTensor(size_t index, const std::vector<std::string>& statistics,
                                                        ThreadPool& pool, ProgressFn progress,
                                                        const std::string& out_path) const {
  const QuantizePlan::Tensor& tensor = plan_.tensors[index];
  if (!HasCodes(tensor.format)) return StoreFullPrecision(*checkpoint_, tensor, progress, out_path);
  ASSIGN_OR_RETURN(const GroupNames group, GroupOf(*checkpoint_, tensor.group));
  GroupStatistics inputs;
  if (NeedsStatistics(spec_)) {
    ASSIGN_OR_RETURN(inputs, ReadStatistics(statistics, tensor.group, tensor.cols, spec_.error_feedback));
  }
  PackedTensor packed;
  if (spec_.channel_scale) {
    ASSIGN_OR_RETURN(packed.scale, ScaleOf(tensor, statistics, inputs));
  }
  packed.codes.resize(static_cast<size_t>(CodesBytes(tensor.format, tensor.rows, tensor.cols)));
  packed.norms.resize(static_cast<size_t>(tensor.rows));
  ASSIGN_OR_RETURN(const StripOutcome total, EncodeTensor(tensor, inputs, pool, progress, packed));
  RETURN_IF_ERROR(WritePacked(tensor, packed, out_path));

  TensorOutcome outcome{tensor.name, tensor.rows, tensor.cols};
  int64_t group_rows = 0;
  for (const std::string& name : group.layers) group_rows += checkpoint_->Info(name + ".weight").rows();
  outcome.bpw = tensor.format.pair_bits / 2.0 + 16.0 / static_cast<double>(tensor.cols) +
                (spec_.channel_scale ? 16.0 / static_cast<double>(group_rows) : 0.0);
  outcome.distortion = total.relative / static_cast<double>(tensor.rows);
  outcome.worst_row_distortion = total.worst_row;
  outcome.weighted_error = total.weighted_energy > 0 ? total.weighted / total.weighted_energy : 0;
  outcome.output_error = spec_.error_feedback ? total.feedback_loss : total.weighted;
  return outcome;
}

}  // namespace qamserve
