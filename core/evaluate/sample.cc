#include <algorithm>
#include <cmath>

#include "core/base/rng.h"
#include "core/evaluate/evaluate.h"
#include "core/model/streamed_model.h"

namespace qamserve {
namespace {

// One token from softmax(logits), by inverting the cumulative sum at a uniform number.
int32_t Sample(const float* logits, int64_t n, Rng& rng) {
  const float max = *std::max_element(logits, logits + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i] - max));
  double left = rng.NextUniform() * sum;
  for (int64_t i = 0; i < n; ++i) {
    left -= std::exp(static_cast<double>(logits[i] - max));
    if (left < 0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(n - 1);
}

// Windows that run together if their keys and values may have `kv_bytes`.
int32_t WindowsAtOnce(const ModelConfig& config, int32_t windows, int32_t window_tokens, int64_t kv_bytes) {
  const int64_t fitting = kv_bytes / KvCache::BytesFor(config, window_tokens);
  return static_cast<int32_t>(std::clamp<int64_t>(fitting, 1, std::max(windows, 1)));
}

// Adds to each of `out`, which have the same beginning, what the model says until they have `window_tokens`.
absl::Status Continue(const ModelConfig& config, StreamedModel& model, int32_t window_tokens, uint64_t first_seed,
                      std::span<std::vector<int32_t>> out, ProgressFn progress) {
  std::vector<Rng> rngs;
  std::vector<KvCache> caches;
  for (size_t i = 0; i < out.size(); ++i) {
    rngs.emplace_back(first_seed + i);  // a window's text does not depend on how many there are
    caches.emplace_back(config, window_tokens);
  }
  const auto given = static_cast<int32_t>(out.front().size());
  std::vector<float> logits;
  for (int32_t t = given; t < window_tokens; ++t) {
    std::vector<SequenceChunk> chunks;
    const size_t fresh = t == given ? out.front().size() : 1;
    for (size_t i = 0; i < out.size(); ++i) chunks.push_back({std::span(out[i]).last(fresh), &caches[i]});
    const auto step = [&](double part) { return progress((t - given + part) / (window_tokens - given)); };
    RETURN_IF_ERROR(model.Forward(chunks, step, logits));
    for (size_t i = 0; i < out.size(); ++i) {
      const float* row = logits.data() + static_cast<int64_t>(i) * config.vocab_size;
      out[i].push_back(Sample(row, config.vocab_size, rngs[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::vector<int32_t>>> SampleWindows(const Checkpoint& checkpoint,
                                                                const SampleRequest& request, ThreadPool& pool,
                                                                ProgressFn progress) {
  const auto given = static_cast<int32_t>(request.beginning.size());
  if (given == 0 || given >= request.window_tokens) {
    return InvalidArgument("WINDOW_TOKENS_RANGE",
                           "a window has {} tokens; samples begin with {} given ones and need at least one more",
                           request.window_tokens, given);
  }
  constexpr double kOpened = 0.02;  // of the progress
  ASSIGN_OR_RETURN(const auto model, StreamedModel::Create(checkpoint, pool, request.scratch, [&](double fraction) {
                     return progress(kOpened * fraction);
                   }));
  const auto count = static_cast<size_t>(request.windows);
  std::vector<std::vector<int32_t>> out(count, {request.beginning.begin(), request.beginning.end()});
  const int64_t kv_bytes = request.kv_bytes > 0 ? request.kv_bytes : SampleKvBytes(checkpoint);
  const auto at_once =
      static_cast<size_t>(WindowsAtOnce(checkpoint.config(), request.windows, request.window_tokens, kv_bytes));
  for (size_t first = 0; first < count; first += at_once) {
    const std::span<std::vector<int32_t>> some = std::span(out).subspan(first, std::min(at_once, count - first));
    const auto part = [&](double fraction) {
      const double windows = static_cast<double>(first) + fraction * static_cast<double>(some.size());
      return progress(kOpened + (1 - kOpened) * windows / static_cast<double>(count));
    };
    RETURN_IF_ERROR(Continue(checkpoint.config(), *model, request.window_tokens, request.seed + first, some, part));
  }
  return out;
}

int64_t SampleKvBytes(const Checkpoint& checkpoint) {
  constexpr int64_t kLeast = int64_t{128} << 20;
  return std::max(kLeast, 2 * checkpoint.parameters() / 16);
}

int64_t SampleMemoryBytes(const Checkpoint& checkpoint, int32_t windows, int32_t window_tokens) {
  constexpr int64_t kBeginning = 64;  // tokens that a chat template puts in front, which all windows feed in one step
  const ModelConfig& config = checkpoint.config();
  const int64_t at_once = WindowsAtOnce(config, windows, window_tokens, SampleKvBytes(checkpoint));
  const int64_t floats_per_token =
      4 * config.hidden_size + 2 * config.q_size() + 2 * config.kv_size() + 2 * config.intermediate_size;
  const int64_t activations =
      at_once * 4 * (std::min<int64_t>(kBeginning, window_tokens) * floats_per_token + config.vocab_size);
  return StreamedModel::ResidentBytes(checkpoint) + at_once * KvCache::BytesFor(config, window_tokens) + activations;
}

int64_t SampleScratchBytes(const Checkpoint& checkpoint) { return StreamedModel::ScratchBytes(checkpoint); }

}  // namespace qamserve
