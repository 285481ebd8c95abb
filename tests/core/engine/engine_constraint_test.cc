// Constraints in an engine: what it says satisfies them, and nobody else notices.
#include <nlohmann/json.hpp>
#include <regex>

#include "tests/core/engine/engine_fixture.h"

namespace qamserve {
namespace {

class EngineConstraintTest : public EngineTest {
 protected:
  static std::shared_ptr<const Constraint> Compile(ConstraintKind kind, const std::string& text) {
    auto constraint = Constraint::Compile({kind, text}, TokenTrie::Create(*tokenizer_));
    EXPECT_TRUE(constraint.ok()) << MessageOf(constraint.status());
    return *constraint;
  }
  static SamplingParams With(std::shared_ptr<const Constraint> constraint, uint64_t seed) {
    SamplingParams params{.max_tokens = 120, .temperature = 1.3, .seed = seed};
    params.constraint = std::move(constraint);
    return params;
  }
};

TEST_F(EngineConstraintTest, AnswersThatEndMatch) {
  const auto engine = Make();
  for (const char* pattern : {"[a-c]{3,8}", "(the|an?) [a-z]{2,5}\\.", "\\d{4}-\\d{2}", "é{1,3}日?"}) {
    const auto constraint = Compile(ConstraintKind::kRegex, pattern);
    for (uint64_t seed = 0; seed < 5; ++seed) {
      const auto sink = Generate(*engine, Prompt(6), With(constraint, seed));
      EXPECT_EQ(sink->summary.reason, FinishReason::kStop) << pattern << MessageOf(sink->summary.status);
      if (std::string_view(pattern).find("é") == std::string_view::npos) {
        EXPECT_TRUE(std::regex_match(sink->text(), std::regex(pattern))) << pattern << ": " << sink->text();
      }
      EXPECT_TRUE(*constraint->Matches(sink->text())) << pattern << ": " << sink->text();
    }
  }
  const auto schema =
      Compile(ConstraintKind::kJsonSchema,
              R"({"properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "array", "items": {"type": "boolean"},
                                  "maxItems": 3}}, "required": ["a", "b"]})");
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const auto sink = Generate(*engine, Prompt(6), With(schema, seed));
    ASSERT_EQ(sink->summary.reason, FinishReason::kStop);
    const auto value = nlohmann::json::parse(sink->text(), nullptr, false);
    EXPECT_TRUE(value.is_object() && value["a"].is_string() && value["b"].is_array()) << sink->text();
  }
}

// Greedy and every sampling option: what is cut comes after the constraint.
TEST_F(EngineConstraintTest, HoldsWithEverySamplingOption) {
  const auto engine = Make();
  const auto constraint = Compile(ConstraintKind::kRegex, "[0-9]{2,4}(,[0-9]{2,4}){3}");
  std::vector<SamplingParams> all(7, With(constraint, 3));
  all[0].temperature = 0;
  all[1].top_k = 1;
  all[2].top_p = 0.1;
  all[3].min_p = 0.9;
  all[4].repetition_penalty = 1.8;
  all[5].presence_penalty = 2;
  all[6].logit_bias = {{kTinyImEnd, 100}, {kTinySpecials + 'z', 100}};
  for (const SamplingParams& params : all) {
    const auto sink = Generate(*engine, Prompt(9), params);
    EXPECT_EQ(sink->summary.reason, FinishReason::kStop);
    EXPECT_TRUE(*constraint->Matches(sink->text())) << sink->text();
  }
}

TEST_F(EngineConstraintTest, NeighboursSayWhatTheySaidBefore) {
  const SamplingParams free{.max_tokens = 40, .temperature = 1.2, .seed = 11, .ignore_eos = true, .logprobs = 3};
  const auto constraint = Compile(ConstraintKind::kJsonObject, "");
  const SamplingParams bound = With(constraint, 5);
  const auto free_alone = Generate(*Make(), Prompt(33), free);
  const auto bound_alone = Generate(*Make(), Prompt(12), bound);
  const auto engine = Make();
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int i = 0; i < 8; ++i) {
    sinks.push_back(std::make_shared<Collector>());
    ASSERT_TRUE(engine->Submit(i % 2 == 0 ? Prompt(33) : Prompt(12), i % 2 == 0 ? free : bound, sinks.back()).ok());
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    sinks[i]->Wait();
    ExpectSame(*sinks[i], i % 2 == 0 ? *free_alone : *bound_alone);
  }
}

TEST_F(EngineConstraintTest, LogprobsAreTheModels) {
  const auto engine = Make();
  SamplingParams params{.max_tokens = 1, .temperature = 0, .ignore_eos = true, .logprobs = 20};
  const auto free = Generate(*engine, Prompt(14), params);
  params.constraint = Compile(ConstraintKind::kRegex, "[0-9]");
  const auto bound = Generate(*engine, Prompt(14), params);
  ASSERT_EQ(bound->events.size(), 1u);
  ASSERT_EQ(bound->events[0].top.size(), 20u);
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(bound->events[0].top[i].token, free->events[0].top[i].token);
    EXPECT_EQ(bound->events[0].top[i].logprob, free->events[0].top[i].logprob);
  }
  EXPECT_LE(bound->events[0].logprob, bound->events[0].top[0].logprob);
}

// Guesses only say when a token comes, and those that the constraint forbids are not taken.
TEST_F(EngineConstraintTest, DraftsChangeNothing) {
  const auto constraint = Compile(ConstraintKind::kRegex, "((ab){6}c){4,5}[a-z]{3}");
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const auto plain = Generate(*Make(), Prompt(10), With(constraint, seed));
    const auto guessed = Generate(*Make({.draft_tokens = 8}), Prompt(10), With(constraint, seed));
    ExpectSame(*guessed, *plain);
    EXPECT_TRUE(*constraint->Matches(guessed->text())) << guessed->text();
    EXPECT_GT(guessed->summary.accepted_draft_tokens, 0);
    EXPECT_LT(guessed->summary.accepted_draft_tokens, guessed->summary.draft_tokens);
  }
}

TEST_F(EngineConstraintTest, PreemptionChangesNothing) {
  const auto constraint = Compile(ConstraintKind::kRegex, "[a-f]{50}");
  const KvFormat format = {KvType::kF32, 8};
  const KvLayout layout((*model_)->config(), (*model_)->config().num_layers, format);
  // Each of them needs 9 blocks in the end.
  const auto engine =
      Make({.context_tokens = 80, .kv_bytes = 14 * layout.block_bytes(), .kv = format, .prefix_cache = false});
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int i = 0; i < 4; ++i) {
    sinks.push_back(std::make_shared<Collector>());
    ASSERT_TRUE(engine->Submit(Prompt(20, 10 * i), With(constraint, static_cast<uint64_t>(i)), sinks.back()).ok());
  }
  const auto roomy = Make();
  int32_t preemptions = 0;
  for (int i = 0; i < 4; ++i) {
    sinks[static_cast<size_t>(i)]->Wait();
    preemptions += sinks[static_cast<size_t>(i)]->summary.preemptions;
    ExpectSame(*sinks[static_cast<size_t>(i)],
               *Generate(*roomy, Prompt(20, 10 * i), With(constraint, static_cast<uint64_t>(i))));
    EXPECT_EQ(sinks[static_cast<size_t>(i)]->text().size(), 50u);
  }
  EXPECT_GT(preemptions, 0);
}

TEST_F(EngineConstraintTest, EndsAsItMust) {
  const auto engine = Make();
  // Nothing can follow: no stop token is needed, and the last token that fits is not cut off.
  SamplingParams params = With(Compile(ConstraintKind::kRegex, "[xyz]{5}"), 1);
  params.ignore_eos = true;
  params.max_tokens = 5;
  auto sink = Generate(*engine, Prompt(5), params);
  EXPECT_EQ(sink->summary.reason, FinishReason::kStop);
  EXPECT_EQ(sink->text().size(), 5u);
  params.max_tokens = 4;
  sink = Generate(*engine, Prompt(5), params);
  EXPECT_EQ(sink->summary.reason, FinishReason::kLength);
  // With ignore_eos it goes on while it can.
  params = With(Compile(ConstraintKind::kRegex, "[xyz]{2,9}"), 1);
  params.ignore_eos = true;
  EXPECT_EQ(Generate(*engine, Prompt(5), params)->text().size(), 9u);
  // A stop string ends it as ever.
  params = With(Compile(ConstraintKind::kRegex, "xxxSTOPyyy"), 1);
  params.stop = {"STOP"};
  sink = Generate(*engine, Prompt(5), params);
  EXPECT_EQ(sink->text(), "xxx");
  EXPECT_EQ(sink->summary.reason, FinishReason::kStop);
  // The empty answer.
  for (const bool ignore_eos : {false, true}) {
    params = With(Compile(ConstraintKind::kRegex, ""), 1);
    params.ignore_eos = ignore_eos;
    sink = Generate(*engine, Prompt(5), params);
    EXPECT_EQ(sink->summary.reason, FinishReason::kStop);
    EXPECT_EQ(sink->text(), "");
    EXPECT_EQ(sink->summary.completion_tokens, 0);
  }
  EXPECT_EQ(BlocksLeft(*engine), 0);
}

TEST_F(EngineConstraintTest, RefusesAConstraintOfAnotherTokenizer) {
  const auto engine = Make();
  const auto other = MakeTinyVocabulary(300);
  const auto tokenizer = Tokenizer::Create({TinyTokenizerJson(other), TinyTokenizerConfigJson(), ""}, "other");
  ASSERT_TRUE(tokenizer.ok());
  const auto foreign = Constraint::Compile({ConstraintKind::kRegex, "a"}, TokenTrie::Create(*tokenizer));
  ASSERT_TRUE(foreign.ok());
  const absl::Status status = engine->Submit(Prompt(5), With(*foreign, 1), std::make_shared<Collector>()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "CONSTRAINT_TOKENIZER");
}

}  // namespace
}  // namespace qamserve
