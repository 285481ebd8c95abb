#include "core/model/stream.h"

#include <algorithm>

#include "core/model/weights.h"

namespace qamserve {
namespace {

absl::Status EmbedWindows(const Checkpoint& checkpoint, const std::vector<std::vector<int32_t>>& windows,
                          std::vector<float>& x) {
  const ModelConfig& config = checkpoint.config();
  const auto n = static_cast<size_t>(config.hidden_size);
  const auto scale = static_cast<float>(config.embedding_scale);
  for (const std::vector<int32_t>& window : windows) {
    for (int32_t token : window) {
      if (token < 0 || token >= config.vocab_size) {
        return InvalidArgument("PROMPT_TOKEN", "token {} is not below the vocabulary size {}", token,
                               config.vocab_size);
      }
      x.resize(x.size() + n);
      const std::span<float> row(x.data() + x.size() - n, n);
      RETURN_IF_ERROR(checkpoint.ReadRows("model.embed_tokens.weight", token, token + 1, row));
      if (scale != 1.0f) {
        for (float& v : row) v *= scale;
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status StreamForward(const Checkpoint& checkpoint, const std::vector<std::vector<int32_t>>& windows,
                           ThreadPool& pool, const InputObserver* observer, StreamProgress progress,
                           std::vector<float>* hidden) {
  const ModelConfig& config = checkpoint.config();
  RETURN_IF_ERROR(CheckKernelDimensions(config, checkpoint.origin()));
  const Kernels& kernels = BestKernels();
  const int64_t n = config.hidden_size;
  size_t longest = 1, total = 0;
  for (const auto& window : windows) longest = std::max(longest, window.size()), total += window.size();

  std::vector<float> x;
  x.reserve(total * static_cast<size_t>(n));
  RETURN_IF_ERROR(EmbedWindows(checkpoint, windows, x));
  ForwardBuffers buffers;
  buffers.Reserve(config, static_cast<int64_t>(longest));
  ForwardContext context{config, kernels, pool, buffers, observer};
  LayerKv cache(config, static_cast<int64_t>(longest));
  const RopeFrequencies rope = MakeRopeFrequencies(config);

  const double steps = static_cast<double>(config.num_layers) * static_cast<double>(windows.size());
  double done = 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(const LayerWeights weights, LoadDenseLayer(checkpoint, layer));
    float* rows = x.data();
    for (const std::vector<int32_t>& window : windows) {
      const auto tokens = static_cast<int64_t>(window.size());
      const BatchSpan span{0, tokens, 0};
      LayerKv* caches[] = {&cache};
      std::copy(rows, rows + tokens * n, buffers.x.begin());
      PrepareRope(rope, {&span, 1}, context);
      RunLayer(weights, layer, {&span, 1}, caches, tokens, context);
      std::copy(buffers.x.begin(), buffers.x.begin() + tokens * n, rows);
      rows += tokens * n;
      RETURN_IF_ERROR(progress(++done / steps));
    }
  }
  if (hidden == nullptr) return absl::OkStatus();
  std::vector<float> norm(static_cast<size_t>(n));
  RETURN_IF_ERROR(checkpoint.ReadRows("model.norm.weight", 0, 1, norm));
  hidden->resize(x.size());
  for (size_t row = 0; row < total; ++row) {
    const size_t at = row * static_cast<size_t>(n);
    kernels.rms_norm(x.data() + at, norm.data(), static_cast<float>(config.rms_eps), n, hidden->data() + at);
  }
  return absl::OkStatus();
}

}  // namespace qamserve
