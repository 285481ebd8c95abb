// Searches on a model whose KL is a known function of its size.
#include "core/evaluate/search.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qamserve {
namespace {

const std::vector<double> kRates = {2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6};
constexpr double kOverhead = 0.02;  // norms and scales, bits a weight

// KL falls to a quarter with each bit; a mix is worth `mix_gain`.
struct Model {
  double kl_at_four = 0.1;
  double mix_gain = 0.88;

  // A rate for all tensors, or the size of a mix.
  Candidate Measure(double rate, bool mixed) const {
    Candidate out;
    out.spec.bpw = mixed ? 4 : rate;
    const double bpw = mixed ? rate : rate + kOverhead;
    if (mixed) out.spec.rates = {{.filter = "*.v_proj", .bpw = 6}};
    out.bpw = bpw;
    out.artifact_bytes = static_cast<int64_t>(bpw * 1e6);
    const double kl = kl_at_four * std::exp2(-2 * (bpw - kOverhead - 4)) * (mixed ? mix_gain : 1);
    out.quality.kl_mean = kl;
    out.quality.kl_stderr = 0.02 * kl;
    out.quality.kl_ci95_low = 0.95 * kl;
    out.quality.kl_ci95_high = 1.05 * kl;
    out.quality.perplexity_change = std::expm1(kl);
    out.quality.perplexity_change_stderr = 0.02 * kl;
    return out;
  }
};

struct Outcome {
  SearchStep last;
  std::vector<Candidate> measured;
  const Candidate& result() const { return measured[last.from]; }
};

Outcome Search(const RateTarget& target, const Model& model, double first) {
  Outcome out;
  out.measured.push_back(model.Measure(first, false));
  for (int i = 0; i < 20; ++i) {
    out.last = NextStep(target, kRates, out.measured);
    EXPECT_FALSE(out.last.why.empty());
    if (out.last.kind == SearchStep::Kind::kUniform) {
      out.measured.push_back(model.Measure(out.last.bpw, false));
    } else if (out.last.kind == SearchStep::Kind::kMix) {
      out.measured.push_back(model.Measure(out.last.limit.bpw, true));
    } else {
      return out;
    }
  }
  ADD_FAILURE() << "the search does not end";
  return out;
}

// The smallest size at which one rate, or a mix, passes.
double SmallestSize(const Model& model, double kl, bool mixed) {
  const double gain = mixed ? model.mix_gain : 1;
  const double bpw = 4 + std::log2(1.05 * gain * model.kl_at_four / kl) / 2;
  if (mixed) return bpw + kOverhead;
  return std::ceil(bpw * 2) / 2 + kOverhead;
}

TEST(SearchTest, OneRateForAllFindsTheSmallestThatPasses) {
  for (double scale : {0.02, 0.1, 0.3}) {
    for (double kl : {0.005, 0.02, 0.05, 0.2}) {
      const Model model{.kl_at_four = scale};
      RateTarget target;
      target.kl = kl;
      const double expected = SmallestSize(model, kl, false);
      if (expected > 6.1 || expected < 2.5) continue;
      const Outcome out = Search(target, model, FirstRate(target, kRates));
      ASSERT_EQ(out.last.kind, SearchStep::Kind::kAccept) << out.last.why;
      EXPECT_NEAR(out.result().bpw, expected, 1e-9) << "scale " << scale << ", KL " << kl;
      EXPECT_LE(out.result().quality.kl_ci95_high, kl);
      EXPECT_LE(out.measured.size(), 4u);
    }
  }
}

TEST(SearchTest, MixesComeCloseToTheSmallestSize) {
  for (const auto& [scale, gain] : {std::pair(0.07, 0.88), std::pair(0.1, 0.88), std::pair(0.15, 0.75),
                                    std::pair(0.1, 0.6), std::pair(0.11, 0.97)}) {
    const Model model{.kl_at_four = scale, .mix_gain = gain};
    RateTarget target;
    target.kl = 0.02;
    target.mixed = true;
    const Outcome out = Search(target, model, FirstRate(target, kRates));
    ASSERT_EQ(out.last.kind, SearchStep::Kind::kAccept) << out.last.why;
    EXPECT_LE(out.result().quality.kl_ci95_high, target.kl);
    EXPECT_LE(out.result().bpw, SmallestSize(model, target.kl, true) + 0.06) << "gain " << gain << ", scale " << scale;
    EXPECT_LE(out.result().bpw, SmallestSize(model, target.kl, false));
  }
}

TEST(SearchTest, AMixThatIsNoBetterIsNotTaken) {
  const Model model{.kl_at_four = 0.1, .mix_gain = 3};
  RateTarget target;
  target.kl = 0.02;
  target.mixed = true;
  const Outcome out = Search(target, model, FirstRate(target, kRates));
  ASSERT_EQ(out.last.kind, SearchStep::Kind::kAccept);
  EXPECT_FALSE(out.result().mixed());

  RateTarget size;
  size.size.bpw = 4.2;
  size.mixed = true;
  const Outcome sized = Search(size, model, 4);
  ASSERT_EQ(sized.last.kind, SearchStep::Kind::kAccept);
  EXPECT_FALSE(sized.result().mixed());
  EXPECT_EQ(sized.measured.size(), 2u);
}

TEST(SearchTest, EndsWithTheBestWhereNothingPasses) {
  const Model model{.kl_at_four = 10};
  RateTarget target;
  target.kl = 0.001;
  target.mixed = true;
  const Outcome out = Search(target, model, FirstRate(target, kRates));
  EXPECT_EQ(out.last.kind, SearchStep::Kind::kInfeasible);
  EXPECT_NEAR(out.result().bpw, 6 + kOverhead, 1e-9);
}

TEST(SearchTest, TakesTheLowestRateWhereEverythingPasses) {
  const Model model{.kl_at_four = 1e-5};
  RateTarget target;
  target.kl = 0.5;
  target.mixed = true;
  const Outcome out = Search(target, model, FirstRate(target, kRates));
  EXPECT_EQ(out.last.kind, SearchStep::Kind::kAccept);
  EXPECT_NEAR(out.result().bpw, 2.5 + kOverhead, 1e-9);
}

TEST(SearchTest, HoldsPerplexityAgainstItsOwnBound) {
  const Model model{.kl_at_four = 0.1};
  RateTarget target;
  target.perplexity_increase = 0.02;
  const Outcome out = Search(target, model, FirstRate(target, kRates));
  ASSERT_EQ(out.last.kind, SearchStep::Kind::kAccept) << out.last.why;
  const QualityReport& quality = out.result().quality;
  EXPECT_LE(quality.perplexity_change + 2.4 * quality.perplexity_change_stderr, 0.02);
  EXPECT_GT(model.Measure(out.result().spec.bpw - 0.5, false).quality.perplexity_change, 0.02);
}

TEST(SearchTest, SizesTakeTheBetterOfOneRateAndAMix) {
  const Model model;
  RateTarget target;
  target.size.bpw = 4.2;
  EXPECT_EQ(Search(target, model, 4).measured.size(), 1u);
  target.mixed = true;
  const Outcome out = Search(target, model, 4);
  EXPECT_TRUE(out.result().mixed());
  EXPECT_EQ(out.result().bpw, 4.2);
}

TEST(RateTargetTest, NamesWhatConflicts) {
  auto reason = [](const RateTarget& target) { return ReasonOf(ValidateRateTarget(target)); };
  EXPECT_EQ(reason({.size = {.bpw = 4, .bytes = 0}, .kl = 0.1}), "TARGET_CONFLICT");
  EXPECT_EQ(reason({.kl = 0.1, .perplexity_increase = 0.1}), "TARGET_CONFLICT");
  EXPECT_EQ(reason({.mixed = true}), "TARGET_CONFLICT");
  EXPECT_EQ(reason({.kl = -1}), "TARGET_RANGE");
  EXPECT_EQ(reason({.kl = std::nan("")}), "TARGET_RANGE");
  EXPECT_EQ(reason({.size = {.bpw = 0, .bytes = -5}}), "TARGET_RANGE");
  EXPECT_TRUE(ValidateRateTarget({}).ok());
  EXPECT_TRUE(ValidateRateTarget({.size = {.bpw = 4, .bytes = 1000}, .mixed = true}).ok());
}

}  // namespace
}  // namespace qamserve
