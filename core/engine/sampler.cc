#include "core/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

absl::Status BadParam(std::string_view field, double value, std::string_view limits) {
  return InvalidArgument("SAMPLING_PARAM", "{} is {}; allowed are {}", field, value, limits);
}

// True if a comes before b: larger logit, then lower id.
template <typename Candidate>
bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

int32_t Argmax(std::span<const float> logits) {
  // max_element keeps the first of equals.
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
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
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

std::vector<TokenLogprob> BestTokens(std::span<const float> logits, double log_sum, int32_t n) {
  struct Candidate {
    float logit;
    int32_t token;
  };
  std::vector<Candidate> best;
  const auto wanted = std::min(static_cast<size_t>(n), logits.size());
  best.reserve(wanted);
  for (size_t i = 0; wanted > 0 && i < logits.size(); ++i) {
    const Candidate candidate{logits[i], static_cast<int32_t>(i)};
    if (best.size() == wanted && !Better(candidate, best.back())) continue;
    if (best.size() == wanted) best.pop_back();
    best.insert(std::upper_bound(best.begin(), best.end(), candidate, Better<Candidate>), candidate);
  }
  std::vector<TokenLogprob> out;
  out.reserve(best.size());
  for (const Candidate& c : best) out.push_back({c.token, static_cast<float>(c.logit - log_sum)});
  return out;
}

Sampler::Sampler(const SamplingParams& params, std::span<const int32_t> prompt, int64_t vocab_size)
    : params_(params), rng_(params.seed) {
  if (params_.repetition_penalty == 1) return;
  is_seen_.assign(static_cast<size_t>(vocab_size), false);
  for (const int32_t token : prompt) MarkSeen(token);
}

SampledToken Sampler::Sample(std::span<float> logits, std::span<const float> own) {
  SampledToken out;
  Adjust(logits);
  out.token = params_.temperature == 0 ? Argmax(logits) : Draw(logits);
  if (params_.logprobs >= 0) {
    Restore(logits);
    ReportLogprobs(own.empty() ? logits : own, out);
  }
  MarkSeen(out.token);
  if (params_.presence_penalty != 0 || params_.frequency_penalty != 0) ++said_[out.token];
  return out;
}

void Sampler::ReportLogprobs(std::span<const float> logits, SampledToken& out) const {
  const double log_sum = LogSumExp(logits);
  out.logprob = static_cast<float>(logits[static_cast<size_t>(out.token)] - log_sum);
  out.top = BestTokens(logits, log_sum, params_.logprobs);
}

void Sampler::MarkSeen(int32_t token) {
  const auto index = static_cast<size_t>(token);
  if (index >= is_seen_.size() || is_seen_[index]) return;
  is_seen_[index] = true;
  seen_.push_back(token);
}

void Sampler::SetLogit(std::span<float> logits, int32_t token, float value) {
  float& logit = logits[static_cast<size_t>(token)];
  if (params_.logprobs >= 0) before_.emplace_back(token, logit);
  logit = value;
}

void Sampler::Adjust(std::span<float> logits) {
  const auto at = [&](int32_t token) { return logits[static_cast<size_t>(token)]; };
  const auto penalty = static_cast<float>(params_.repetition_penalty);
  for (const int32_t token : seen_) {
    const float logit = at(token);
    SetLogit(logits, token, logit > 0 ? logit / penalty : logit * penalty);
  }
  for (const auto& [token, bias] : params_.logit_bias) SetLogit(logits, token, at(token) + static_cast<float>(bias));
  for (const auto& [token, times] : said_) {
    const double less = params_.presence_penalty + params_.frequency_penalty * times;
    SetLogit(logits, token, at(token) - static_cast<float>(less));
  }
}

void Sampler::Restore(std::span<float> logits) {
  // Backwards: of several changes to one logit the first knows what it was.
  for (auto change = before_.rbegin(); change != before_.rend(); ++change) {
    logits[static_cast<size_t>(change->first)] = change->second;
  }
  before_.clear();
}

// Fills candidates_ with what top-k and top-p leave, and weights_ with their probabilities relative to the best.
// Sorted best first if anything is cut, else in order of ids.
void Sampler::CutCandidates() {
  const float largest = std::max_element(candidates_.begin(), candidates_.end(), [](const auto& a, const auto& b) {
                          return a.logit < b.logit;
                        })->logit;
  const auto weight = [&](const Candidate& c) { return std::exp((double{c.logit} - largest) / params_.temperature); };
  const size_t n = candidates_.size();
  const size_t kept = params_.top_k > 0 ? std::min(n, static_cast<size_t>(params_.top_k)) : n;
  if (kept < n) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(kept), candidates_.end(),
                      Better<Candidate>);
    candidates_.resize(kept);
  }
  weights_.clear();
  double total = 0;
  for (const Candidate& c : candidates_) {
    weights_.push_back(weight(c));
    total += weights_.back();
  }
  if (params_.top_p >= 1) return;
  // A heap gives the best first without sorting the long tail that the cut throws away.
  const auto worse = [](const Candidate& a, const Candidate& b) { return Better(b, a); };
  std::make_heap(candidates_.begin(), candidates_.end(), worse);
  weights_.clear();
  double sum = 0;
  auto heap_end = candidates_.end();
  while (heap_end != candidates_.begin() && sum < params_.top_p * total) {
    std::pop_heap(candidates_.begin(), heap_end, worse);
    --heap_end;
    weights_.push_back(weight(*heap_end));
    sum += weights_.back();
  }
  std::reverse(candidates_.begin(), candidates_.end());
  candidates_.resize(weights_.size());
}

int32_t Sampler::Draw(std::span<const float> logits) {
  candidates_.clear();
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] != kNever) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  CutCandidates();
  // Weights are relative to the best token, which no cut removes.
  double total = 0;
  for (double& weight : weights_) {
    if (weight < params_.min_p) weight = 0;
    total += weight;
  }
  double left = rng_.NextUniform() * total;
  size_t chosen = 0;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    chosen = i;  // the last possible one if rounding leaves a remainder
    left -= weights_[i];
    if (left < 0) break;
  }
  return candidates_[chosen].token;
}

}  // namespace qamserve
