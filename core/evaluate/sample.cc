#include <algorithm>
#include <cmath>

#include "core/base/rng.h"
#include "core/evaluate/evaluate.h"

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

}  // namespace

absl::StatusOr<std::vector<std::vector<int32_t>>> SampleWindows(const Model& model, std::span<const int32_t> beginning,
                                                                int32_t windows, int32_t window_tokens, uint64_t seed,
                                                                ThreadPool& pool, ProgressFn progress) {
  const auto given = static_cast<int32_t>(beginning.size());
  if (given == 0 || given >= window_tokens) {
    return InvalidArgument("WINDOW_TOKENS_RANGE",
                           "a window has {} tokens; samples begin with {} given ones and need at least one more",
                           window_tokens, given);
  }
  const auto count = static_cast<size_t>(windows);
  std::vector<std::vector<int32_t>> out(count, {beginning.begin(), beginning.end()});
  std::vector<Rng> rngs;
  std::vector<KvCache> caches;
  for (size_t i = 0; i < count; ++i) {
    rngs.emplace_back(seed + i);  // a window's text does not depend on how many there are
    caches.emplace_back(model.config(), window_tokens);
  }
  Workspace workspace;
  std::vector<float> logits;
  for (int32_t t = given; t < window_tokens; ++t) {
    std::vector<SequenceChunk> chunks;
    const size_t fresh = t == given ? beginning.size() : 1;
    for (size_t i = 0; i < count; ++i) chunks.push_back({std::span(out[i]).last(fresh), &caches[i]});
    RETURN_IF_ERROR(model.Forward(chunks, workspace, pool, logits));
    const int64_t vocab = model.config().vocab_size;
    for (size_t i = 0; i < count; ++i) {
      out[i].push_back(Sample(logits.data() + static_cast<int64_t>(i) * vocab, vocab, rngs[i]));
    }
    RETURN_IF_ERROR(progress(static_cast<double>(t) / window_tokens));
  }
  return out;
}

}  // namespace qamserve
