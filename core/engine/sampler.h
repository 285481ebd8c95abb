// Chooses the next token of one sequence. The order is that of transformers' generate(): repetition penalty, (logit
// bias, presence and frequency penalty, which it has not), temperature, top-k, top-p, min-p, draw. Temperature 0 takes
// the most likely token after penalties and bias and draws nothing. Among equal logits the lower id comes first,
// everywhere. The draws depend on the seed and on how many tokens were drawn before, on nothing else.
//
// It only says how to choose (core/kernels/sampling_row.h); the choice is made where the logits are. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/base/rng.h"
#include "core/engine/engine.h"
#include "core/kernels/sampling.h"

namespace qamserve {

struct SampledToken {
  int32_t token = 0;
  // Of the model's own distribution: before penalties, bias, temperature and cuts. Filled only if asked for.
  float logprob = 0;
  std::vector<TokenLogprob> top;  // best first
};

class Sampler {
 public:
  // `params` has passed ValidateSamplingParams; tokens of its bias are below vocab_size. `prompt` counts as seen for
  // the repetition penalty.
  Sampler(const SamplingParams& params, std::span<const int32_t> prompt, int64_t vocab_size);

  // Fills all of `row` but the number of its logits and what constrains them. Its adjustments are this sampler's own
  // and are good until Take.
  void Plan(SampleRow& row);
  // What was chosen as planned (SampleOutcome::kChosen). The token counts as seen.
  SampledToken Take(const SampleResult& result);

 private:
  LogitAdjustment& AdjustmentOf(int32_t token);
  void MarkSeen(int32_t token);

  SamplingParams params_;
  Rng rng_;
  const int64_t vocab_size_;
  std::vector<LogitAdjustment> adjustments_;   // by token
  std::unordered_map<int32_t, int32_t> said_;  // how often the answer has a token; empty without its penalties
};

// log p of each of `tokens`' entries is one number: logits[token] less this.
double LogSumExp(std::span<const float> logits);
// The `n` best (fewer if there are not so many), best first; `log_sum` is LogSumExp(logits).
std::vector<TokenLogprob> BestTokens(std::span<const float> logits, double log_sum, int32_t n);

}  // namespace qamserve
