// Which tensor gets how many bits. A tensor's share of the model's KL is taken to follow its mean squared error, and
// shares to add up; both hold for small errors, so whoever allocates measures the result before trusting it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/quantize/quantize.h"

namespace qamserve {

struct AllocationItem {
  int64_t weights = 0;
  double bpw = 0;  // the rate at which `loss` was found
  double loss = 0;
};

// One rate for each item out of `choices` (ascending), so that the losses add up to the least that weights x rate
// allows within `budget_bits`. `distortion[i]` is the codec's mean squared error at choices[i]; every item's bpw is one
// of the choices. Greedy on the lower convex hulls, then what still fits: within one step of one tensor of the optimum.
// Deterministic. INVALID_ARGUMENT (TARGET_TOO_SMALL) if even the lowest rates are above the budget.
absl::StatusOr<std::vector<double>> AllocateRates(std::span<const AllocationItem> items,
                                                  std::span<const double> choices, std::span<const double> distortion,
                                                  double budget_bits);

// The largest artifact that may be made: either or both, 0 = no limit.
struct SizeLimit {
  double bpw = 0;     // of QuantizePlan::bpw, with norms and scales
  int64_t bytes = 0;  // of QuantizePlan::artifact_bytes
  bool Allows(const QuantizePlan& plan) const {
    return (bpw == 0 || plan.bpw <= bpw) && (bytes == 0 || plan.artifact_bytes <= bytes);
  }
};

// `spec` with the highest rate for all tensors that the limit allows. INVALID_ARGUMENT (TARGET_TOO_SMALL) names what
// the lowest rate takes.
absl::StatusOr<QuantizeSpec> LargestUniform(const Checkpoint& checkpoint, QuantizeSpec spec, const SizeLimit& limit);
// `spec` with rules that give each tensor its own rate, at most 1.5 bits away from spec.bpw, the limit kept. `losses`
// are of the tensors of the plan, in plan order, each quantized at spec.bpw.
absl::StatusOr<QuantizeSpec> BestMix(const Checkpoint& checkpoint, QuantizeSpec spec, const SizeLimit& limit,
                                     std::span<const double> losses);

}  // namespace qamserve
