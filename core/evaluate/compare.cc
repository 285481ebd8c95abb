#include "core/evaluate/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace qamserve {
namespace {

constexpr int64_t kVocabularyBlock = 1024;
constexpr int64_t kTokenBlock = 48;  // 48 x 1024 logits of two models are 400 KB: a second-level cache's worth

// log sum exp of one model's logits so far, its best token and the logit of the target.
struct Running {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0;  // of exp(z - max)
  int64_t best = 0;
  float target = 0;
  double LogSum() const { return static_cast<double>(max) + std::log(sum); }
};

struct RunningPair {
  Running base, other;
  double weighted = 0;  // sum of exp(z_base - base.max) (z_base - z_other)
};

// The factor that earlier sums need under the new maximum.
double Rescale(Running& r, const float* z, int64_t n, int64_t first) {
  const float* top = std::max_element(z, z + n);
  if (*top <= r.max) return 1;
  const double factor = std::exp(static_cast<double>(r.max) - static_cast<double>(*top));
  r.max = *top;
  r.best = first + (top - z);
  r.sum *= factor;
  return factor;
}

void Add(RunningPair& pair, const float* base, const float* other, int64_t n, int64_t first, int64_t target) {
  pair.weighted *= Rescale(pair.base, base, n, first);
  if (target >= first && target < first + n) pair.base.target = base[target - first];
  if (other == nullptr) {
    for (int64_t i = 0; i < n; ++i) pair.base.sum += static_cast<double>(std::exp(base[i] - pair.base.max));
    return;
  }
  Rescale(pair.other, other, n, first);
  if (target >= first && target < first + n) pair.other.target = other[target - first];
  double sum = 0, weighted = 0, other_sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto e = static_cast<double>(std::exp(base[i] - pair.base.max));
    sum += e;
    weighted += e * (static_cast<double>(base[i]) - static_cast<double>(other[i]));
    other_sum += static_cast<double>(std::exp(other[i] - pair.other.max));
  }
  pair.base.sum += sum;
  pair.weighted += weighted;
  pair.other.sum += other_sum;
}

}  // namespace

std::vector<TokenComparison> CompareTokens(const Linear& base, const float* base_hidden, const Linear* other,
                                           const float* other_hidden, const std::vector<int32_t>& targets,
                                           const Kernels& kernels, ThreadPool& pool) {
  const auto n = static_cast<int64_t>(targets.size());
  std::vector<RunningPair> running(targets.size());
  // Few tokens are spread over the threads; no token sees the others.
  const int64_t share = (n + pool.threads() - 1) / pool.threads();
  const int64_t block = std::clamp<int64_t>(share, 1, kTokenBlock);
  const int64_t blocks = (n + block - 1) / block;
  pool.ParallelFor(blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> zb(kTokenBlock * kVocabularyBlock), zo(other == nullptr ? 0 : zb.size());
    for (int64_t t = begin * block; t < std::min(n, end * block); t += block) {
      const int64_t tokens = std::min(block, n - t);
      const HeadInput base_input(base, base_hidden + t * base.cols, tokens, kernels);
      std::optional<HeadInput> other_input;
      if (other != nullptr) other_input.emplace(*other, other_hidden + t * other->cols, tokens, kernels);
      for (int64_t v = 0; v < base.rows; v += kVocabularyBlock) {
        const int64_t count = std::min(kVocabularyBlock, base.rows - v);
        base_input.Logits(v, v + count, zb.data(), count);
        if (other_input) other_input->Logits(v, v + count, zo.data(), count);
        for (int64_t i = 0; i < tokens; ++i) {
          const auto at = static_cast<size_t>(t + i);
          Add(running[at], zb.data() + i * count, other == nullptr ? nullptr : zo.data() + i * count, count, v,
              targets[at]);
        }
      }
    }
  });
  std::vector<TokenComparison> out(targets.size());
  for (size_t i = 0; i < out.size(); ++i) {
    const RunningPair& r = running[i];
    out[i].base_top = static_cast<int32_t>(r.base.best);
    out[i].base_nll = r.base.LogSum() - static_cast<double>(r.base.target);
    if (other == nullptr) continue;
    out[i].other_nll = r.other.LogSum() - static_cast<double>(r.other.target);
    // sum p (log p - log q) = E_p[z_base - z_other] - (lse_base - lse_other); rounding can leave a tiny negative.
    out[i].kl = std::max(0.0, r.weighted / r.base.sum - (r.base.LogSum() - r.other.LogSum()));
    out[i].same_top = r.base.best == r.other.best;
    out[i].other_top = static_cast<int32_t>(r.other.best);
  }
  return out;
}

}  // namespace qamserve
