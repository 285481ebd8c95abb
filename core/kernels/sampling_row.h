// What choosing a token from a row of logits takes and gives, the same for every device, in whole numbers: a token's
// weight is its probability beside the best token's in units of 2^-40, rounded down. Sums of weights are exact, so they
// do not depend on the order in which a device adds them up, and a seed draws the same token everywhere.
#pragma once

#include <cstdint>

#include "core/codec/half.h"
#include "core/codec/packing.h"

namespace qamserve {

inline constexpr int kSampleWeightBits = 40;
inline constexpr uint64_t kSampleWeightOne = uint64_t{1} << kSampleWeightBits;  // of the best token
inline constexpr int kMaxBestLogits = 20;

// What becomes of one token's logit: above 0 divided by `penalty`, else multiplied, then plus `bias`, then less `less`.
struct LogitAdjustment {
  int32_t token = 0;
  float penalty = 1;
  float bias = 0;
  float less = 0;
  float own = 0;  // out: the logit before that
};

QAMSERVE_HOST_DEVICE inline float AdjustLogit(float logit, const LogitAdjustment& a) {
  const float penalized = logit > 0 ? logit / a.penalty : logit * a.penalty;
  return penalized + a.bias - a.less;
}

// How a token is chosen from row `row` of some logits: of those whose logit is above minus infinity once it was
// adjusted and whose bit of `allowed` is set, cut by top-k, top-p of what that leaves, and min-p, one is drawn by
// weight at `temperature`; at temperature 0 the best. Better is a larger logit, then a lower token.
struct SampleRow {
  int64_t row = 0;
  double temperature = 0;
  double top_p = 1;
  double min_p = 0;
  int32_t top_k = 0;      // 0: no cut
  int32_t logprobs = -1;  // the best logits that are wanted, and what a log-probability needs; -1: neither
  uint64_t draw = 0;      // random bits; what is drawn is the first token whose weights add up to above draw / 2^64
  LogitAdjustment* adjustments = nullptr;  // by token, each once
  int64_t adjustment_count = 0;
  const uint64_t* allowed = nullptr;  // bit t % 64 of word t / 64 for each token t of the row; null: all are
};

enum class SampleOutcome : int32_t {
  kChosen,
  kNotFinite,  // the logits hold NaN or infinity
  kNothing,    // no token is left
  kUndecided,  // more tokens count than this device sorts: to be chosen from the adjusted logits by SampleAdjusted
  kNoMemory,   // of this machine
};

struct BestLogit {
  float logit = 0;
  int32_t token = 0;
};

struct SampleResult {
  SampleOutcome outcome = SampleOutcome::kNothing;
  int32_t token = 0;
  float own = 0;  // the model's logit of `token`: before adjustments
  // Only if logprobs are wanted, of the model's own logits: the largest, all weights at temperature 1, the best ones.
  float own_largest = 0;
  int32_t best_count = 0;
  uint64_t own_total = 0;
  BestLogit best[kMaxBestLogits];
};

// The weight of exp(x) = e, 0 <= e <= 1.
QAMSERVE_HOST_DEVICE inline uint64_t SampleWeightOf(uint32_t float_bits) {
  const uint64_t mantissa = (float_bits & 0x7fffffu) | 0x800000u;
  const uint32_t below = 127u - (float_bits >> 23);
  return mantissa << (kSampleWeightBits - 23) >> (below < 63 ? below : 63);
}

// 1 / temperature as weights are multiplied by it. Too small a temperature has none: it is infinite, all weights are 0,
// and the best token is chosen.
QAMSERVE_HOST_DEVICE inline float SampleInverse(double temperature) { return static_cast<float>(1.0 / temperature); }

// The high half of the product of two 64-bit numbers.
QAMSERVE_HOST_DEVICE inline uint64_t HighProduct(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(a, b);
#else
  const uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
  const uint64_t middle = a1 * b0 + (a0 * b0 >> 32);
  return a1 * b1 + (middle >> 32) + ((a0 * b1 + (middle & 0xffffffffu)) >> 32);
#endif
}

// Whether best tokens whose weights add up to `sum` are enough for top-p of `total`.
QAMSERVE_HOST_DEVICE inline bool ReachesTopP(uint64_t sum, uint64_t total, double top_p) {
  return static_cast<double>(sum) >= top_p * static_cast<double>(total);
}

// `weight`, or 0 if min-p cuts it.
QAMSERVE_HOST_DEVICE inline uint64_t AfterMinP(uint64_t weight, double min_p) {
  const bool cut = min_p > 0 && static_cast<double>(weight) < min_p * static_cast<double>(kSampleWeightOne);
  return cut ? 0 : weight;
}

// Whether tokens are gone through best first rather than by their numbers: only then must they be sorted.
QAMSERVE_HOST_DEVICE inline bool DrawsInOrder(const SampleRow& row, int64_t candidates) {
  return row.top_p < 1 || (row.top_k > 0 && row.top_k < candidates);
}

// A number that orders candidates: the larger, the better.
QAMSERVE_HOST_DEVICE inline uint64_t SampleKey(float logit, int32_t token) {
  uint32_t bits = BitsOfFloat(logit + 0.0f);  // -0 becomes 0: they are equal
  bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(~token);
}
QAMSERVE_HOST_DEVICE inline int32_t TokenOfKey(uint64_t key) { return ~static_cast<int32_t>(key & 0xffffffffu); }
QAMSERVE_HOST_DEVICE inline float LogitOfKey(uint64_t key) {
  const auto high = static_cast<uint32_t>(key >> 32);
  return FloatOfBits((high & 0x80000000u) != 0 ? high & 0x7fffffffu : ~high);
}

}  // namespace qamserve
