#include "core/evaluate/probe.h"

#include "core/evaluate/compare.h"
#include "core/model/dequantize.h"
#include "core/model/stream.h"
#include "core/model/weights.h"

namespace qamserve {
namespace {

absl::Status NoProgress(double) { return absl::OkStatus(); }

// The weights of a linear layer as the artifact has them, dense.
absl::Status TakeFrom(const Dequantizer& artifact, const std::string& name, Linear& layer) {
  ASSIGN_OR_RETURN(const DequantizedRows rows, artifact.Open(name + ".weight"));
  if (rows.rows() != layer.rows || rows.cols() != layer.cols) {
    return InvalidArgument("MODEL_MISMATCH", "{} is {} x {} in the artifact, {} x {} in the checkpoint", name,
                           rows.rows(), rows.cols(), layer.rows, layer.cols);
  }
  layer.dense_type = DenseType::kF32;
  layer.dense16.clear();
  layer.dense32.resize(static_cast<size_t>(layer.rows * layer.cols));
  rows.Read(0, layer.rows, layer.dense32);
  return absl::OkStatus();
}

// The blocks from `layer` on, of which the first has one tensor replaced at a time.
class Prober {
 public:
  Prober(const Checkpoint& base, int64_t layer, const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool,
         ProgressFn progress)
      : base_(base), layer_(layer), windows_(windows), pool_(pool), progress_(progress) {}

  absl::Status Start() {
    ASSIGN_OR_RETURN(stream_, BlockStream::Create(base_, windows_, pool_, nullptr));
    const ModelConfig& config = base_.config();
    ASSIGN_OR_RETURN(head_, LoadDense(base_, config.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"));
    for (const auto& window : windows_) targets_.emplace_back(window.begin() + 1, window.end());
    const auto after = static_cast<double>(config.num_layers - layer_);
    steps_ = static_cast<double>(layer_) + after * (1 + static_cast<double>(base_.LinearNames(layer_).size()));
    ASSIGN_OR_RETURN(before_, stream_->Embed());
    for (int64_t i = 0; i < layer_; ++i) {
      ASSIGN_OR_RETURN(const LayerWeights weights, LoadDenseLayer(base_, i));
      RETURN_IF_ERROR(Step(weights, i, before_));
    }
    ASSIGN_OR_RETURN(const LayerWeights own, LoadDenseLayer(base_, layer_));
    ASSIGN_OR_RETURN(reference_, Finish(own));
    return absl::OkStatus();
  }

  absl::StatusOr<double> KlWith(const LayerWeights& weights) {
    ASSIGN_OR_RETURN(const std::vector<float> hidden, Finish(weights));
    const int64_t n = base_.config().hidden_size;
    const float *own = reference_.data(), *other = hidden.data();
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < windows_.size(); ++i) {
      for (const TokenComparison& token : CompareTokens(head_, own, &head_, other, targets_[i], BestKernels(), pool_)) {
        sum += token.kl;
        ++count;
      }
      own += static_cast<int64_t>(windows_[i].size()) * n;
      other += static_cast<int64_t>(windows_[i].size()) * n;
    }
    return sum / static_cast<double>(count);
  }

 private:
  absl::Status Step(const LayerWeights& weights, int64_t layer, std::vector<float>& states) {
    RETURN_IF_ERROR(stream_->Run(weights, layer, states, NoProgress));
    return progress_(++done_ / steps_);
  }

  // Normalized last hidden states if block `layer_` has these weights.
  absl::StatusOr<std::vector<float>> Finish(const LayerWeights& first) {
    std::vector<float> states = before_;
    RETURN_IF_ERROR(Step(first, layer_, states));
    for (int64_t i = layer_ + 1; i < base_.config().num_layers; ++i) {
      ASSIGN_OR_RETURN(const LayerWeights weights, LoadDenseLayer(base_, i));
      RETURN_IF_ERROR(Step(weights, i, states));
    }
    return stream_->Normalized(states);
  }

  const Checkpoint& base_;
  const int64_t layer_;
  const std::vector<std::vector<int32_t>>& windows_;
  ThreadPool& pool_;
  ProgressFn progress_;
  std::unique_ptr<BlockStream> stream_;
  Linear head_;
  std::vector<std::vector<int32_t>> targets_;
  std::vector<float> before_;     // states in front of block `layer_`
  std::vector<float> reference_;  // Finish with the checkpoint's own weights
  double steps_ = 1, done_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<double>> ProbeBlock(const Checkpoint& base, const ArtifactReader& artifact, int64_t layer,
                                               const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool,
                                               ProgressFn progress) {
  const Dequantizer dequantizer(artifact);
  Prober prober(base, layer, windows, pool, progress);
  RETURN_IF_ERROR(prober.Start());
  std::vector<double> kl;
  const auto names = LinearGroupNames(layer);
  for (size_t g = 0; g < names.size(); ++g) {
    for (size_t i = 0; i < names[g].layers.size(); ++i) {
      ASSIGN_OR_RETURN(LayerWeights weights, LoadDenseLayer(base, layer));
      LinearGroup* const groups[] = {&weights.qkv, &weights.o, &weights.gate_up, &weights.down};
      RETURN_IF_ERROR(TakeFrom(dequantizer, names[g].layers[i], groups[g]->layers[i]));
      ASSIGN_OR_RETURN(kl.emplace_back(), prober.KlWith(weights));
    }
  }
  return kl;
}

}  // namespace qamserve
