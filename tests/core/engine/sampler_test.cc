#include "core/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

namespace qamserve {
namespace {

using testing::HasSubstr;

SampledToken Sample(Sampler& sampler, std::vector<float> logits) {
  SampleRow row;
  sampler.Plan(row);
  SampleScratch scratch;
  return sampler.Take(SampleLogits(BestKernels(), logits, row, scratch));
}
int32_t SampleOnce(Sampler& sampler, const std::vector<float>& logits) { return Sample(sampler, logits).token; }

std::map<int32_t, double> Frequencies(const SamplingParams& params, const std::vector<float>& logits, int n = 20000) {
  Sampler sampler(params, {}, static_cast<int64_t>(logits.size()));
  std::map<int32_t, double> out;
  for (int i = 0; i < n; ++i) out[SampleOnce(sampler, logits)] += 1.0 / n;
  return out;
}

// Logits whose softmax is 0.5, 0.3, 0.15, 0.05.
const std::vector<float> kKnown = {std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};

TEST(SamplerTest, GreedyTakesTheFirstOfEquals) {
  Sampler sampler({.temperature = 0}, {}, 4);
  EXPECT_EQ(SampleOnce(sampler, {1, 3, 3, 2}), 1);
  EXPECT_EQ(SampleOnce(sampler, {3, 3, 3, 3}), 0);
}

TEST(SamplerTest, DrawsFromTheDistribution) {
  // Three standard deviations of 20000 draws are 0.011.
  const auto seen = Frequencies({}, kKnown);
  EXPECT_NEAR(seen.at(1), 0.5, 0.011);
  EXPECT_NEAR(seen.at(3), 0.3, 0.011);
  EXPECT_NEAR(seen.at(0), 0.15, 0.011);
  EXPECT_NEAR(seen.at(2), 0.05, 0.011);
}

TEST(SamplerTest, TemperatureSharpens) {
  // Squares of the probabilities, normalized: 0.25 / 0.365, 0.09 / 0.365, ...
  const auto seen = Frequencies({.temperature = 0.5}, kKnown);
  EXPECT_NEAR(seen.at(1), 0.25 / 0.365, 0.011);
  EXPECT_NEAR(seen.at(3), 0.09 / 0.365, 0.011);
}

TEST(SamplerTest, TopK) {
  const auto seen = Frequencies({.top_k = 2}, kKnown);
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_NEAR(seen.at(1), 0.625, 0.011);
  EXPECT_NEAR(seen.at(3), 0.375, 0.011);
  // Equal logits: the lower ids stay.
  const auto equal = Frequencies({.top_k = 2}, {1, 1, 1, 1}, 200);
  EXPECT_EQ(equal.size(), 2u);
  EXPECT_EQ(equal.count(0) + equal.count(1), 2u);
}

TEST(SamplerTest, TopP) {
  EXPECT_EQ(Frequencies({.top_p = 0.4}, kKnown, 500).size(), 1u);
  const auto seen = Frequencies({.top_p = 0.75}, kKnown);
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_NEAR(seen.at(1), 0.625, 0.011);
  EXPECT_EQ(Frequencies({.top_p = 0.9}, kKnown, 2000).size(), 3u);
  EXPECT_EQ(Frequencies({.top_p = 1e-9}, kKnown, 500).size(), 1u);
}

TEST(SamplerTest, TopPWorksOnWhatTopKLeaves) {
  // After top-k 2 the best has 0.625, which reaches 0.6 alone; of the whole distribution it would not.
  EXPECT_EQ(Frequencies({.top_k = 2, .top_p = 0.6}, kKnown, 500).size(), 1u);
  EXPECT_EQ(Frequencies({.top_p = 0.6}, kKnown, 500).size(), 2u);
}

TEST(SamplerTest, MinP) {
  // 0.05 is a tenth of the best, 0.15 is 0.3 of it.
  EXPECT_EQ(Frequencies({.min_p = 0.09}, kKnown, 2000).size(), 4u);
  EXPECT_EQ(Frequencies({.min_p = 0.11}, kKnown, 2000).size(), 3u);
  EXPECT_EQ(Frequencies({.min_p = 0.31}, kKnown, 2000).size(), 2u);
  EXPECT_EQ(Frequencies({.min_p = 0.999}, kKnown, 500).size(), 1u);
}

TEST(SamplerTest, RepetitionPenaltyOnPromptAndOnWhatWasChosen) {
  const std::vector<int32_t> prompt = {2, 2};
  Sampler sampler({.temperature = 0, .repetition_penalty = 2}, prompt, 4);
  // 5 / 2 falls below 3; then 3 / 2 and 5 / 2: the 2.6 wins; then all are divided once, not twice.
  EXPECT_EQ(SampleOnce(sampler, {1, 3, 5, 2.6f}), 1);
  EXPECT_EQ(SampleOnce(sampler, {1, 3, 5, 2.6f}), 3);
  EXPECT_EQ(SampleOnce(sampler, {1, 3, 5, 2.6f}), 2);
  // A negative logit is multiplied, or a penalty would help it.
  Sampler negative({.temperature = 0, .repetition_penalty = 2}, std::vector<int32_t>{0}, 2);
  EXPECT_EQ(SampleOnce(negative, {-1, -1.5f}), 1);
}

TEST(SamplerTest, PresenceAndFrequencyPenaltiesCountTheAnswerOnly) {
  const std::vector<int32_t> prompt = {0, 0, 0};
  const std::vector<float> logits = {3, 2.6f, 2, -5};
  Sampler presence({.temperature = 0, .presence_penalty = 0.5}, prompt, 4);
  // 3 falls to 2.5 once and no further; 2.6 falls to 2.1.
  EXPECT_EQ(SampleOnce(presence, logits), 0) << "the prompt does not count";
  EXPECT_EQ(SampleOnce(presence, logits), 1);
  EXPECT_EQ(SampleOnce(presence, logits), 0);
  EXPECT_EQ(SampleOnce(presence, logits), 0);
  Sampler frequency({.temperature = 0, .frequency_penalty = 0.5}, prompt, 4);
  // 3; 2.6 beats 2.5; 2.5 beats 2.1; 2.1 beats 2.
  std::vector<int32_t> order;
  order.reserve(4);
  for (int i = 0; i < 4; ++i) order.push_back(SampleOnce(frequency, logits));
  EXPECT_EQ(order, (std::vector<int32_t>{0, 1, 0, 1}));
  // Below 0 they keep to what was said.
  Sampler negative({.temperature = 0, .presence_penalty = -2}, prompt, 4);
  EXPECT_EQ(SampleOnce(negative, {1, 2, 0, 0}), 1);
  EXPECT_EQ(SampleOnce(negative, {3, 2, 0, 0}), 1);
}

TEST(SamplerTest, LogitBiasForbidsAndForces) {
  Sampler sampler({.temperature = 0, .logit_bias = {{1, -100}, {3, 1.5}}}, {}, 4);
  EXPECT_EQ(SampleOnce(sampler, {1, 90, 0, 0}), 3);
  EXPECT_EQ(SampleOnce(sampler, {1, 101, 0, 0}), 3) << "1.5 is above 1";
  EXPECT_EQ(SampleOnce(sampler, {1, 102, 0, 0}), 1);
  // Before the temperature, which makes 2 of the 1.
  const auto seen = Frequencies({.temperature = 0.5, .logit_bias = {{1, -1}}}, {0, 0});
  EXPECT_NEAR(seen.at(1), 1 / (1 + std::exp(2.0)), 0.011);
}

TEST(SamplerTest, BiasComesBehindTheRepetitionPenalty) {
  // 4 / 2 + 1 is 3; (4 + 1) / 2 would be less than 2.8.
  Sampler sampler({.temperature = 0, .repetition_penalty = 2, .logit_bias = {{0, 1}}}, std::vector<int32_t>{0}, 2);
  EXPECT_EQ(SampleOnce(sampler, {4, 2.8f}), 0);
}

TEST(SamplerTest, SeedDecides) {
  std::vector<float> logits(100, 0.0f);
  const auto draw = [&](uint64_t seed) {
    Sampler sampler({.seed = seed}, {}, 100);
    std::vector<int32_t> out;
    out.reserve(20);
    for (int i = 0; i < 20; ++i) out.push_back(SampleOnce(sampler, logits));
    return out;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(SamplerTest, LogprobsAreOfTheModelsOwnDistribution) {
  Sampler sampler({.temperature = 0, .repetition_penalty = 10, .logprobs = 3}, std::vector<int32_t>{1}, 4);
  std::vector<float> logits = kKnown;
  for (float& logit : logits) logit += 7;  // softmax does not see it, the penalty divides positive ones
  const SampledToken chosen = Sample(sampler, logits);
  EXPECT_EQ(chosen.token, 3);
  EXPECT_NEAR(chosen.logprob, std::log(0.3), 1e-5);
  ASSERT_EQ(chosen.top.size(), 3u);
  EXPECT_EQ(chosen.top[0].token, 1);
  EXPECT_NEAR(chosen.top[0].logprob, std::log(0.5), 1e-5);
  EXPECT_EQ(chosen.top[2].token, 0);

  // All of them at once, on one token.
  Sampler all({.temperature = 0,
               .repetition_penalty = 10,
               .logprobs = 4,
               .presence_penalty = 2,
               .frequency_penalty = 2,
               .logit_bias = {{1, -50}, {0, -50}}},
              std::vector<int32_t>{1}, 4);
  for (int i = 0; i < 3; ++i) {
    const SampledToken next = Sample(all, kKnown);
    ASSERT_EQ(next.top.size(), 4u);
    EXPECT_EQ(next.top[0].token, 1);
    EXPECT_NEAR(next.top[0].logprob, std::log(0.5), 1e-5);
    EXPECT_NEAR(next.logprob, kKnown[static_cast<size_t>(next.token)], 1e-5);
  }

  Sampler without({.temperature = 0, .logprobs = 0}, {}, 4);
  const SampledToken bare = Sample(without, kKnown);
  EXPECT_NEAR(bare.logprob, std::log(0.5), 1e-5);
  EXPECT_TRUE(bare.top.empty());
}

std::map<int32_t, double> TooManyBiases() {
  std::map<int32_t, double> biases;
  for (int32_t token = 0; token < 1025; ++token) biases[token] = 1;
  return biases;
}

TEST(SamplingParamsTest, NamesTheFieldThatIsWrong) {
  EXPECT_TRUE(ValidateSamplingParams({}).ok());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::pair<const char*, SamplingParams> bad[] = {
      {"max_tokens", {.max_tokens = 0}},
      {"temperature", {.temperature = -0.1}},
      {"temperature", {.temperature = nan}},
      {"temperature", {.temperature = 1e9}},
      {"top_k", {.top_k = -1}},
      {"top_p", {.top_p = 0}},
      {"top_p", {.top_p = 1.1}},
      {"top_p", {.top_p = nan}},
      {"min_p", {.min_p = 1}},
      {"min_p", {.min_p = -0.1}},
      {"repetition_penalty", {.repetition_penalty = 0}},
      {"repetition_penalty", {.repetition_penalty = 11}},
      {"presence_penalty", {.presence_penalty = 2.1}},
      {"presence_penalty", {.presence_penalty = nan}},
      {"frequency_penalty", {.frequency_penalty = -2.1}},
      {"frequency_penalty", {.frequency_penalty = nan}},
      {"logit_bias of token 7", {.logit_bias = {{3, 1}, {7, 100.5}}}},
      {"logit_bias of token 7", {.logit_bias = {{7, nan}}}},
      {"logit_bias", {.logit_bias = TooManyBiases()}},
      {"logprobs", {.logprobs = 21}},
      {"logprobs", {.logprobs = -2}},
      {"stop", {.stop = {""}}},
      {"stop", {.stop = {std::string(2000, 'x')}}},
      {"stop", {.stop = std::vector<std::string>(17, "x")}},
  };
  for (const auto& [field, params] : bad) {
    const absl::Status status = ValidateSamplingParams(params);
    EXPECT_EQ(ReasonOf(status), "SAMPLING_PARAM");
    EXPECT_THAT(MessageOf(status), HasSubstr(field));
  }
}

}  // namespace
}  // namespace qamserve
