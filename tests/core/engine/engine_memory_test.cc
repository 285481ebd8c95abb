// What only changes when things happen, and never what is said: blocks, the prefix cache, preemption, priorities,
// deadlines, guesses, 8-bit caches; and requests that go wrong beside others that do not.
#include <gmock/gmock.h>

#include <atomic>

#include "tests/core/engine/engine_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class EngineMemoryTest : public EngineTest {
 protected:
  static int64_t BlockBytes(const KvFormat& format = {}) {
    return KvLayout((*model_)->config(), (*model_)->config().num_layers, format).block_bytes();
  }
  static SamplingParams Sampled(uint64_t seed, int32_t tokens) {
    return {.max_tokens = tokens,
            .temperature = 0.8,
            .top_p = 0.95,
            .repetition_penalty = 1.1,
            .seed = seed,
            .ignore_eos = true,
            .logprobs = 2};
  }
  // Answers of `engine` to n requests that are all there before the first one ends.
  static std::vector<std::shared_ptr<Collector>> GenerateAll(Engine& engine, int n, int32_t answer) {
    std::vector<std::shared_ptr<Collector>> sinks;
    for (int i = 0; i < n; ++i) {
      sinks.push_back(std::make_shared<Collector>());
      EXPECT_TRUE(
          engine.Submit(Prompt(20 + 7 * i, 31 * i), Sampled(static_cast<uint64_t>(i), answer), sinks.back()).ok());
    }
    for (const auto& sink : sinks) sink->Wait();
    return sinks;
  }
  // A sink that says when its first token came and then holds the engine's thread until it is let go.
  struct Gate {
    std::promise<void> started;
    std::promise<void> release;
    std::shared_ptr<Collector> sink =
        std::make_shared<Collector>([this, go_on = release.get_future().share()](size_t n) {
          if (n == 1) {
            started.set_value();
            go_on.wait();
          }
          return true;
        });
  };
};

TEST_F(EngineMemoryTest, BlocksOfAnySizeGiveTheSame) {
  const auto wanted = GenerateAll(*Make(), 3, 30);
  for (const int64_t block_tokens : {8, 64, 256}) {
    const auto engine = Make({.kv = {KvType::kF32, block_tokens}});
    const auto answers = GenerateAll(*engine, 3, 30);
    for (size_t i = 0; i < 3; ++i) ExpectSame(*answers[i], *wanted[i]);
    EXPECT_EQ(BlocksLeft(*engine), 0);
  }
}

TEST_F(EngineMemoryTest, APrefixThatIsKnownGivesTheSame) {
  const auto cold = Make({.prefix_cache = false}), warm = Make({.kv = {KvType::kF32, 8}});
  const std::vector<int32_t> prompt = Prompt(90);
  const auto wanted = Generate(*cold, prompt, Sampled(3, 40));
  EXPECT_EQ(cold->stats().prefix_hit_tokens_total, 0);
  ExpectSame(*Generate(*warm, prompt, Sampled(3, 40)), *wanted);
  const auto again = Generate(*warm, prompt, Sampled(3, 40));
  ExpectSame(*again, *wanted);
  EXPECT_EQ(again->summary.cached_prompt_tokens, 88);
  // A conversation that goes on: prompt and answer are known.
  std::vector<int32_t> longer = prompt;
  for (const int32_t token : wanted->tokens()) longer.push_back(token);
  longer.push_back(17);
  const auto next = Generate(*warm, longer, Sampled(4, 20));
  ExpectSame(*next, *Generate(*cold, longer, Sampled(4, 20)));
  EXPECT_EQ(next->summary.cached_prompt_tokens, 128);
  EXPECT_EQ(BlocksLeft(*warm), 0);
  EXPECT_GT(warm->stats().kv_blocks_cached, 10);
  EXPECT_EQ(warm->stats().prefix_hit_tokens_total, 88 + 128);
  EXPECT_EQ(warm->stats().prefix_lookup_tokens_total, 90 + 90 + 131);
  // The same length and the same end, but another beginning.
  std::vector<int32_t> other = prompt;
  other[0] = 100;
  EXPECT_EQ(Generate(*warm, other, Sampled(3, 5))->summary.cached_prompt_tokens, 0);
}

// Memory for less than half of what the requests need in the end.
TEST_F(EngineMemoryTest, PreemptionGivesTheSame) {
  const auto wanted = GenerateAll(*Make(), 6, 60);
  for (const bool prefix_cache : {false, true}) {
    const auto engine = Make({.context_tokens = 128,
                              .kv_bytes = 20 * BlockBytes({KvType::kF32, 8}),
                              .kv = {KvType::kF32, 8},
                              .prefix_cache = prefix_cache});
    const auto answers = GenerateAll(*engine, 6, 60);
    int preemptions = 0;
    for (size_t i = 0; i < 6; ++i) {
      ExpectSame(*answers[i], *wanted[i]);
      preemptions += answers[i]->summary.preemptions;
    }
    EXPECT_GT(preemptions, 0);
    EXPECT_EQ(engine->stats().preemptions_total, preemptions);
    EXPECT_EQ(BlocksLeft(*engine), 0);
    EXPECT_EQ(engine->stats().kv_blocks_total, 20);
  }
}

TEST_F(EngineMemoryTest, TakingTurnsGivesTheSame) {
  const auto wanted = GenerateAll(*Make(), 5, 40);
  const auto answers = GenerateAll(*Make({.max_running = 2, .prefill_tokens = 16, .quantum_tokens = 7}), 5, 40);
  for (size_t i = 0; i < 5; ++i) ExpectSame(*answers[i], *wanted[i]);
}

// Sampling from a few tokens at a low temperature repeats itself, so that guesses are right now and then.
TEST_F(EngineMemoryTest, GuessesGiveTheSame) {
  const auto plain = Make(), guessing = Make({.draft_tokens = 6});
  SamplingParams greedy{.max_tokens = 60, .temperature = 0, .ignore_eos = true, .logprobs = 1};
  SamplingParams sampled{
      .max_tokens = 60, .temperature = 0.7, .top_k = 2, .seed = 5, .ignore_eos = true, .logprobs = 1};
  SamplingParams penalized = Sampled(9, 40);
  penalized.top_k = 3;
  std::vector<int32_t> repeating;
  repeating.reserve(60);
  for (int i = 0; i < 60; ++i) repeating.push_back(20 + i % 6);
  for (const SamplingParams& params : {greedy, sampled, penalized}) {
    for (const auto& prompt : {repeating, Prompt(40)}) {
      ExpectSame(*Generate(*guessing, prompt, params), *Generate(*plain, prompt, params));
    }
  }
  EXPECT_GT(guessing->stats().draft_tokens_total, 30);
  EXPECT_GT(guessing->stats().accepted_draft_tokens_total, 0);
  EXPECT_LT(guessing->stats().accepted_draft_tokens_total, guessing->stats().draft_tokens_total);
  EXPECT_EQ(plain->stats().draft_tokens_total, 0);
  // All requests together, and stop strings.
  const auto wanted = GenerateAll(*plain, 4, 30), answers = GenerateAll(*guessing, 4, 30);
  for (size_t i = 0; i < 4; ++i) ExpectSame(*answers[i], *wanted[i]);
  const std::string text = Generate(*plain, repeating, greedy)->text();
  ASSERT_GT(text.size(), 20u);
  greedy.stop = {text.substr(text.size() - 8)};
  ExpectSame(*Generate(*guessing, repeating, greedy), *Generate(*plain, repeating, greedy));
  EXPECT_EQ(BlocksLeft(*guessing), 0);
}

TEST_F(EngineMemoryTest, EightBitCachesGiveTheSameInAnyCompany) {
  const KvFormat format{KvType::kInt8, 8};
  const auto wanted = Generate(*Make({.kv = format}), Prompt(20, 0), Sampled(0, 30));
  const auto engine =
      Make({.context_tokens = 128, .kv_bytes = 24 * BlockBytes(format), .prefill_tokens = 9, .kv = format});
  const auto answers = GenerateAll(*engine, 5, 30);
  ExpectSame(*answers[0], *wanted);
  EXPECT_LT(BlockBytes(format), BlockBytes({KvType::kF32, 8}) / 2);
  // Close to what floats give, and not the same.
  const auto scores = Make()->Score(Prompt(60)), rounded = Make({.kv = format})->Score(Prompt(60));
  ASSERT_TRUE(scores.ok() && rounded.ok());
  double off = 0;
  for (size_t i = 0; i < scores->size(); ++i) off = std::max(off, std::abs(double{(*scores)[i]} - (*rounded)[i]));
  EXPECT_GT(off, 0);
  EXPECT_LT(off, 0.05);
}

TEST_F(EngineMemoryTest, HigherPrioritiesGoFirst) {
  const auto engine = Make({.max_running = 1});
  Gate gate;
  const SamplingParams params{.max_tokens = 4, .ignore_eos = true};
  ASSERT_TRUE(engine->Submit(Prompt(5), params, gate.sink).ok());
  gate.started.get_future().wait();
  std::vector<int> order;
  std::vector<std::shared_ptr<Collector>> sinks;
  for (const int priority : {-1, 0, 1}) {
    RequestOptions request;
    request.priority = priority;
    sinks.push_back(std::make_shared<Collector>([&order, priority](size_t n) {
      if (n == 4) order.push_back(priority);
      return true;
    }));
    ASSERT_TRUE(engine->Submit(Prompt(5), params, sinks.back(), request).ok());
  }
  gate.release.set_value();
  gate.sink->Wait();
  for (const auto& sink : sinks) sink->Wait();
  EXPECT_EQ(order, (std::vector<int>{1, 0, -1}));
}

TEST_F(EngineMemoryTest, ADeadlineEndsWhoeverRunsOrWaits) {
  const auto engine = Make({.max_running = 1});
  Gate gate;
  RequestOptions soon;
  soon.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(30);
  const SamplingParams params{.max_tokens = 100, .ignore_eos = true};
  auto waiting = std::make_shared<Collector>(), patient = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(Prompt(5), params, gate.sink, soon).ok());
  gate.started.get_future().wait();
  ASSERT_TRUE(engine->Submit(Prompt(5), params, waiting, soon).ok());
  RequestOptions late;
  late.deadline = std::chrono::steady_clock::now() + std::chrono::hours(1);
  ASSERT_TRUE(engine->Submit(Prompt(5), params, patient, late).ok());
  std::this_thread::sleep_until(*soon.deadline);
  gate.release.set_value();
  for (const auto& sink : {gate.sink, waiting, patient}) sink->Wait();
  EXPECT_EQ(gate.sink->summary.reason, FinishReason::kDeadline);
  EXPECT_EQ(gate.sink->summary.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(gate.sink->summary.status), "DEADLINE");
  EXPECT_EQ(gate.sink->events.size(), 1u) << "within a step";
  EXPECT_EQ(waiting->summary.reason, FinishReason::kDeadline);
  EXPECT_EQ(waiting->events.size(), 0u);
  EXPECT_EQ(patient->summary.reason, FinishReason::kLength);
  EXPECT_EQ(patient->events.size(), 100u);
  EXPECT_EQ(BlocksLeft(*engine), 0);
}

TEST_F(EngineMemoryTest, RequestOptionsOutOfTheirLimits) {
  const auto engine = Make();
  for (const int32_t priority : {-101, 101}) {
    RequestOptions request;
    request.priority = priority;
    const absl::Status status = engine->Submit(Prompt(5), {}, std::make_shared<Collector>(), request).status();
    EXPECT_EQ(ReasonOf(status), "REQUEST_OPTION");
    EXPECT_THAT(MessageOf(status), HasSubstr("-100 to 100"));
  }
}

// Some requests are cancelled, some leave, some run into a deadline, while others go on.
TEST_F(EngineMemoryTest, AllBlocksComeBackHoweverRequestsEnd) {
  const auto wanted = GenerateAll(*Make(), 3, 50);
  const auto engine =
      Make({.context_tokens = 128, .kv_bytes = 40 * BlockBytes({KvType::kF32, 8}), .kv = {KvType::kF32, 8}});
  std::vector<std::shared_ptr<Collector>> sinks;
  std::vector<uint64_t> ids;
  for (int i = 0; i < 12; ++i) {
    RequestOptions request;
    if (i % 4 == 1) request.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(3 * i);
    request.priority = i % 2;
    sinks.push_back(
        std::make_shared<Collector>(i % 4 == 2 ? [](size_t n) { return n < 5; } : std::function<bool(size_t)>()));
    const int shape = i % 4 == 0 ? i / 4 : i;
    const auto id = engine->Submit(Prompt(20 + 7 * shape, 31 * shape), Sampled(static_cast<uint64_t>(shape), 50),
                                   sinks.back(), request);
    ASSERT_TRUE(id.ok());
    ids.push_back(*id);
  }
  std::thread canceller([&] {
    for (int i = 3; i < 12; i += 4) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      engine->Cancel(ids[static_cast<size_t>(i)]);
    }
  });
  for (const auto& sink : sinks) sink->Wait();
  canceller.join();
  for (size_t i = 0; i < 3; ++i) ExpectSame(*sinks[4 * i], *wanted[i]);
  EXPECT_EQ(BlocksLeft(*engine), 0);
  EXPECT_EQ(engine->stats().kv_used_ratio, 0);
  EXPECT_EQ(engine->stats().kv_blocks_total, 40);
}

TEST_F(EngineMemoryTest, ScoringFindsItsMemoryBesideRequests) {
  const auto engine =
      Make({.context_tokens = 128, .kv_bytes = 18 * BlockBytes({KvType::kF32, 8}), .kv = {KvType::kF32, 8}});
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int i = 0; i < 8; ++i) {
    sinks.push_back(std::make_shared<Collector>());
    ASSERT_TRUE(engine->Submit(Prompt(30, i), Sampled(1, 60), sinks.back()).ok());
  }
  const auto scores = engine->Score(Prompt(120));
  ASSERT_TRUE(scores.ok()) << MessageOf(scores.status());
  EXPECT_EQ(*scores, *Make()->Score(Prompt(120)));
  for (const auto& sink : sinks) {
    sink->Wait();
    EXPECT_EQ(sink->events.size(), 60u);
  }
  EXPECT_EQ(BlocksLeft(*engine), 0);
}

// A model that token 200 makes overflow: it alone has something in a column that values multiply by too much. That
// spoils every sequence that it is part of, and the blocks of that; none else.
TEST_F(EngineMemoryTest, ASequenceThatGoesWrongSpoilsNoOther) {
  const TempFolder folder;
  TinyModelOptions options{.seed = 3};
  options.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    TinyTensor* embedding = FindTinyTensor(tensors, "model.embed_tokens.weight");
    for (int64_t token = 0; token < 320; ++token)
      embedding->overrides.emplace_back(token * 64 + 5, token == 200 ? 50 : 0);
    TinyTensor* values = FindTinyTensor(tensors, "model.layers.0.self_attn.v_proj.weight");
    for (int64_t row = 0; row < 32; ++row) values->overrides.emplace_back(row * 64 + 5, 3e38f);
  };
  ASSERT_TRUE(WriteTinyModel(options, folder / "model").ok());
  const auto files = FileSet::FromPath(folder / "model");
  ASSERT_TRUE(files.ok());
  const auto model = Model::Load(*files);
  ASSERT_TRUE(model.ok()) << MessageOf(model.status());
  const int64_t block_bytes = BlockBytes({KvType::kF32, 8});
  // So few blocks that those of bad sequences are used again by good ones at once.
  const auto engine = Engine::Create(
      *model, *tokenizer_, {.context_tokens = 64, .kv_bytes = 12 * block_bytes, .threads = 2, .kv = {KvType::kF32, 8}});
  ASSERT_TRUE(engine.ok()) << MessageOf(engine.status());
  const SamplingParams params{.max_tokens = 15, .temperature = 0, .ignore_eos = true, .logprobs = 0};
  const auto wanted = Generate(**engine, Prompt(25), params);
  ASSERT_EQ(wanted->events.size(), 15u);
  for (int round = 0; round < 4; ++round) {
    std::vector<int32_t> bad_prompt = Prompt(30, 50 + round);
    bad_prompt[3] = 200;
    const auto bad = std::make_shared<Collector>(), good = std::make_shared<Collector>();
    ASSERT_TRUE((*engine)->Submit(bad_prompt, params, bad).ok());
    ASSERT_TRUE((*engine)->Submit(Prompt(25), params, good).ok());
    bad->Wait();
    good->Wait();
    EXPECT_EQ(bad->summary.reason, FinishReason::kError);
    EXPECT_EQ(ReasonOf(bad->summary.status), "LOGITS_NOT_FINITE");
    ExpectSame(*good, *wanted);
  }
  EXPECT_EQ(BlocksLeft(**engine), 0);
}

TEST_F(EngineMemoryTest, OptionsOutOfTheirLimits) {
  const std::pair<const char*, EngineOptions> bad[] = {{"kv.block_tokens", {.kv = {KvType::kF32, 12}}},
                                                       {"kv.block_tokens", {.kv = {KvType::kF32, 0}}},
                                                       {"quantum_tokens", {.quantum_tokens = 0}},
                                                       {"draft_tokens", {.draft_tokens = -1}}};
  for (const auto& [field, options] : bad) {
    const auto engine = Engine::Create(*model_, *tokenizer_, options);
    ASSERT_FALSE(engine.ok()) << field;
    EXPECT_EQ(ReasonOf(engine.status()), "ENGINE_OPTION");
    EXPECT_THAT(MessageOf(engine.status()), HasSubstr(field));
  }
}

}  // namespace
}  // namespace qamserve
