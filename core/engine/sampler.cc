#include "core/engine/sampler.h"

#include <algorithm>
#include <cmath>

namespace qamserve {
namespace {

constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr int32_t kMaxTopK = 1 << 22;
constexpr int32_t kMaxTokens = 1 << 24;
constexpr double kMaxTemperature = 100;
constexpr double kMaxPenalty = 2;
constexpr double kMaxBias = 100;
constexpr size_t kMaxBiases = 1024;
static_assert(kMaxTopLogprobs == kMaxBestLogits);

absl::Status BadParam(std::string_view field, double value, std::string_view limits) {
  return InvalidArgument("SAMPLING_PARAM", "{} is {}; allowed are {}", field, value, limits);
}

std::vector<TokenLogprob> Logprobs(std::span<const BestLogit> best, double log_sum) {
  std::vector<TokenLogprob> out;
  out.reserve(best.size());
  for (const BestLogit& b : best) out.push_back({b.token, static_cast<float>(b.logit - log_sum)});
  return out;
}

}  // namespace

absl::Status ValidateSamplingParams(const SamplingParams& p) {
  // Written so that NaN fails too.
  if (!(p.max_tokens >= 1 && p.max_tokens <= kMaxTokens)) return BadParam("max_tokens", p.max_tokens, "1 to 16777216");
  if (!(p.temperature >= 0 && p.temperature <= kMaxTemperature))
    return BadParam("temperature", p.temperature, "0 to 100");
  if (!(p.top_k >= 0 && p.top_k <= kMaxTopK)) return BadParam("top_k", p.top_k, "0 (off) to 4194304");
  if (!(p.top_p > 0 && p.top_p <= 1)) return BadParam("top_p", p.top_p, "above 0 to 1");
  if (!(p.min_p >= 0 && p.min_p < 1)) return BadParam("min_p", p.min_p, "0 to below 1");
  if (!(p.repetition_penalty > 0 && p.repetition_penalty <= 10)) {
    return BadParam("repetition_penalty", p.repetition_penalty, "above 0 to 10");
  }
  if (!(std::abs(p.presence_penalty) <= kMaxPenalty))
    return BadParam("presence_penalty", p.presence_penalty, "-2 to 2");
  if (!(std::abs(p.frequency_penalty) <= kMaxPenalty))
    return BadParam("frequency_penalty", p.frequency_penalty, "-2 to 2");
  if (p.logit_bias.size() > kMaxBiases)
    return BadParam("number of tokens of logit_bias", static_cast<double>(p.logit_bias.size()), "0 to 1024");
  for (const auto& [token, bias] : p.logit_bias) {
    if (std::abs(bias) <= kMaxBias) continue;
    return BadParam(fmt::format("logit_bias of token {}", token), bias, "-100 to 100");
  }
  if (!(p.logprobs >= -1 && p.logprobs <= kMaxTopLogprobs)) return BadParam("logprobs", p.logprobs, "-1 (none) to 20");
  if (p.stop.size() > kMaxStops)
    return BadParam("number of stop strings", static_cast<double>(p.stop.size()), "0 to 16");
  for (const std::string& stop : p.stop) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return BadParam("length of a stop string", static_cast<double>(stop.size()), "1 to 1024 bytes");
    }
  }
  return absl::OkStatus();
}

double LogSumExp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  const uint64_t total = BestKernels().sample_weights(logits.data(), static_cast<int64_t>(logits.size()), largest,
                                                      SampleInverse(1), nullptr);
  return LogSumOf(largest, total);
}

std::vector<TokenLogprob> BestTokens(std::span<const float> logits, double log_sum, int32_t n) {
  BestLogit best[kMaxBestLogits];
  const int32_t count = FindBestLogits(logits, std::min(n, kMaxBestLogits), best);
  return Logprobs({best, static_cast<size_t>(count)}, log_sum);
}

Sampler::Sampler(const SamplingParams& params, std::span<const int32_t> prompt, int64_t vocab_size)
    : params_(params), rng_(params.seed), vocab_size_(vocab_size) {
  for (const auto& [token, bias] : params_.logit_bias) AdjustmentOf(token).bias = static_cast<float>(bias);
  if (params_.repetition_penalty == 1) return;
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  adjustments_.reserve(adjustments_.size() + tokens.size());
  for (const int32_t token : tokens) MarkSeen(token);
}

void Sampler::Plan(SampleRow& row) {
  row.temperature = params_.temperature;
  row.top_k = params_.top_k;
  row.top_p = params_.top_p;
  row.min_p = params_.min_p;
  row.logprobs = params_.logprobs;
  if (params_.temperature > 0) row.draw = rng_.NextU64();
  row.adjustments = adjustments_.data();
  row.adjustment_count = static_cast<int64_t>(adjustments_.size());
}

SampledToken Sampler::Take(const SampleResult& result) {
  SampledToken out;
  out.token = result.token;
  if (params_.logprobs >= 0) {
    const double log_sum = LogSumOf(result.own_largest, result.own_total);
    out.logprob = static_cast<float>(result.own - log_sum);
    out.top = Logprobs({result.best, static_cast<size_t>(result.best_count)}, log_sum);
  }
  if (params_.repetition_penalty != 1) MarkSeen(out.token);
  if (params_.presence_penalty != 0 || params_.frequency_penalty != 0) {
    const int32_t times = ++said_[out.token];
    AdjustmentOf(out.token).less = static_cast<float>(params_.presence_penalty + params_.frequency_penalty * times);
  }
  return out;
}

LogitAdjustment& Sampler::AdjustmentOf(int32_t token) {
  const auto place = std::lower_bound(adjustments_.begin(), adjustments_.end(), token,
                                      [](const LogitAdjustment& a, int32_t wanted) { return a.token < wanted; });
  if (place != adjustments_.end() && place->token == token) return *place;
  return *adjustments_.insert(place, {.token = token});
}

void Sampler::MarkSeen(int32_t token) {
  if (token < vocab_size_) AdjustmentOf(token).penalty = static_cast<float>(params_.repetition_penalty);
}

}  // namespace qamserve
