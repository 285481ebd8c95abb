#include "core/evaluate/search.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace qamserve {
namespace {

// KL falls to a quarter with each bit: the error of a weight does.
constexpr double kLogPerBit = -1.3862943611198906;
// Roughly what a model loses at 4 bits a weight, to begin a search somewhere.
constexpr double kBoundAtFourBits = 0.1;
// What mixing rates was measured to leave of the KL of one rate (docs/benchmarks.md), to place the first mix.
constexpr double kMixGain = 0.8;
// Two sizes that are nearer than this are one to a search.
constexpr double kCloseBpw = 0.03;
constexpr int kMaxMixes = 4;

double Log(double value) { return std::log(std::max(value, 1e-12)); }

double Limit(const RateTarget& target) { return target.kl > 0 ? target.kl : target.perplexity_increase; }

bool Passes(const RateTarget& target, const Candidate& c) { return UpperBound(target, c.quality) <= Limit(target); }

// The smallest candidate that passes; of two of one size the better one.
std::optional<size_t> SmallestPass(const RateTarget& target, std::span<const Candidate> measured) {
  std::optional<size_t> best;
  for (size_t i = 0; i < measured.size(); ++i) {
    if (!Passes(target, measured[i])) continue;
    if (!best || measured[i].artifact_bytes < measured[*best].artifact_bytes) best = i;
  }
  return best;
}

std::optional<size_t> LargestFail(const RateTarget& target, std::span<const Candidate> measured, bool mixed) {
  std::optional<size_t> best;
  for (size_t i = 0; i < measured.size(); ++i) {
    if (Passes(target, measured[i]) || measured[i].mixed() != mixed) continue;
    if (!best || measured[i].bpw > measured[*best].bpw) best = i;
  }
  return best;
}

size_t ClosestTo(const RateTarget& target, std::span<const Candidate> measured) {
  size_t best = 0;
  for (size_t i = 1; i < measured.size(); ++i) {
    if (UpperBound(target, measured[i].quality) < UpperBound(target, measured[best].quality)) best = i;
  }
  return best;
}

// The lowest rate that the law lets pass, seen from a candidate.
double PredictedRate(const RateTarget& target, const Candidate& from) {
  return from.spec.bpw + (Log(Limit(target)) - Log(UpperBound(target, from.quality))) / kLogPerBit;
}

SearchStep Uniform(double bpw, std::string why) {
  SearchStep step;
  step.kind = SearchStep::Kind::kUniform;
  step.bpw = bpw;
  step.why = std::move(why);
  return step;
}

SearchStep Accept(size_t candidate, std::string why) {
  SearchStep step;
  step.kind = SearchStep::Kind::kAccept;
  step.from = candidate;
  step.why = std::move(why);
  return step;
}

SearchStep Mix(size_t from, SizeLimit limit, std::string why) {
  SearchStep step;
  step.kind = SearchStep::Kind::kMix;
  step.from = from;
  step.limit = limit;
  step.why = std::move(why);
  return step;
}

bool Measured(std::span<const Candidate> measured, double rate) {
  return std::any_of(measured.begin(), measured.end(),
                     [&](const Candidate& c) { return !c.mixed() && c.spec.bpw == rate; });
}

SearchStep NextForSize(const RateTarget& target, std::span<const Candidate> measured) {
  if (measured.size() == 1 && target.mixed) {
    return Mix(0, target.size, "one rate for all tensors is measured; next, rates by what each tensor is worth");
  }
  size_t best = 0;
  for (size_t i = 1; i < measured.size(); ++i) {
    if (measured[i].quality.kl_mean < measured[best].quality.kl_mean) best = i;
  }
  if (measured.size() == 1) return Accept(0, "the highest rate that the size allows");
  return Accept(best, best == 0 ? "one rate for all tensors measured better than the mix"
                                : "the mix measured better than one rate for all tensors");
}

// The next rate of all tensors that is worth measuring, if the neighbours of the target are not known yet.
std::optional<SearchStep> NextUniform(const RateTarget& target, std::span<const double> rates,
                                      std::span<const Candidate> measured) {
  // Bounds on the answer from what was measured.
  double fails = 0, passes = rates.back() + 1;
  const Candidate* nearest = nullptr;
  for (const Candidate& c : measured) {
    if (c.mixed()) continue;
    if (Passes(target, c)) passes = std::min(passes, c.spec.bpw);
    if (!Passes(target, c)) fails = std::max(fails, c.spec.bpw);
    const double distance = std::abs(Log(UpperBound(target, c.quality)) - Log(Limit(target)));
    if (nearest == nullptr || distance < std::abs(Log(UpperBound(target, nearest->quality)) - Log(Limit(target)))) {
      nearest = &c;
    }
  }
  std::vector<double> open;
  for (double rate : rates) {
    if (rate > fails && rate < passes && !Measured(measured, rate)) open.push_back(rate);
  }
  if (open.empty()) return std::nullopt;
  // The lowest open rate that should pass; where none should, the highest, to be sure.
  const double predicted = PredictedRate(target, *nearest);
  double next = open.back();
  for (double rate : open) {
    if (rate >= predicted) {
      next = rate;
      break;
    }
  }
  return Uniform(next, fmt::format("{} bpw: the bound at {} bpw was {:.5f}, the target is {:.5f}", next,
                                   nearest->spec.bpw, UpperBound(target, nearest->quality), Limit(target)));
}

// Where a mix should just pass: seen from the mix that came closest or, before there is one, from the rate below.
double PredictedMix(const RateTarget& target, std::span<const Candidate> measured, const Candidate& below) {
  auto distance = [&](const Candidate& c) { return std::abs(Log(UpperBound(target, c.quality)) - Log(Limit(target))); };
  const Candidate* from = nullptr;
  for (const Candidate& c : measured) {
    if (c.mixed() && (from == nullptr || distance(c) < distance(*from))) from = &c;
  }
  const double gain = from == nullptr ? std::log(kMixGain) : 0;
  if (from == nullptr) from = &below;
  return from->bpw + (Log(Limit(target)) - Log(UpperBound(target, from->quality)) - gain) / kLogPerBit;
}

// A mix below the smallest success, while one is likely to pass. `below` is the highest single rate that failed.
SearchStep NextMix(const RateTarget& target, std::span<const Candidate> measured, size_t pass, size_t below) {
  const Candidate& high = measured[pass];
  const auto mixes = std::count_if(measured.begin(), measured.end(), [](const Candidate& c) { return c.mixed(); });
  const std::optional<size_t> failed = LargestFail(target, measured, /*mixed=*/true);
  // Mixes reach no further down than allocation does.
  const double low = failed ? measured[*failed].bpw : measured[below].bpw - 1;
  const double predicted = PredictedMix(target, measured, measured[below]);
  if (mixes == kMaxMixes || high.bpw - low <= kCloseBpw || high.bpw - predicted <= kCloseBpw) {
    return Accept(pass, fmt::format("{:.3f} bpw pass; a mix would have to be about as large", high.bpw));
  }
  // Of what is known neither end is worth another look.
  const double margin = std::min(kCloseBpw, (high.bpw - low) / 4);
  const double bpw = std::clamp(predicted, low + margin, high.bpw - margin);
  return Mix(below, SizeLimit{.bpw = bpw, .bytes = 0},
             fmt::format("{:.3f} bpw pass; a mix of {:.3f} may", high.bpw, bpw));
}

}  // namespace

absl::Status ValidateRateTarget(const RateTarget& target) {
  const double values[] = {target.size.bpw, target.kl, target.perplexity_increase};
  for (double value : values) {
    if (!std::isfinite(value) || value < 0) {
      return InvalidArgument("TARGET_RANGE", "target is {}; bpw, kl and perplexity_increase are 0 (none) or more",
                             value);
    }
  }
  if (target.size.bytes < 0) {
    return InvalidArgument("TARGET_RANGE", "target.bytes is {}; it may be 0 (none) or more", target.size.bytes);
  }
  if (target.by_size() && target.by_quality()) {
    return InvalidArgument("TARGET_CONFLICT",
                           "a target is a size (bpw, bytes) or a quality (kl, "
                           "perplexity_increase), not both");
  }
  if (target.kl > 0 && target.perplexity_increase > 0) {
    return InvalidArgument("TARGET_CONFLICT", "a quality is kl or perplexity_increase, not both");
  }
  if (target.mixed && !target.any()) {
    return InvalidArgument("TARGET_CONFLICT",
                           "mixed rates need a target: target.bpw, bytes, kl or perplexity_increase");
  }
  return absl::OkStatus();
}

double UpperBound(const RateTarget& target, const QualityReport& quality) {
  if (target.kl > 0 || target.perplexity_increase == 0) return quality.kl_ci95_high;
  // The report has the error of the increase; the KL's interval has the quantile for as many windows.
  const double quantile = quality.kl_stderr > 0 ? (quality.kl_ci95_high - quality.kl_mean) / quality.kl_stderr : 0;
  return quality.perplexity_change + quantile * quality.perplexity_change_stderr;
}

double FirstRate(const RateTarget& target, std::span<const double> rates) {
  const double bpw = 4 + (Log(Limit(target)) - std::log(kBoundAtFourBits)) / kLogPerBit;
  const auto it = std::lower_bound(rates.begin(), rates.end(), bpw);
  return it == rates.end() ? rates.back() : *it;
}

SearchStep NextStep(const RateTarget& target, std::span<const double> rates, std::span<const Candidate> measured) {
  if (!target.by_quality()) return NextForSize(target, measured);
  if (auto step = NextUniform(target, rates, measured)) return *std::move(step);
  const std::optional<size_t> pass = SmallestPass(target, measured);
  if (!pass) {
    SearchStep step = Accept(ClosestTo(target, measured), "no rate of this codec reaches the target");
    step.kind = SearchStep::Kind::kInfeasible;
    return step;
  }
  const std::optional<size_t> fail = LargestFail(target, measured, /*mixed=*/false);
  if (!target.mixed || !fail) return Accept(*pass, "the lowest rate that passes");
  return NextMix(target, measured, *pass, *fail);
}

}  // namespace qamserve
