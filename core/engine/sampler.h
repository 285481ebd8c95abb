// Chooses the next token of one sequence. The order is that of transformers' generate(): repetition penalty, (logit
// bias, presence and frequency penalty, which it has not), temperature, top-k, top-p, min-p, draw. Temperature 0 takes
// the most likely token after penalties and bias and draws nothing. Among equal logits the lower id comes first,
// everywhere. The draws depend on the seed and on how many tokens were drawn before, on nothing else. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/rng.h"
#include "core/engine/engine.h"

namespace qamserve {

struct SampledToken {
  int32_t token = 0;
  // Of the model's own distribution: before penalties, bias, temperature and cuts. Filled only if asked for.
  float logprob = 0;
  std::vector<TokenLogprob> top;  // best first
};

class Sampler {
 public:
  // `params` has passed ValidateSamplingParams. `prompt` counts as seen for the repetition penalty.
  Sampler(const SamplingParams& params, std::span<const int32_t> prompt, int64_t vocab_size);

  // `logits` holds vocab_size values and is used as scratch. The chosen token counts as seen. A logit of minus infinity
  // is never chosen while there is another; where the caller has put such, `own` are the model's logits, for the
  // report.
  SampledToken Sample(std::span<float> logits, std::span<const float> own = {});

 private:
  struct Candidate {
    float logit;
    int32_t token;
  };
  void ReportLogprobs(std::span<const float> logits, SampledToken& out) const;
  // Penalties and bias, in place; Restore takes them back. Both cost what is penalized or biased, not a vocabulary.
  void Adjust(std::span<float> logits);
  void Restore(std::span<float> logits);
  void SetLogit(std::span<float> logits, int32_t token, float value);
  int32_t Draw(std::span<const float> logits);
  void CutCandidates();
  void MarkSeen(int32_t token);

  SamplingParams params_;
  Rng rng_;
  std::vector<bool> is_seen_;                      // by token; empty without a penalty
  std::vector<int32_t> seen_;                      // each token once
  std::unordered_map<int32_t, int32_t> said_;      // how often the answer has a token; empty without its penalties
  std::vector<std::pair<int32_t, float>> before_;  // logits that Adjust changed, if Restore is wanted
  std::vector<Candidate> candidates_;              // scratch of Draw
  std::vector<double> weights_;                    // scratch of Draw: probabilities of candidates_, not normalized
};

// log p of each of `tokens`' entries is one number: logits[token] less this.
double LogSumExp(std::span<const float> logits);
// The `n` best (fewer if there are not so many), best first; `log_sum` is LogSumExp(logits).
std::vector<TokenLogprob> BestTokens(std::span<const float> logits, double log_sum, int32_t n);

}  // namespace qamserve
