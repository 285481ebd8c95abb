// An engine whose model runs on a device: the answers of the CPU whatever the engine does with memory, and an error for
// every request when the device is lost.
#include <gtest/gtest.h>

#include "core/model/cuda/cuda_model.h"
#include "core/model/cuda/open.h"
#include "tests/core/engine/engine_fixture.h"
#include "tests/support/host_forward_device.h"

namespace qamserve {
namespace {

class EngineDeviceTest : public EngineTest {
 protected:
  // On a device without a GPU, which is lost after so many calls once the model is loaded.
  static std::unique_ptr<Engine> MakeOnDevice(EngineOptions options = {}, int64_t calls = INT64_MAX) {
    options.device = "cuda:0";
    options.threads = 1;
    auto engine =
        Engine::Create(*model_, *tokenizer_, options,
                       [calls](std::string_view name, std::shared_ptr<const Model> model, const KvLayout& layout,
                               int64_t blocks, ThreadPool&) -> absl::StatusOr<std::unique_ptr<Forwarder>> {
                         EXPECT_EQ(name, "cuda:0");
                         auto device = std::make_unique<HostForwardDevice>();
                         HostForwardDevice& kept = *device;
                         ASSIGN_OR_RETURN(std::unique_ptr<CudaModel> on_device,
                                          CudaModel::Create(std::move(model), std::move(device), layout, blocks));
                         kept.FailAfter(calls);
                         return on_device;
                       });
    EXPECT_TRUE(engine.ok()) << MessageOf(engine.status());
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
    EXPECT_EQ(ReasonOf(sink->summary.status), "CUDA_ERROR") << sink->summary.status;
    EXPECT_EQ(sink->done_calls, 1);
  }
  EXPECT_EQ(BlocksLeft(*engine), 0);
  // The engine itself lives on, and says the same to whoever comes next.
  EXPECT_EQ(ReasonOf(Generate(*engine, Prompt(5), Sampled(1, 5))->summary.status), "CUDA_ERROR");
  EXPECT_EQ(ReasonOf(engine->Score(Prompt(5)).status()), "CUDA_ERROR");
  EXPECT_EQ(BlocksLeft(*engine), 0);
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
