#include "core/quantize/allocate.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <queue>

#include "core/quantize/internal.h"

namespace qamserve {
namespace {

// Further from the rate at which losses were found the model of them is not worth much.
constexpr double kReach = 1.5;

// From one rate to a higher one.
struct Step {
  double gain = 0;  // of loss for each bit
  size_t item = 0;
  size_t to = 0;  // index into choices
  double bits = 0;
  bool operator<(const Step& other) const { return gain != other.gain ? gain < other.gain : item > other.item; }
};

// The step from choices[from] on that gains most for each bit: the next corner of the lower convex hull.
Step BestStep(const AllocationItem& item, size_t index, size_t from, std::span<const double> choices,
              std::span<const double> relative) {
  Step best{.gain = -1, .item = index, .to = from, .bits = 0};
  for (size_t to = from + 1; to < choices.size(); ++to) {
    const double bits = static_cast<double>(item.weights) * (choices[to] - choices[from]);
    const double gain = item.loss * (relative[from] - relative[to]) / bits;
    if (gain > best.gain) best = {.gain = gain, .item = index, .to = to, .bits = bits};
  }
  return best;
}

absl::Status TooSmall(const SizeLimit& limit, const QuantizePlan& least) {
  std::vector<std::string> allowed;
  if (limit.bpw > 0) allowed.push_back(fmt::format("{:.3f} bpw", limit.bpw));
  if (limit.bytes > 0) allowed.push_back(fmt::format("{} bytes", limit.bytes));
  return InvalidArgument("TARGET_TOO_SMALL",
                         "the target allows {}; the lowest rate of this codec takes {:.3f} bpw and {} bytes",
                         fmt::join(allowed, " and "), least.bpw, least.artifact_bytes);
}

}  // namespace

absl::StatusOr<std::vector<double>> AllocateRates(std::span<const AllocationItem> items,
                                                  std::span<const double> choices, std::span<const double> distortion,
                                                  double budget_bits) {
  if (choices.empty() || choices.size() != distortion.size()) {
    return Internal("ALLOCATION", "{} rates and {} distortions", choices.size(), distortion.size());
  }
  double bits = 0;
  std::vector<size_t> chosen(items.size(), 0);
  // Of each item: distortion at every choice over that at the rate where its loss was found.
  std::vector<std::vector<double>> relative(items.size(), {distortion.begin(), distortion.end()});
  std::priority_queue<Step> steps;
  for (size_t i = 0; i < items.size(); ++i) {
    bits += static_cast<double>(items[i].weights) * choices.front();
    const auto known = std::find(choices.begin(), choices.end(), items[i].bpw);
    if (known == choices.end()) return Internal("ALLOCATION", "{} bpw is none of the rates", items[i].bpw);
    for (double& value : relative[i]) value /= distortion[static_cast<size_t>(known - choices.begin())];
    steps.push(BestStep(items[i], i, 0, choices, relative[i]));
  }
  if (bits > budget_bits) {
    return InvalidArgument("TARGET_TOO_SMALL", "the target allows {:.0f} bits; the lowest rates take {:.0f}",
                           budget_bits, bits);
  }
  while (!steps.empty()) {
    const Step step = steps.top();
    steps.pop();
    if (step.gain < 0) continue;
    const AllocationItem& item = items[step.item];
    if (bits + step.bits <= budget_bits) {
      bits += step.bits;
      chosen[step.item] = step.to;
      steps.push(BestStep(item, step.item, step.to, choices, relative[step.item]));
    } else if (step.to > chosen[step.item] + 1) {
      // The corner is out of reach; what lies before it may not be.
      const size_t to = step.to - 1;
      const double part = static_cast<double>(item.weights) * (choices[to] - choices[chosen[step.item]]);
      const double saved = item.loss * (relative[step.item][chosen[step.item]] - relative[step.item][to]);
      steps.push({.gain = saved / part, .item = step.item, .to = to, .bits = part});
    }
  }
  std::vector<double> rates;
  rates.reserve(items.size());
  for (size_t choice : chosen) rates.push_back(choices[choice]);
  return rates;
}

absl::StatusOr<QuantizeSpec> LargestUniform(const Checkpoint& checkpoint, QuantizeSpec spec, const SizeLimit& limit) {
  const std::vector<double> rates = RatesOf(spec.codec);
  QuantizePlan plan;
  for (auto rate = rates.rbegin(); rate != rates.rend(); ++rate) {
    spec.bpw = *rate;
    ASSIGN_OR_RETURN(plan, PlanQuantization(checkpoint, spec, 1));
    if (limit.Allows(plan)) return spec;
  }
  return TooSmall(limit, plan);
}

absl::StatusOr<QuantizeSpec> BestMix(const Checkpoint& checkpoint, QuantizeSpec spec, const SizeLimit& limit,
                                     std::span<const double> losses) {
  spec.rates.clear();
  ASSIGN_OR_RETURN(const QuantizePlan uniform, PlanQuantization(checkpoint, spec, 1));
  if (losses.size() != uniform.tensors.size()) {
    return Internal("ALLOCATION", "{} losses for {} tensors", losses.size(), uniform.tensors.size());
  }
  std::vector<AllocationItem> items;
  items.reserve(losses.size());
  for (size_t i = 0; i < losses.size(); ++i) {
    const QuantizePlan::Tensor& tensor = uniform.tensors[i];
    // A tensor that a probe found to help has no claim to bits, nor may it owe any.
    items.push_back({.weights = tensor.rows * tensor.cols, .bpw = spec.bpw, .loss = std::max(losses[i], 0.0)});
  }
  std::vector<double> choices, distortion;
  for (double rate : RatesOf(spec.codec)) {
    if (std::abs(rate - spec.bpw) > kReach) continue;
    ASSIGN_OR_RETURN(const TensorFormat format, FormatFor(spec.codec, rate));
    choices.push_back(rate);
    distortion.push_back(FormatGaussianMse(format));
  }
  // Side information, kept tensors and headers take what the plan says; the rest may go into codes. Headers change a
  // little with the mix, so a budget that turns out too large is cut by what it was over.
  const auto weights = static_cast<double>(uniform.weights);
  double budget = weights * choices.back();
  if (limit.bpw > 0) budget = std::min(budget, weights * (spec.bpw + limit.bpw - uniform.bpw));
  if (limit.bytes > 0) {
    budget = std::min(budget, weights * spec.bpw + 8.0 * static_cast<double>(limit.bytes - uniform.artifact_bytes));
  }
  for (;;) {
    ASSIGN_OR_RETURN(const std::vector<double> rates, AllocateRates(items, choices, distortion, budget));
    spec.rates.clear();
    for (size_t i = 0; i < rates.size(); ++i) {
      if (rates[i] != spec.bpw) spec.rates.push_back({.filter = uniform.tensors[i].name, .bpw = rates[i]});
    }
    ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantization(checkpoint, spec, 1));
    if (limit.Allows(plan)) return spec;
    const double over_bpw = limit.bpw > 0 ? (plan.bpw - limit.bpw) * weights : 0;
    const double over_bytes = limit.bytes > 0 ? 8.0 * static_cast<double>(plan.artifact_bytes - limit.bytes) : 0;
    budget -= std::max({over_bpw, over_bytes, 1.0});
  }
}

}  // namespace qamserve
