// Choosing tokens, against the definition written out plainly, and its weights on every instruction set.
#include "core/kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "tests/core/kernels/sample_problems.h"

namespace qamserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<uint64_t> Weights(const Kernels& kernels, const std::vector<float>& logits, float largest, float inverse) {
  std::vector<uint64_t> out(logits.size());
  const uint64_t total =
      kernels.sample_weights(logits.data(), static_cast<int64_t>(logits.size()), largest, inverse, out.data());
  uint64_t sum = 0;
  for (const uint64_t weight : out) sum += weight;
  EXPECT_EQ(total, sum);
  EXPECT_EQ(kernels.sample_weights(logits.data(), static_cast<int64_t>(logits.size()), largest, inverse, nullptr), sum);
  return out;
}

TEST(SampleWeights, AreExponentialsInWholeNumbers) {
  std::vector<float> logits;
  for (float x = 0; x > -40; x -= 0.0137f) logits.push_back(x);
  const std::vector<uint64_t> weights = Weights(ScalarKernels(), logits, 0, 1);
  EXPECT_EQ(weights[0], kSampleWeightOne);
  for (size_t i = 0; i < logits.size(); ++i) {
    const double exact = std::exp(double{logits[i]}) * static_cast<double>(kSampleWeightOne);
    EXPECT_NEAR(static_cast<double>(weights[i]), exact, 2e-7 * exact + 1) << logits[i];
  }
  EXPECT_EQ(Weights(ScalarKernels(), {3, -kInfinity, -1e38f}, 3, 1), (std::vector<uint64_t>{kSampleWeightOne, 0, 0}));
  EXPECT_EQ(Weights(ScalarKernels(), {3, 2, -kInfinity}, 3, kInfinity), (std::vector<uint64_t>{0, 0, 0}));
}

TEST(SampleWeights, AreTheSameOnEveryInstructionSet) {
  for (const Kernels* kernels : {Avx2Kernels(), Avx512Kernels(), AmxKernels()}) {
    if (kernels == nullptr) continue;
    for (const int64_t n : {1, 7, 8, 9, 1000}) {
      for (const LogitKind kind : kLogitKinds) {
        Rng rng(static_cast<uint64_t>(n));
        std::vector<float> logits;
        for (int64_t i = 0; i < n; ++i) logits.push_back(i % 5 == 3 ? -kInfinity : RandomLogit(kind, rng));
        const float largest = *std::max_element(logits.begin(), logits.end());
        for (const float inverse : {1.0f, 0.01f, 3.7f, kInfinity}) {
          EXPECT_EQ(Weights(*kernels, logits, largest, inverse), Weights(ScalarKernels(), logits, largest, inverse))
              << kernels->name << ", " << n;
        }
      }
    }
  }
}

TEST(SampleArithmetic, HighProduct) {
  Rng rng(5);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t a = i == 0 ? ~uint64_t{0} : rng.NextU64(), b = i < 2 ? ~uint64_t{0} : rng.NextU64() >> (i % 64);
    __extension__ using Wide = unsigned __int128;
    EXPECT_EQ(HighProduct(a, b), static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64));
  }
}

TEST(SampleArithmetic, KeysOrderCandidates) {
  const float values[] = {3e38f, 2, 1e-40f, 0, -0.0f, -1e-40f, -5, -3e38f};
  for (size_t i = 0; i < std::size(values); ++i) {
    EXPECT_EQ(LogitOfKey(SampleKey(values[i], 7)), values[i]);
    EXPECT_EQ(TokenOfKey(SampleKey(values[i], 12345)), 12345);
    EXPECT_GT(SampleKey(values[i], 7), SampleKey(values[i], 8)) << "the lower token is better";
    for (size_t j = i + 1; j < std::size(values); ++j) {
      EXPECT_EQ(SampleKey(values[i], 3) > SampleKey(values[j], 3), values[i] > values[j]) << values[i] << values[j];
      EXPECT_EQ(SampleKey(values[i], 3) == SampleKey(values[j], 3), values[i] == values[j]);
    }
  }
}

// The definition: everything sorted, nothing clever.
SampleResult Plainly(std::vector<float> logits, SampleProblem p) {
  SampleResult out;
  const std::vector<float> own = logits;
  for (const LogitAdjustment& a : p.adjustments) {
    float& logit = logits[static_cast<size_t>(a.token)];
    logit = (logit > 0 ? logit / a.penalty : logit * a.penalty) + a.bias - a.less;
  }
  struct Candidate {
    float logit;
    int32_t token;
    uint64_t weight;
  };
  std::vector<Candidate> left;
  for (size_t i = 0; i < logits.size(); ++i) {
    const bool allowed = p.allowed.empty() || (p.allowed[i / 64] >> (i % 64) & 1) != 0;
    if (allowed && logits[i] > -kInfinity) left.push_back({logits[i], static_cast<int32_t>(i), 0});
  }
  if (left.empty()) return out;
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  };
  std::sort(left.begin(), left.end(), better);
  out.outcome = SampleOutcome::kChosen;
  out.token = left[0].token;
  const float largest = left[0].logit;
  const bool in_order = p.row.top_p < 1 || (p.row.top_k > 0 && static_cast<size_t>(p.row.top_k) < left.size());
  if (p.row.top_k > 0 && static_cast<size_t>(p.row.top_k) < left.size()) left.resize(static_cast<size_t>(p.row.top_k));
  uint64_t total = 0;
  for (Candidate& c : left) {
    c.weight = Weights(ScalarKernels(), {c.logit}, largest, SampleInverse(p.row.temperature))[0];
    total += c.weight;
  }
  if (p.row.top_p < 1) {
    uint64_t sum = 0;
    size_t kept = 0;
    while (kept < left.size() && static_cast<double>(sum) < p.row.top_p * static_cast<double>(total)) {
      sum += left[kept++].weight;
    }
    left.resize(kept);
  }
  std::erase_if(left, [&](const Candidate& c) {
    return static_cast<double>(c.weight) < p.row.min_p * static_cast<double>(kSampleWeightOne);
  });
  if (!in_order) std::sort(left.begin(), left.end(), [](const auto& a, const auto& b) { return a.token < b.token; });
  total = 0;
  for (const Candidate& c : left) total += c.weight;
  __extension__ using Wide = unsigned __int128;
  auto rest = static_cast<uint64_t>(static_cast<Wide>(p.row.draw) * total >> 64);
  for (size_t i = 0; p.row.temperature > 0 && total > 0; ++i) {
    out.token = left[i].token;
    if (rest < left[i].weight) break;
    rest -= left[i].weight;
  }
  out.own = own[static_cast<size_t>(out.token)];
  return out;
}

TEST(SampleLogits, ChoosesWhatTheDefinitionSays) {
  SampleScratch scratch;
  int nothing = 0;
  for (const int64_t vocab : {1, 2, 31, 320, 2500}) {
    for (SampleProblem& p : SampleProblems(vocab, static_cast<uint64_t>(vocab), vocab > 1000 ? 60 : 400)) {
      const SampleResult expected = Plainly(p.logits, p);
      std::vector<float> logits = p.logits;
      const SampleResult got = SampleLogits(BestKernels(), logits, p.Row(), scratch);
      ASSERT_EQ(got.outcome, expected.outcome) << p.what;
      nothing += got.outcome == SampleOutcome::kNothing ? 1 : 0;
      if (got.outcome != SampleOutcome::kChosen) continue;
      ASSERT_EQ(got.token, expected.token) << p.what;
      ASSERT_EQ(got.own, expected.own) << p.what;
      // What is left to another device to decide comes to the same.
      EXPECT_EQ(SampleAdjusted(BestKernels(), logits, p.Row(), scratch).token, got.token) << p.what;
    }
  }
  EXPECT_GT(nothing, 0);
}

TEST(SampleLogits, ReportsTheModelsOwnDistribution) {
  SampleScratch scratch;
  for (SampleProblem& p : SampleProblems(500, 77, 200)) {
    if (p.row.logprobs < 0) continue;
    std::vector<float> sorted = p.logits, logits = p.logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<float>());
    const SampleResult got = SampleLogits(BestKernels(), logits, p.Row(), scratch);
    double sum = 0;
    for (const float logit : p.logits) sum += std::exp(double{logit} - sorted[0]);
    EXPECT_EQ(got.own_largest, sorted[0]) << p.what;
    EXPECT_NEAR(LogSumOf(got.own_largest, got.own_total) - sorted[0], std::log(sum), 1e-6) << p.what;
    ASSERT_EQ(got.best_count, p.row.logprobs) << p.what;
    for (int32_t i = 0; i < got.best_count; ++i) {
      EXPECT_EQ(got.best[i].logit, sorted[static_cast<size_t>(i)]) << p.what;
      EXPECT_EQ(p.logits[static_cast<size_t>(got.best[i].token)], got.best[i].logit) << p.what;
      const bool follows =
          i == 0 || got.best[i].logit < got.best[i - 1].logit || got.best[i].token > got.best[i - 1].token;
      EXPECT_TRUE(follows) << p.what;
    }
  }
}

TEST(SampleLogits, NotFiniteIsSaid) {
  SampleScratch scratch;
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> logits = {1, 2, bad, 3};
    EXPECT_EQ(SampleLogits(BestKernels(), logits, {}, scratch).outcome, SampleOutcome::kNotFinite);
  }
}

// How often each token is drawn is how probable it is.
TEST(SampleLogits, DrawsByProbability) {
  SampleScratch scratch;
  std::vector<float> logits;
  for (const double p : {0.15, 0.5, 0.05, 0.3}) logits.push_back(static_cast<float>(std::log(p)));
  constexpr int kDraws = 4096;
  std::map<int32_t, int> seen;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> row = logits;
    SampleRow wanted;
    wanted.temperature = 1;
    wanted.draw = (uint64_t{1} << 52) * static_cast<uint64_t>(i);  // evenly over all draws
    ++seen[SampleLogits(BestKernels(), row, wanted, scratch).token];
  }
  EXPECT_NEAR(seen[0], 0.15 * kDraws, 1.5);
  EXPECT_NEAR(seen[1], 0.5 * kDraws, 1.5);
  EXPECT_NEAR(seen[2], 0.05 * kDraws, 1.5);
  EXPECT_NEAR(seen[3], 0.3 * kDraws, 1.5);
}

}  // namespace
}  // namespace qamserve
