// The search for the smallest artifact of a quality, or the best of a size, as decisions between measurements. Pure:
// the next step follows from the target and from what was measured, so a search can stop and go on anywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/evaluate/evaluate.h"
#include "core/quantize/allocate.h"

namespace qamserve {

// What a quantize job aims at instead of one rate. Size or quality, not both.
struct RateTarget {
  SizeLimit size;
  // The smallest artifact whose 95 % upper bound is at most this.
  double kl = 0;                   // of the mean KL, nats a token
  double perplexity_increase = 0;  // of quantized / base perplexity - 1
  bool mixed = false;              // tensors may have different rates

  bool by_size() const { return size.bpw > 0 || size.bytes > 0; }
  bool by_quality() const { return kl > 0 || perplexity_increase > 0; }
  bool any() const { return by_size() || by_quality(); }
};
// INVALID_ARGUMENT (TARGET_CONFLICT, TARGET_RANGE) names the field.
absl::Status ValidateRateTarget(const RateTarget& target);

// An artifact that was made and measured on the way.
struct Candidate {
  QuantizeSpec spec;
  double bpw = 0;  // QuantizePlan::bpw
  int64_t artifact_bytes = 0;
  QualityReport quality;
  bool mixed() const { return !spec.rates.empty(); }
};

struct SearchStep {
  enum class Kind {
    kUniform,     // make and measure `spec.bpw` for all tensors
    kMix,         // allocate rates within `limit`, from probes at `from`; make and measure that
    kAccept,      // `from` is the result
    kInfeasible,  // no rate of the codec reaches the target; `from` came closest
  };
  Kind kind = Kind::kUniform;
  double bpw = 0;   // kUniform
  SizeLimit limit;  // kMix
  size_t from = 0;  // index of a candidate
  std::string why;  // one sentence for reports and logs
};

// The bound that a quality target is held against: of KL or of the perplexity increase.
double UpperBound(const RateTarget& target, const QualityReport& quality);
// What to do next. `rates` are those of the codec, ascending; `measured` is in the order of measuring and holds at
// least the first candidate (LargestUniform for sizes, FirstRate for qualities).
SearchStep NextStep(const RateTarget& target, std::span<const double> rates, std::span<const Candidate> measured);
// Where a search for a quality begins.
double FirstRate(const RateTarget& target, std::span<const double> rates);

}  // namespace qamserve
