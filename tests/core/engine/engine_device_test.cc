// An engine whose model runs on a device: the answers of the CPU whatever the engine does with memory, and when the
// device is lost or out of memory an error for the requests that it concerns.
#include <gtest/gtest.h>

#include <algorithm>
#include <future>

#include "core/model/cuda/cuda_model.h"
#include "core/model/cuda/open.h"
#include "tests/core/engine/engine_fixture.h"
#include "tests/support/host_forward_device.h"

namespace qamserve {
namespace {

class EngineDeviceTest : public EngineTest {
 protected:
  // On a device without a GPU, which is lost after so many calls once the model is loaded. `out` is good as long as the
  // engine, for calls while it has nothing to do.
  static std::unique_ptr<Engine> MakeOnDevice(EngineOptions options = {}, int64_t calls = INT64_MAX,
                                              HostForwardDevice** out = nullptr) {
    options.device = "cuda:0";
    options.threads = 1;
    HostForwardDevice* kept = nullptr;
    auto engine =
        Engine::Create(*model_, *tokenizer_, options,
                       [&kept](std::string_view name, std::shared_ptr<const Model> model, const KvLayout& layout,
                               int64_t blocks, ThreadPool&) -> absl::StatusOr<std::unique_ptr<Forwarder>> {
                         EXPECT_EQ(name, "cuda:0");
                         auto device = std::make_unique<HostForwardDevice>();
                         kept = device.get();
                         return CudaModel::Create(std::move(model), std::move(device), layout, blocks);
                       });
    EXPECT_TRUE(engine.ok()) << MessageOf(engine.status());
    kept->FailAfter(calls);
    if (out != nullptr) *out = kept;
    return std::move(*engine);
  }
  static SamplingParams Sampled(uint64_t seed, int32_t tokens) {
    return {.max_tokens = tokens, .temperature = 0.8, .top_p = 0.95, .seed = seed, .ignore_eos = true, .logprobs = 2};
  }
  static std::vector<std::shared_ptr<Collector>> GenerateAll(Engine& engine, int n, int32_t answer) {
    std::vector<std::shared_ptr<Collector>> sinks;
    sinks.reserve(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) {
      sinks.push_back(std::make_shared<Collector>());
      EXPECT_TRUE(
          engine.Submit(Prompt(20 + 7 * i, 31 * i), Sampled(static_cast<uint64_t>(i), answer), sinks.back()).ok());
    }
    for (const auto& sink : sinks) sink->Wait();
    return sinks;
  }
  // Of a kv_bytes that holds so many blocks of 8 tokens.
  static EngineOptions SmallBlocks(int64_t blocks) {
    EngineOptions options;
    options.kv = {KvType::kF32, 8};
    options.kv_bytes = blocks * KvLayout((*model_)->config(), (*model_)->config().num_layers, options.kv).block_bytes();
    return options;
  }
};

TEST_F(EngineDeviceTest, HiddenStatesAreThoseOfTheCpu) {
  const auto cpu = Make(), device = MakeOnDevice();
  const std::vector<int32_t> text = Prompt(50);
  const auto embedding = device->Embed(text);
  ASSERT_TRUE(embedding.ok()) << MessageOf(embedding.status());
  EXPECT_EQ(*embedding, *cpu->Embed(text));
  const auto scores = device->ScoreWithTop(text, 3), wanted = cpu->ScoreWithTop(text, 3);
  ASSERT_TRUE(scores.ok()) << MessageOf(scores.status());
  EXPECT_EQ(scores->logprobs, wanted->logprobs);
  EXPECT_EQ(scores->top[7][2].token, wanted->top[7][2].token);
  const auto compared = device->Compare(*cpu, text, 1);
  ASSERT_TRUE(compared.ok()) << MessageOf(compared.status());
  ASSERT_EQ(compared->size(), 49u);
  for (const TokenComparison& token : *compared) EXPECT_NEAR(token.kl, 0, 1e-12);
}

TEST_F(EngineDeviceTest, AnswersAreThoseOfTheCpu) {
  const auto wanted = GenerateAll(*Make(), 3, 20);
  const auto engine = MakeOnDevice(SmallBlocks(64));
  const auto answers = GenerateAll(*engine, 3, 20);
  for (size_t i = 0; i < 3; ++i) ExpectSame(*answers[i], *wanted[i]);
  EXPECT_EQ(BlocksLeft(*engine), 0);
}

TEST_F(EngineDeviceTest, KnownPrefixesPreemptionAndGuessesChangeNothing) {
  const auto wanted = GenerateAll(*Make(), 3, 30);
  EngineOptions options = SmallBlocks(14);  // 112 tokens; the three would have 170
  options.prefill_tokens = 11;
  options.draft_tokens = 4;
  const auto engine = MakeOnDevice(options);
  int32_t preemptions = 0;
  for (int round = 0; round < 2; ++round) {
    const auto answers = GenerateAll(*engine, 3, 30);
    for (size_t i = 0; i < 3; ++i) {
      ExpectSame(*answers[i], *wanted[i]);
      preemptions += answers[i]->summary.preemptions;
    }
  }
  EXPECT_GT(preemptions, 0);
  EXPECT_GT(engine->stats().prefix_hit_tokens_total, 0);
  EXPECT_EQ(BlocksLeft(*engine), 0);
}

// Everything that a sampler can be asked for, alone and with guesses: the choice is made on the device.
TEST_F(EngineDeviceTest, ChoicesAreThoseOfTheCpu) {
  const auto constraint =
      Constraint::Compile({ConstraintKind::kRegex, "[a-c]{3,20}(x|yz)[a-z ]{9}"}, TokenTrie::Create(*tokenizer_));
  ASSERT_TRUE(constraint.ok());
  std::vector<SamplingParams> all(8, Sampled(5, 25));
  all[0].temperature = 0;
  all[1].top_p = 1;
  all[2].top_k = 3;
  all[3].min_p = 0.2;
  all[4].repetition_penalty = 1.7;
  all[5].presence_penalty = all[5].frequency_penalty = 0.9;
  all[6].logit_bias = {{40, 3}, {41, -100}};
  all[7].constraint = *constraint;
  all[7].ignore_eos = false;
  EngineOptions guessing = SmallBlocks(64);
  guessing.draft_tokens = 5;
  const auto cpu = Make(), plain = MakeOnDevice(SmallBlocks(64)), drafting = MakeOnDevice(guessing);
  int32_t accepted = 0;
  for (SamplingParams& params : all) {
    for (const int32_t logprobs : {-1, 20}) {
      params.logprobs = logprobs;
      const auto wanted = Generate(*cpu, Prompt(30), params);
      EXPECT_GT(wanted->events.size(), 3u);
      ExpectSame(*Generate(*plain, Prompt(30), params), *wanted);
      const auto guessed = Generate(*drafting, Prompt(30), params);
      ExpectSame(*guessed, *wanted);
      accepted += guessed->summary.accepted_draft_tokens;
    }
  }
  EXPECT_GT(accepted, 0);
}

TEST_F(EngineDeviceTest, ScoresAreThoseOfTheCpu) {
  const std::vector<int32_t> text = Prompt(60);
  const auto wanted = Make()->Score(text), got = MakeOnDevice(SmallBlocks(16))->Score(text);
  ASSERT_TRUE(wanted.ok() && got.ok()) << wanted.status() << got.status();
  EXPECT_EQ(*got, *wanted);
}

TEST_F(EngineDeviceTest, ALostDeviceEndsRequestsWithItsErrorAndGivesBlocksBack) {
  const auto engine = MakeOnDevice(SmallBlocks(64), 300);  // some steps into the answers
  for (const auto& sink : GenerateAll(*engine, 3, 100)) {
    EXPECT_EQ(sink->summary.reason, FinishReason::kError);
    EXPECT_EQ(ReasonOf(sink->summary.status), "CUDA_LOST") << sink->summary.status;
    EXPECT_EQ(sink->done_calls, 1);
  }
  EXPECT_EQ(BlocksLeft(*engine), 0);
  // The engine itself lives on, and says the same to whoever comes next.
  EXPECT_EQ(ReasonOf(Generate(*engine, Prompt(5), Sampled(1, 5))->summary.status), "CUDA_LOST");
  EXPECT_EQ(ReasonOf(engine->Score(Prompt(5)).status()), "CUDA_LOST");
  EXPECT_EQ(BlocksLeft(*engine), 0);
}

// Wherever in a step it is lost: in the middle of feeding, of the head, of choosing.
TEST_F(EngineDeviceTest, ADeviceThatIsLostAnywhereEndsEveryRequestOnce) {
  const auto wanted = GenerateAll(*Make(), 2, 8);
  int whole = 0;
  for (int64_t calls = 0; whole == 0; calls += 23) {
    const auto engine = MakeOnDevice(SmallBlocks(64), calls);
    const auto sinks = GenerateAll(*engine, 2, 8);
    for (size_t i = 0; i < sinks.size(); ++i) {
      EXPECT_EQ(sinks[i]->done_calls, 1) << calls;
      const bool ended = sinks[i]->summary.reason == FinishReason::kLength;
      EXPECT_EQ(ReasonOf(sinks[i]->summary.status), ended ? "" : "CUDA_LOST") << calls;
      // What was said before was right.
      const std::vector<int32_t> said = sinks[i]->tokens(), all = wanted[i]->tokens();
      EXPECT_TRUE(said.size() <= all.size() && std::equal(said.begin(), said.end(), all.begin())) << calls;
      whole += ended && i == 1 ? 1 : 0;
    }
    EXPECT_EQ(BlocksLeft(*engine), 0) << calls;
    ASSERT_LT(calls, 100'000);
  }
}

// What steps need was taken when the model was loaded.
TEST_F(EngineDeviceTest, NoStepAsksTheDeviceForMemory) {
  HostForwardDevice* device = nullptr;
  EngineOptions options = SmallBlocks(64);
  options.draft_tokens = 4;
  const auto engine = MakeOnDevice(options, INT64_MAX, &device);
  device->LimitMemory(0);
  const auto wanted = GenerateAll(*Make(), 5, 30), answers = GenerateAll(*engine, 5, 30);
  for (size_t i = 0; i < answers.size(); ++i) ExpectSame(*answers[i], *wanted[i]);
  SamplingParams params = Sampled(3, 20);
  params.repetition_penalty = 1.2;
  EXPECT_EQ(Generate(*engine, Prompt(200), params)->events.size(), 20u);
  EXPECT_TRUE(engine->ScoreWithTop(Prompt(220), 20).ok());
}

// Steps that come again are kept as graphs; where there is no memory for them answers are the same, and it is told.
TEST_F(EngineDeviceTest, WithoutGraphsAnswersAreTheSame) {
  const auto wanted = GenerateAll(*Make(), 3, 20);
  for (const bool refused : {false, true}) {
    HostForwardDevice* device = nullptr;
    const auto engine = MakeOnDevice(SmallBlocks(64), INT64_MAX, &device);
    if (refused) device->RefuseGraphs();
    const auto answers = GenerateAll(*engine, 3, 20);
    for (size_t i = 0; i < answers.size(); ++i) ExpectSame(*answers[i], *wanted[i]);
    EXPECT_EQ(BlocksLeft(*engine), 0);  // the engine rests, and has told what it did
    EXPECT_EQ(device->repeats() > 0, !refused);
    EXPECT_EQ(device->graphs_refused() > 0, refused);
    EXPECT_EQ(engine->stats().graphs_refused_total, device->graphs_refused());
  }
}

// A step that nevertheless lacks it ends the request that fed most of it, and no other.
TEST_F(EngineDeviceTest, AStepWithoutMemoryEndsTheLargestOfItsRequestsAndNoOther) {
  const auto wanted = GenerateAll(*Make(), 3, 12);  // the last has the longest prompt
  for (const int64_t calls : {0, 5, 25}) {
    HostForwardDevice* device = nullptr;
    const auto engine = MakeOnDevice(SmallBlocks(64), INT64_MAX, &device);
    std::promise<void> started, go_on;
    const auto first = std::make_shared<Collector>([&](size_t n) {
      if (n == 1) {  // the others wait: the next step has all three
        started.set_value();
        go_on.get_future().wait();
        device->LackMemoryAfter(calls);
      }
      return true;
    });
    ASSERT_TRUE(engine->Submit(Prompt(20, 0), Sampled(0, 12), first).ok());
    started.get_future().wait();
    const auto second = std::make_shared<Collector>(), third = std::make_shared<Collector>();
    ASSERT_TRUE(engine->Submit(Prompt(27, 31), Sampled(1, 12), second).ok());
    ASSERT_TRUE(engine->Submit(Prompt(34, 62), Sampled(2, 12), third).ok());
    go_on.set_value();
    for (const auto& sink : {first, second, third}) sink->Wait();
    EXPECT_EQ(third->summary.reason, FinishReason::kError) << calls;
    EXPECT_EQ(ReasonOf(third->summary.status), "CUDA_MEMORY") << calls;
    EXPECT_EQ(third->events.size(), 0u);
    ExpectSame(*first, *wanted[0]);
    ExpectSame(*second, *wanted[1]);
    EXPECT_EQ(BlocksLeft(*engine), 0);
  }
}

TEST_F(EngineDeviceTest, ADeviceTooSmallForItsStepsIsRefused) {
  EngineOptions options = SmallBlocks(64);
  options.device = "cuda:0";
  const auto engine =
      Engine::Create(*model_, *tokenizer_, options,
                     [](std::string_view, std::shared_ptr<const Model> model, const KvLayout& layout, int64_t blocks,
                        ThreadPool&) -> absl::StatusOr<std::unique_ptr<Forwarder>> {
                       auto device = std::make_unique<HostForwardDevice>();
                       HostForwardDevice& kept = *device;
                       ASSIGN_OR_RETURN(std::unique_ptr<CudaModel> on_device,
                                        CudaModel::Create(std::move(model), std::move(device), layout, blocks));
                       kept.LimitMemory(100'000);
                       return on_device;
                     });
  EXPECT_EQ(ReasonOf(engine.status()), "CUDA_MEMORY");
  EXPECT_NE(MessageOf(engine.status()).find("for steps of"), std::string::npos) << engine.status();
}

TEST_F(EngineDeviceTest, DevicesThatAreNotThereAreRefused) {
  const auto create = [](const std::string& device) {
    EngineOptions options;
    options.device = device;
    return Engine::Create(*model_, *tokenizer_, options).status();
  };
  for (const char* name : {"", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:0x", "CPU"}) {
    EXPECT_EQ(ReasonOf(create(name)), "DEVICE_NAME") << name;
  }
  const absl::Status none = create("cuda:1000");
  EXPECT_FALSE(none.ok());
  EXPECT_NE(ReasonOf(none), "DEVICE_NAME") << none;
}

}  // namespace
}  // namespace qamserve
