#include "core/kernels/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace qamserve {
namespace {

using Candidate = SampleScratch::Candidate;

constexpr float kNever = -std::numeric_limits<float>::infinity();
// Weights that are looked at together: 8 KiB of the stack.
constexpr size_t kPiece = 1024;

// True if a comes before b: larger logit, then lower token.
template <typename T>
bool Better(const T& a, const T& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

bool AllFinite(std::span<const float> values) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t worst = 0;
  for (const float value : values) worst = std::max(worst, std::bit_cast<uint32_t>(value) & kExponent);
  return worst != kExponent;
}

// Calls body(first, weights) for pieces of the logits in their order until it returns false.
template <typename Body>
void ForWeights(const Kernels& kernels, std::span<const float> logits, float largest, float inverse, const Body& body) {
  uint64_t weights[kPiece];
  for (size_t first = 0; first < logits.size(); first += kPiece) {
    const size_t count = std::min(kPiece, logits.size() - first);
    kernels.sample_weights(logits.data() + first, static_cast<int64_t>(count), largest, inverse, weights);
    if (!body(first, std::span<const uint64_t>(weights, count))) return;
  }
}

// What is left after cuts that need no order, drawn in the order of tokens. -1 if all weights are 0.
int32_t DrawByToken(const Kernels& kernels, std::span<const float> logits, const SampleRow& row, float largest,
                    float inverse) {
  uint64_t total = 0;
  ForWeights(kernels, logits, largest, inverse, [&](size_t, std::span<const uint64_t> weights) {
    for (const uint64_t weight : weights) total += AfterMinP(weight, row.min_p);
    return true;
  });
  uint64_t left = HighProduct(row.draw, total);
  int32_t token = -1;
  if (total == 0) return token;
  ForWeights(kernels, logits, largest, inverse, [&](size_t first, std::span<const uint64_t> weights) {
    for (size_t i = 0; i < weights.size(); ++i) {
      const uint64_t weight = AfterMinP(weights[i], row.min_p);
      if (left < weight) {
        token = static_cast<int32_t>(first + i);
        return false;
      }
      left -= weight;
    }
    return true;
  });
  return token;
}

// Fills `candidates` with the row.top_k best, with their weights.
void KeepTopK(const Kernels& kernels, std::span<const float> logits, const SampleRow& row, float largest, float inverse,
              std::vector<Candidate>& candidates) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] != kNever) candidates.push_back({0, logits[i], static_cast<int32_t>(i)});
  }
  const auto kept = candidates.begin() + row.top_k;
  std::partial_sort(candidates.begin(), kept, candidates.end(), Better<Candidate>);
  candidates.erase(kept, candidates.end());
  for (Candidate& c : candidates) kernels.sample_weights(&c.logit, 1, largest, inverse, &c.weight);
}

// Keeps the best whose weights reach top-p, best first. A heap gives them without sorting the long tail that is cut.
void KeepTopP(double top_p, std::vector<Candidate>& candidates) {
  uint64_t total = 0, sum = 0;
  for (const Candidate& c : candidates) total += c.weight;
  const auto worse = [](const Candidate& a, const Candidate& b) { return Better(b, a); };
  std::make_heap(candidates.begin(), candidates.end(), worse);
  auto heap_end = candidates.end();
  while (heap_end != candidates.begin() && !ReachesTopP(sum, total, top_p)) {
    std::pop_heap(candidates.begin(), heap_end, worse);
    --heap_end;
    sum += heap_end->weight;
  }
  std::reverse(candidates.begin(), candidates.end());
  candidates.resize(static_cast<size_t>(candidates.end() - heap_end));
}

// -1 if all weights are 0.
int32_t DrawInOrder(const Kernels& kernels, std::span<const float> logits, const SampleRow& row, bool cuts_top_k,
                    float largest, float inverse, std::vector<Candidate>& candidates) {
  candidates.clear();
  candidates.reserve(logits.size());
  if (cuts_top_k) {
    KeepTopK(kernels, logits, row, largest, inverse, candidates);
  } else {  // those without weight change nothing
    ForWeights(kernels, logits, largest, inverse, [&](size_t first, std::span<const uint64_t> weights) {
      for (size_t i = 0; i < weights.size(); ++i) {
        if (weights[i] > 0) candidates.push_back({weights[i], logits[first + i], static_cast<int32_t>(first + i)});
      }
      return true;
    });
  }
  if (row.top_p < 1) KeepTopP(row.top_p, candidates);
  uint64_t total = 0;
  for (Candidate& c : candidates) {
    c.weight = AfterMinP(c.weight, row.min_p);
    total += c.weight;
  }
  uint64_t left = HighProduct(row.draw, total);
  if (total == 0) return -1;
  for (const Candidate& c : candidates) {
    if (left < c.weight) return c.token;
    left -= c.weight;
  }
  return -1;  // never: `left` is below the total
}

}  // namespace

const LogitAdjustment* FindAdjustment(const SampleRow& row, int32_t token) {
  const std::span<const LogitAdjustment> all(row.adjustments, static_cast<size_t>(row.adjustment_count));
  const auto found = std::lower_bound(all.begin(), all.end(), token,
                                      [](const LogitAdjustment& a, int32_t wanted) { return a.token < wanted; });
  return found == all.end() || found->token != token ? nullptr : &*found;
}

int32_t FindBestLogits(std::span<const float> logits, int32_t n, BestLogit* best) {
  const auto wanted = static_cast<int32_t>(std::min(static_cast<size_t>(std::max(0, n)), logits.size()));
  int32_t count = 0;
  for (size_t i = 0; wanted > 0 && i < logits.size(); ++i) {
    const BestLogit candidate{logits[i], static_cast<int32_t>(i)};
    if (count == wanted && !Better(candidate, best[count - 1])) continue;
    if (count < wanted) ++count;
    BestLogit* const place = std::upper_bound(best, best + count - 1, candidate, Better<BestLogit>);
    std::move_backward(place, best + count - 1, best + count);
    *place = candidate;
  }
  return wanted;
}

double LogSumOf(float largest, uint64_t total) {
  return static_cast<double>(largest) + std::log(static_cast<double>(total) / static_cast<double>(kSampleWeightOne));
}

SampleResult SampleAdjusted(const Kernels& kernels, std::span<const float> logits, const SampleRow& row,
                            SampleScratch& scratch) {
  SampleResult result;
  // max_element keeps the first of equals.
  const auto best = std::max_element(logits.begin(), logits.end());
  if (best == logits.end() || *best == kNever) return result;
  result.outcome = SampleOutcome::kChosen;
  result.token = -1;
  if (row.temperature > 0) {
    const auto candidates = static_cast<int64_t>(logits.size()) - std::count(logits.begin(), logits.end(), kNever);
    const float inverse = SampleInverse(row.temperature);
    const bool cuts_top_k = row.top_k > 0 && row.top_k < candidates;
    result.token = DrawsInOrder(row, candidates)
                       ? DrawInOrder(kernels, logits, row, cuts_top_k, *best, inverse, scratch.candidates)
                       : DrawByToken(kernels, logits, row, *best, inverse);
  }
  if (result.token < 0) result.token = static_cast<int32_t>(best - logits.begin());
  result.own = logits[static_cast<size_t>(result.token)];
  return result;
}

SampleResult SampleLogits(const Kernels& kernels, std::span<float> logits, const SampleRow& row,
                          SampleScratch& scratch) {
  SampleResult own;
  if (!AllFinite(logits)) {
    own.outcome = SampleOutcome::kNotFinite;
    return own;
  }
  if (row.logprobs >= 0 && !logits.empty()) {
    own.own_largest = *std::max_element(logits.begin(), logits.end());
    own.own_total = kernels.sample_weights(logits.data(), static_cast<int64_t>(logits.size()), own.own_largest,
                                           SampleInverse(1), nullptr);
    own.best_count = FindBestLogits(logits, row.logprobs, own.best);
  }
  for (LogitAdjustment& a : std::span(row.adjustments, static_cast<size_t>(row.adjustment_count))) {
    float& logit = logits[static_cast<size_t>(a.token)];
    a.own = logit;
    logit = AdjustLogit(logit, a);
  }
  for (size_t i = 0; row.allowed != nullptr && i < logits.size(); ++i) {
    if ((row.allowed[i / 64] >> (i % 64) & 1) == 0) logits[i] = kNever;
  }
  const SampleResult chosen = SampleAdjusted(kernels, logits, row, scratch);
  own.outcome = chosen.outcome;
  own.token = chosen.token;
  const LogitAdjustment* const adjustment = FindAdjustment(row, chosen.token);
  own.own = adjustment != nullptr ? adjustment->own : chosen.own;
  return own;
}

}  // namespace qamserve
