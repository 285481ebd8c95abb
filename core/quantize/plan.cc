#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/codec/codebook.h"
#include "core/codec/packing.h"
#include "core/model/kv_cache.h"
#include "core/model/parameters.h"
#include "core/quantize/device.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

// What one block needs while calibration or evaluation runs it: its dense weights, a window's activations and cache.
int64_t BlockMemory(const Checkpoint& checkpoint, const QuantizeSpec& spec) {
  const ModelConfig& c = checkpoint.config();
  int64_t weights = 0;
  for (const std::string& name : checkpoint.LinearNames(0)) {
    const TensorInfo& info = checkpoint.Info(name + ".weight");
    weights += info.elements() * (info.dtype == DType::kF16 || info.dtype == DType::kBF16 ? 2 : 4);
  }
  const int64_t per_token = 3 * c.hidden_size + 2 * c.q_size() + 2 * c.kv_size() + 2 * c.intermediate_size;
  const int64_t tokens = spec.window_tokens;
  return weights + tokens * per_token * 4 + KvCache::BytesFor(c, tokens) / c.num_layers +
         tokens * spec.calibration_windows * c.hidden_size * 4;
}

// What quantizing takes at its most, where as many tensors are quantized at once as there are threads, each by one:
// their packed bytes, and of the CPU's a strip of rows and, with error feedback, the factor in single and double
// precision. A device leaves the statistics, which the factor is made of there, and a panel of the one tensor whose
// turn it is. Workers with and without one may share a job, so it is what the needier of them takes.
int64_t TensorMemory(const QuantizePlan& plan, bool error_feedback, int threads) {
  int64_t widest = 0, largest = 0, panel = 0;
  for (const QuantizePlan::Tensor& t : plan.tensors) {
    widest = std::max(widest, t.cols);
    largest = std::max(largest, t.packed_bytes);
    if (t.format.codec != Codec::kInt8 && t.format.codec != Codec::kFull) {
      panel = std::max(panel, PanelRows(t.rows, t.cols) * t.cols * 4);
    }
  }
  const int64_t pairs = error_feedback ? widest * widest : 0;
  const int64_t of_cpu = threads * (largest + widest * kTileRows * 16 + 16 * pairs);
  const int64_t of_device = threads * (largest + 4 * pairs) + panel;
  return std::max(of_cpu, of_device);
}

// The format of every tensor by the spec's rules.
class TensorFormats {
 public:
  static absl::StatusOr<TensorFormats> Of(const Checkpoint& checkpoint, const QuantizeSpec& spec) {
    TensorFormats out;
    ASSIGN_OR_RETURN(out.usual_, FormatFor(spec.codec, spec.bpw));
    for (const RateRule& rule : spec.rates) {
      ASSIGN_OR_RETURN(const TensorFormat format, FormatFor(spec.codec, rule.bpw));
      bool matched = false;
      for (int64_t layer = 0; layer < checkpoint.config().num_layers; ++layer) {
        for (const std::string& name : checkpoint.LinearNames(layer)) {
          if (fnmatch(rule.filter.c_str(), name.c_str(), 0) != 0) continue;
          out.others_[name] = format;
          matched = true;
        }
      }
      if (!matched) {
        return InvalidArgument("FILTER_MATCHES_NOTHING",
                               "rates: filter '{}' matches none of the tensors of {} ({}, ...)", rule.filter,
                               checkpoint.origin(), checkpoint.LinearNames(0).front());
      }
    }
    return out;
  }
  TensorFormat Get(const std::string& name) const {
    const auto it = others_.find(name);
    return it == others_.end() ? usual_ : it->second;
  }

 private:
  TensorFormat usual_;
  std::map<std::string, TensorFormat> others_;
};

}  // namespace

int64_t PanelRows(int64_t rows, int64_t cols) {
  const int64_t strips = std::max<int64_t>(1, kPanelWeights / (cols * kTileRows));
  return std::min(rows, strips * kTileRows);
}

DType KeptType(const TensorInfo& info) {
  const bool plain = info.dtype == DType::kF32 || info.dtype == DType::kF16 || info.dtype == DType::kBF16;
  return plain ? info.dtype : DType::kF16;
}

std::vector<std::string> KeptTensors(const Checkpoint& checkpoint, const QuantizePlan& plan) {
  std::set<std::string> quantized;
  for (const QuantizePlan::Tensor& t : plan.tensors) quantized.insert(t.name + ".weight");
  for (const QuantizePlan::Tensor& t : plan.embeddings) quantized.insert(t.name + ".weight");
  std::vector<std::string> kept;
  for (const ParameterSpec& parameter : ParametersOf(checkpoint.config())) {
    if (!quantized.contains(parameter.name)) kept.push_back(parameter.name);
  }
  return kept;
}

std::map<std::string, std::string> ArtifactMetadata() { return {{"format", "pt"}, {"qamw_codec", kCodecVersion}}; }

std::vector<SafetensorsWriter::Declaration> ArtifactDeclarations(const Checkpoint& checkpoint, const QuantizeSpec& spec,
                                                                 const QuantizePlan& plan) {
  std::vector<SafetensorsWriter::Declaration> out;
  for (const std::vector<QuantizePlan::Tensor>* tensors : {&plan.tensors, &plan.embeddings}) {
    for (const QuantizePlan::Tensor& t : *tensors) {
      if (!HasCodes(t.format)) {
        const std::string name = t.name + ".weight";
        out.push_back({name, FullTypes(checkpoint.Info(name)).front(), {t.rows, t.cols}});
        continue;
      }
      out.push_back({t.name + kCodesSuffix, DType::kU8, {CodesBytes(t.format, t.rows, t.cols)}});
      out.back().aligned = true;
    }
  }
  std::string group;
  for (const QuantizePlan::Tensor& t : plan.tensors) {
    if (spec.channel_scale && t.group != group) out.push_back({t.group + kChannelScaleSuffix, DType::kF16, {t.cols}});
    group = t.group;
  }
  for (const QuantizePlan::Tensor& t : plan.tensors) {
    if (HasCodes(t.format)) out.push_back({t.name + kRowNormSuffix, DType::kF16, {t.rows}});
  }
  for (const QuantizePlan::Tensor& t : plan.embeddings) out.push_back({t.name + kRowNormSuffix, DType::kF16, {t.rows}});
  for (const std::string& name : KeptTensors(checkpoint, plan)) {
    const TensorInfo& info = checkpoint.Info(name);
    out.push_back({name, KeptType(info), info.shape});
  }
  return out;
}

absl::StatusOr<QuantizePlan> PlanQuantization(const Checkpoint& checkpoint, const QuantizeSpec& spec, int threads) {
  RETURN_IF_ERROR(ValidateQuantizeSpec(spec));
  RETURN_IF_ERROR(CheckKernelDimensions(checkpoint.config(), checkpoint.origin()));
  ASSIGN_OR_RETURN(const TensorFormats formats, TensorFormats::Of(checkpoint, spec));
  QuantizePlan plan;
  double bits = 0;
  std::set<int64_t> rotations;
  for (int64_t layer = 0; layer < checkpoint.config().num_layers; ++layer) {
    for (const GroupNames& group : LinearGroupNames(layer)) {
      for (const std::string& name : group.layers) {
        const TensorInfo& info = checkpoint.Info(name + ".weight");
        const int64_t rows = info.rows(), cols = info.cols();
        if (rotations.insert(cols).second) {
          auto rotation = Rotation::Create(cols, spec.rotation, spec.seed);
          if (!rotation.ok()) return Annotate(rotation.status(), checkpoint.origin() + ": tensor " + name);
        }
        const TensorFormat format = formats.Get(name);
        const int64_t codes = CodesBytes(format, rows, cols);
        const int64_t norms = HasCodes(format) ? rows * 2 : 0;
        plan.tensors.push_back({name, group.name, rows, cols, format, codes + norms});
        plan.weights += rows * cols;
        bits += static_cast<double>(rows * cols) * format.pair_bits / 2.0 + 8.0 * static_cast<double>(norms);
      }
      if (spec.channel_scale) bits += 16.0 * static_cast<double>(plan.tensors.back().cols);
    }
  }
  plan.bpw = bits / static_cast<double>(plan.weights);
  plan.embeddings = PlanEmbeddings(checkpoint, spec);
  ASSIGN_OR_RETURN(const uint64_t total, SafetensorsWriter::TotalBytes(ArtifactDeclarations(checkpoint, spec, plan),
                                                                       ArtifactMetadata(), kCodesAlignment));
  plan.artifact_bytes = static_cast<int64_t>(total);
  plan.peak_memory_bytes =
      kProcessBytes + BlockMemory(checkpoint, spec) + TensorMemory(plan, spec.error_feedback, threads);
  return plan;
}

absl::StatusOr<GroupNames> GroupOf(const Checkpoint& checkpoint, const std::string& group) {
  for (int64_t layer = 0; layer < checkpoint.config().num_layers; ++layer) {
    for (GroupNames& names : LinearGroupNames(layer)) {
      if (names.name == group) return names;
    }
  }
  return NotFound("TENSOR_MISSING", "{}: there is no input group {}", checkpoint.origin(), group);
}

}  // namespace qamserve
