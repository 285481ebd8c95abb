// Which tensor gets how many bits: against all that could be chosen, and within limits on a real plan.
#include "core/quantize/allocate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/base/rng.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

const std::vector<double> kChoices = {3, 3.5, 4, 4.5, 5};

std::vector<double> Distortions() {
  std::vector<double> out;
  out.reserve(kChoices.size());
  for (double rate : kChoices) out.push_back(1.9 * std::exp2(-2 * rate));
  return out;
}

double LossOf(const std::vector<AllocationItem>& items, const std::vector<double>& rates) {
  double loss = 0;
  for (size_t i = 0; i < items.size(); ++i) loss += items[i].loss * std::exp2(-2 * (rates[i] - items[i].bpw));
  return loss;
}

double BitsOf(const std::vector<AllocationItem>& items, const std::vector<double>& rates) {
  double bits = 0;
  for (size_t i = 0; i < items.size(); ++i) bits += static_cast<double>(items[i].weights) * rates[i];
  return bits;
}

// The least loss of all combinations within the budget.
double BestOfAll(const std::vector<AllocationItem>& items, double budget) {
  double best = std::numeric_limits<double>::infinity();
  size_t combinations = 1;
  for (size_t i = 0; i < items.size(); ++i) combinations *= kChoices.size();
  for (size_t number = 0; number < combinations; ++number) {
    std::vector<double> rates;
    for (size_t i = 0, rest = number; i < items.size(); ++i, rest /= kChoices.size()) {
      rates.push_back(kChoices[rest % kChoices.size()]);
    }
    if (BitsOf(items, rates) <= budget) best = std::min(best, LossOf(items, rates));
  }
  return best;
}

TEST(AllocateRatesTest, ComesCloseToTheBestOfAllCombinations) {
  Rng rng(3);
  const std::vector<double> distortion = Distortions();
  for (int round = 0; round < 20; ++round) {
    std::vector<AllocationItem> items;
    double weights = 0;
    for (int i = 0; i < 6; ++i) {
      const auto size = static_cast<int64_t>(100 + rng.NextU64() % 900);
      weights += static_cast<double>(size);
      items.push_back({.weights = size, .bpw = 4, .loss = std::exp2(static_cast<double>(rng.NextU64() % 80) / 10)});
    }
    const double budget = weights * 4;
    const auto rates = AllocateRates(items, kChoices, distortion, budget);
    ASSERT_TRUE(rates.ok()) << rates.status();
    EXPECT_LE(BitsOf(items, *rates), budget);
    const double loss = LossOf(items, *rates);
    EXPECT_LE(loss, LossOf(items, std::vector<double>(items.size(), 4.0)) * (1 + 1e-12)) << "worse than one rate";
    EXPECT_LE(loss, 1.25 * BestOfAll(items, budget)) << "round " << round;
  }
}

TEST(AllocateRatesTest, GivesEqualTensorsEqualRates) {
  const std::vector<AllocationItem> items(8, {.weights = 64, .bpw = 4, .loss = 1});
  const auto rates = AllocateRates(items, kChoices, Distortions(), 8 * 64 * 4.5);
  ASSERT_TRUE(rates.ok());
  EXPECT_EQ(*rates, std::vector<double>(8, 4.5));
}

TEST(AllocateRatesTest, SaysWhenTheBudgetIsTooSmall) {
  const std::vector<AllocationItem> items(2, {.weights = 64, .bpw = 4, .loss = 1});
  EXPECT_EQ(ReasonOf(AllocateRates(items, kChoices, Distortions(), 2 * 64 * 2.9).status()), "TARGET_TOO_SMALL");
}

class AllocateOnAModel : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WriteTinyModel({}, folder_ / "model").ok());
    checkpoint_ = Checkpoint::Open(FileSet::FromPath(folder_ / "model").value()).value();
  }
  QuantizePlan PlanOf(const QuantizeSpec& spec) { return PlanQuantization(*checkpoint_, spec, 1).value(); }

  TempFolder folder_;
  std::shared_ptr<const Checkpoint> checkpoint_;
};

TEST_F(AllocateOnAModel, KeepsWithinLimitsOfBothKinds) {
  QuantizeSpec spec;
  spec.bpw = 4;
  const QuantizePlan uniform = PlanOf(spec);
  std::vector<double> losses;
  for (size_t i = 0; i < uniform.tensors.size(); ++i) losses.push_back(i % 3 == 0 ? 10.0 : 1.0);
  for (double over : {0.0, 0.1, 0.3}) {
    const SizeLimit bpw{.bpw = uniform.bpw + over, .bytes = 0};
    const auto mix = BestMix(*checkpoint_, spec, bpw, losses);
    ASSERT_TRUE(mix.ok()) << mix.status();
    EXPECT_LE(PlanOf(*mix).bpw, bpw.bpw);
    EXPECT_GT(PlanOf(*mix).bpw, bpw.bpw - 0.3) << "most of what is allowed should be used";
    EXPECT_FALSE(mix->rates.empty());
  }
  const SizeLimit bytes{.bpw = 0, .bytes = uniform.artifact_bytes - 64};
  const auto mix = BestMix(*checkpoint_, spec, bytes, losses);
  ASSERT_TRUE(mix.ok()) << mix.status();
  EXPECT_LE(PlanOf(*mix).artifact_bytes, bytes.bytes);
  // What costs more KL gets no less.
  const QuantizePlan plan = PlanOf(*mix);
  EXPECT_GE(plan.tensors[0].format.pair_bits, plan.tensors[1].format.pair_bits);
}

TEST_F(AllocateOnAModel, FindsTheHighestRateThatASizeAllows) {
  QuantizeSpec spec;
  const auto found = LargestUniform(*checkpoint_, spec, {.bpw = 4.9, .bytes = 0});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_LE(PlanOf(*found).bpw, 4.9);
  spec.bpw = found->bpw + 0.5;
  EXPECT_GT(PlanOf(spec).bpw, 4.9);
  EXPECT_EQ(ReasonOf(LargestUniform(*checkpoint_, spec, {.bpw = 1.0, .bytes = 0}).status()), "TARGET_TOO_SMALL");
  EXPECT_EQ(ReasonOf(LargestUniform(*checkpoint_, spec, {.bpw = 0, .bytes = 100}).status()), "TARGET_TOO_SMALL");
}

TEST_F(AllocateOnAModel, AboveATrellisTensorsAreJoint) {
  QuantizeSpec spec;
  spec.codec = Codec::kTrellis;
  spec.bpw = 4;
  spec.rates = {{.filter = "*.down_proj", .bpw = 6}, {.filter = "*.o_proj", .bpw = 5.5}};
  for (const QuantizePlan::Tensor& tensor : PlanOf(spec).tensors) {
    TensorFormat format{.codec = Codec::kTrellis, .pair_bits = 8};
    if (tensor.name.ends_with(".down_proj")) format = {.codec = Codec::kJoint, .pair_bits = 12};
    if (tensor.name.ends_with(".o_proj")) format.pair_bits = 11;
    EXPECT_EQ(tensor.format, format) << tensor.name;
  }
  // A mix has the rate, and each rate is better than the one below it.
  const std::vector<double> rates = RatesOf(Codec::kTrellis);
  EXPECT_EQ(rates.back(), 6);
  for (size_t i = 1; i < rates.size(); ++i) {
    EXPECT_LT(IdealDistortion(Codec::kTrellis, rates[i]), IdealDistortion(Codec::kTrellis, rates[i - 1])) << rates[i];
  }
}

TEST_F(AllocateOnAModel, RulesGiveRatesByName) {
  QuantizeSpec spec;
  spec.bpw = 4;
  spec.rates = {{.filter = "*.down_proj", .bpw = 6}, {.filter = "model.layers.1.*", .bpw = 3}};
  const QuantizePlan plan = PlanOf(spec);
  for (const QuantizePlan::Tensor& tensor : plan.tensors) {
    const bool second = tensor.name.starts_with("model.layers.1.");
    const int bits = second ? 6 : tensor.name.ends_with(".down_proj") ? 12 : 8;
    EXPECT_EQ(tensor.format.pair_bits, bits) << tensor.name;
  }
  const auto back = QuantizeSpecFromJson(QuantizeSpecToJson(spec));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->rates, spec.rates);
  EXPECT_EQ(QuantizeSpecToJson(*back), QuantizeSpecToJson(spec));

  spec.rates = {{.filter = "*.router", .bpw = 6}};
  EXPECT_EQ(ReasonOf(PlanQuantization(*checkpoint_, spec, 1).status()), "FILTER_MATCHES_NOTHING");
  spec.rates = {{.filter = "*", .bpw = 6.5}};
  EXPECT_EQ(ReasonOf(PlanQuantization(*checkpoint_, spec, 1).status()), "BPW_RANGE");
  spec.rates = {{.filter = "", .bpw = 6}};
  EXPECT_EQ(ReasonOf(ValidateQuantizeSpec(spec)), "RATE_FILTER");
}

}  // namespace
}  // namespace qamserve
