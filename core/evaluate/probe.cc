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

// The model run side by side as it is and with each tensor of one block replaced, so that every block is loaded once.
class Prober {
 public:
  Prober(const Checkpoint& base, int64_t layer, const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool,
         ProgressFn progress)
      : base_(base), layer_(layer), windows_(windows), pool_(pool), progress_(progress) {
    const auto variants = static_cast<double>(1 + base.LinearNames(layer).size());
    steps_ = static_cast<double>(layer) + static_cast<double>(base.config().num_layers - layer) * variants;
  }

  absl::StatusOr<std::vector<double>> Run(const Dequantizer& artifact) {
    ASSIGN_OR_RETURN(stream_, BlockStream::Create(base_, windows_, pool_, nullptr));
    ASSIGN_OR_RETURN(std::vector<float> before, stream_->Embed());
    for (int64_t i = 0; i < layer_; ++i) {
      ASSIGN_OR_RETURN(const LayerWeights weights, LoadDenseLayer(base_, i));
      RETURN_IF_ERROR(Step(weights, i, before));
    }
    // The first of the states is the base model's.
    std::vector<std::vector<float>> states;
    RETURN_IF_ERROR(Branch(artifact, before, states));
    for (int64_t i = layer_ + 1; i < base_.config().num_layers; ++i) {
      ASSIGN_OR_RETURN(const LayerWeights weights, LoadDenseLayer(base_, i));
      for (std::vector<float>& state : states) RETURN_IF_ERROR(Step(weights, i, state));
    }
    return KlOf(states);
  }

 private:
  absl::Status Step(const LayerWeights& weights, int64_t layer, std::vector<float>& states) {
    RETURN_IF_ERROR(stream_->Run(weights, layer, states, NoProgress));
    return progress_(++done_ / steps_);
  }

  // Block `layer_` with its own weights, then with one tensor at a time taken from the artifact.
  absl::Status Branch(const Dequantizer& artifact, const std::vector<float>& before,
                      std::vector<std::vector<float>>& states) {
    ASSIGN_OR_RETURN(LayerWeights weights, LoadDenseLayer(base_, layer_));
    RETURN_IF_ERROR(Step(weights, layer_, states.emplace_back(before)));
    LinearGroup* const groups[] = {&weights.qkv, &weights.o, &weights.gate_up, &weights.down};
    const auto names = LinearGroupNames(layer_);
    for (size_t g = 0; g < names.size(); ++g) {
      for (size_t i = 0; i < names[g].layers.size(); ++i) {
        Linear& linear = groups[g]->layers[i];
        const Linear own = linear;
        RETURN_IF_ERROR(TakeFrom(artifact, names[g].layers[i], linear));
        RETURN_IF_ERROR(Step(weights, layer_, states.emplace_back(before)));
        linear = own;
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<double>> KlOf(const std::vector<std::vector<float>>& states) {
    const bool tied = base_.config().tie_embeddings;
    ASSIGN_OR_RETURN(const Linear head, LoadDense(base_, tied ? "model.embed_tokens.weight" : "lm_head.weight"));
    ASSIGN_OR_RETURN(const std::vector<float> reference, stream_->Normalized(states.front()));
    std::vector<double> kl;
    for (size_t variant = 1; variant < states.size(); ++variant) {
      ASSIGN_OR_RETURN(const std::vector<float> hidden, stream_->Normalized(states[variant]));
      kl.push_back(MeanKl(head, reference, hidden));
    }
    return kl;
  }

  double MeanKl(const Linear& head, const std::vector<float>& reference, const std::vector<float>& hidden) {
    double sum = 0;
    size_t count = 0, at = 0;
    for (const std::vector<int32_t>& window : windows_) {
      const std::vector<int32_t> targets(window.begin() + 1, window.end());
      for (const TokenComparison& token :
           CompareTokens(head, reference.data() + at, &head, hidden.data() + at, targets, BestKernels(), pool_)) {
        sum += token.kl;
        ++count;
      }
      at += window.size() * static_cast<size_t>(base_.config().hidden_size);
    }
    return sum / static_cast<double>(count);
  }

  const Checkpoint& base_;
  const int64_t layer_;
  const std::vector<std::vector<int32_t>>& windows_;
  ThreadPool& pool_;
  ProgressFn progress_;
  std::unique_ptr<BlockStream> stream_;
  double steps_ = 1, done_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<double>> ProbeBlock(const Checkpoint& base, const ArtifactReader& artifact, int64_t layer,
                                               const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool,
                                               ProgressFn progress) {
  const Dequantizer dequantizer(artifact);
  return Prober(base, layer, windows, pool, progress).Run(dequantizer);
}

}  // namespace qamserve
