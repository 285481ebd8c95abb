#include "core/model/stream.h"

#include <algorithm>

#include "core/model/weights.h"

namespace qamserve {

BlockStream::BlockStream(const Checkpoint& checkpoint, const std::vector<std::vector<int32_t>>& windows,
                         ThreadPool& pool, const InputObserver* observer, size_t longest)
    : checkpoint_(checkpoint),
      windows_(windows),
      context_{checkpoint.config(), BestKernels(), pool, buffers_, observer},
      cache_(checkpoint.config(), /*layers=*/1, static_cast<int64_t>(longest), {}),
      rope_(MakeRopeFrequencies(checkpoint.config())) {
  buffers_.Reserve(checkpoint.config(), static_cast<int64_t>(longest));
}

absl::StatusOr<std::unique_ptr<BlockStream>> BlockStream::Create(const Checkpoint& checkpoint,
                                                                 const std::vector<std::vector<int32_t>>& windows,
                                                                 ThreadPool& pool, const InputObserver* observer) {
  RETURN_IF_ERROR(CheckKernelDimensions(checkpoint.config(), checkpoint.origin()));
  size_t longest = 1;
  for (const auto& window : windows) longest = std::max(longest, window.size());
  // The constructor is private.
  return std::unique_ptr<BlockStream>(new BlockStream(checkpoint, windows, pool, observer, longest));
}

absl::StatusOr<std::vector<float>> BlockStream::Embed() const {
  const ModelConfig& config = checkpoint_.config();
  const auto n = static_cast<size_t>(config.hidden_size);
  const auto scale = static_cast<float>(config.embedding_scale);
  size_t total = 0;
  for (const auto& window : windows_) total += window.size();
  std::vector<float> states(total * n);
  float* at = states.data();
  for (const std::vector<int32_t>& window : windows_) {
    for (int32_t token : window) {
      if (token < 0 || token >= config.vocab_size) {
        return InvalidArgument("PROMPT_TOKEN", "token {} is not below the vocabulary size {}", token,
                               config.vocab_size);
      }
      const std::span<float> row(at, n);
      RETURN_IF_ERROR(checkpoint_.ReadRows("model.embed_tokens.weight", token, token + 1, row));
      if (scale != 1.0f) {
        for (float& v : row) v *= scale;
      }
      at += n;
    }
  }
  return states;
}

absl::Status BlockStream::Run(const LayerWeights& weights, int64_t layer, std::vector<float>& states,
                              StreamProgress progress) {
  const int64_t n = checkpoint_.config().hidden_size;
  float* rows = states.data();
  double done = 0;
  for (const std::vector<int32_t>& window : windows_) {
    const auto tokens = static_cast<int64_t>(window.size());
    const BatchSpan span{0, tokens, 0};
    const LayerKv caches[] = {{cache_, 0}};
    std::copy(rows, rows + tokens * n, buffers_.x.begin());
    PrepareRope(rope_, {&span, 1}, context_);
    RunLayer(weights, layer, {&span, 1}, caches, tokens, context_);
    std::copy(buffers_.x.begin(), buffers_.x.begin() + tokens * n, rows);
    rows += tokens * n;
    RETURN_IF_ERROR(progress(++done / static_cast<double>(windows_.size())));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> BlockStream::Normalized(const std::vector<float>& states) const {
  const ModelConfig& config = checkpoint_.config();
  const auto n = static_cast<size_t>(config.hidden_size);
  std::vector<float> norm(n);
  RETURN_IF_ERROR(checkpoint_.ReadRows("model.norm.weight", 0, 1, norm));
  std::vector<float> hidden(states.size());
  for (size_t at = 0; at < states.size(); at += n) {
    context_.kernels.rms_norm(states.data() + at, norm.data(), static_cast<float>(config.rms_eps), config.hidden_size,
                              hidden.data() + at);
  }
  return hidden;
}

absl::Status StreamForward(const Checkpoint& checkpoint, const std::vector<std::vector<int32_t>>& windows,
                           ThreadPool& pool, const InputObserver* observer, StreamProgress progress,
                           std::vector<float>* hidden) {
  ASSIGN_OR_RETURN(const auto stream, BlockStream::Create(checkpoint, windows, pool, observer));
  ASSIGN_OR_RETURN(std::vector<float> states, stream->Embed());
  const auto layers = static_cast<double>(checkpoint.config().num_layers);
  for (int64_t layer = 0; layer < checkpoint.config().num_layers; ++layer) {
    ASSIGN_OR_RETURN(const LayerWeights weights, LoadDenseLayer(checkpoint, layer));
    auto part = [&](double fraction) { return progress((static_cast<double>(layer) + fraction) / layers); };
    RETURN_IF_ERROR(stream->Run(weights, layer, states, part));
  }
  if (hidden == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(*hidden, stream->Normalized(states));
  return absl::OkStatus();
}

}  // namespace qamserve
