// A system that runs out of memory in the middle of a batch. A program of its own, because limited_memory.cc replaces
// operator new.
#include "tests/core/engine/engine_fixture.h"
#include "tests/core/engine/limited_memory.h"

namespace qamserve {
namespace {

class EngineFaultTest : public EngineTest {
 protected:
  void TearDown() override { LimitPieces(kNoLimit); }

  static SamplingParams Greedy(int32_t tokens) {
    return {.max_tokens = tokens, .temperature = 0, .ignore_eos = true, .logprobs = 1};
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

// 200 tokens take activations of 100 kB; the prompts and answers beside them take a tenth of that.
TEST_F(EngineFaultTest, AStepWithoutMemoryEndsTheLargestOfItsRequestsAndNoOther) {
  const auto wanted = Generate(*Make(), Prompt(20), Greedy(40));
  const auto small = Generate(*Make(), Prompt(9), Greedy(15));
  const auto engine = Make();
  Gate running;
  ASSERT_TRUE(engine->Submit(Prompt(20), Greedy(40), running.sink).ok());
  running.started.get_future().wait();
  LimitPieces(40'000);
  const auto large = std::make_shared<Collector>(), beside = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(Prompt(200), Greedy(10), large).ok());
  ASSERT_TRUE(engine->Submit(Prompt(9), Greedy(15), beside).ok());
  running.release.set_value();
  for (const auto& sink : {running.sink, large, beside}) sink->Wait();
  LimitPieces(kNoLimit);

  EXPECT_EQ(large->summary.reason, FinishReason::kError);
  EXPECT_EQ(large->summary.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(large->summary.status), "STEP_MEMORY");
  EXPECT_EQ(large->events.size(), 0u);
  ExpectSame(*running.sink, *wanted);
  ExpectSame(*beside, *small);
  EXPECT_EQ(BlocksLeft(*engine), 0);
  EXPECT_EQ(engine->stats().prompt_tokens_total, 29) << "what was not computed does not count";
  // Later, with memory, it is a request like any other.
  ExpectSame(*Generate(*engine, Prompt(200), Greedy(10)), *Generate(*Make(), Prompt(200), Greedy(10)));
}

// Several that are too large end one after the other.
TEST_F(EngineFaultTest, EveryRequestThatIsTooLargeEnds) {
  const auto engine = Make();
  LimitPieces(20'000);
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int i = 0; i < 4; ++i) {
    sinks.push_back(std::make_shared<Collector>());
    ASSERT_TRUE(engine->Submit(Prompt(100 + i), Greedy(5), sinks.back()).ok());
  }
  for (const auto& sink : sinks) sink->Wait();
  LimitPieces(kNoLimit);
  int failed = 0;
  for (const auto& sink : sinks) failed += ReasonOf(sink->summary.status) == "STEP_MEMORY" ? 1 : 0;
  EXPECT_GT(failed, 0);
  EXPECT_EQ(BlocksLeft(*engine), 0);
  EXPECT_EQ(Generate(*engine, Prompt(100), Greedy(5))->events.size(), 5u);
}

// Sorting candidates takes 4 kB, everything else of these requests less than 3.
TEST_F(EngineFaultTest, AChoiceWithoutMemoryEndsItsRequestOnly) {
  const auto wanted = Generate(*Make(), Prompt(2), Greedy(20));
  const auto engine = Make();
  Gate running;
  ASSERT_TRUE(engine->Submit(Prompt(2), Greedy(20), running.sink).ok());
  running.started.get_future().wait();
  SamplingParams sampled = Greedy(20);
  sampled.temperature = 1;
  sampled.top_p = 0.9;
  const auto choosy = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(Prompt(2), sampled, choosy).ok());
  LimitPieces(3'000);
  running.release.set_value();
  running.sink->Wait();
  choosy->Wait();
  LimitPieces(kNoLimit);
  EXPECT_EQ(choosy->summary.reason, FinishReason::kError);
  EXPECT_EQ(ReasonOf(choosy->summary.status), "STEP_MEMORY");
  EXPECT_EQ(choosy->events.size(), 0u);
  ExpectSame(*running.sink, *wanted);
  EXPECT_EQ(BlocksLeft(*engine), 0);
  EXPECT_EQ(Generate(*engine, Prompt(2), sampled)->events.size(), 20u);
}

TEST_F(EngineFaultTest, AScoreWithoutMemoryEndsAlone) {
  const auto wanted = Generate(*Make(), Prompt(20), Greedy(40));
  const auto engine = Make();
  Gate running;
  ASSERT_TRUE(engine->Submit(Prompt(20), Greedy(40), running.sink).ok());
  running.started.get_future().wait();
  const std::vector<int32_t> text = Prompt(200);
  LimitPieces(40'000);
  running.release.set_value();
  const auto scores = engine->Score(text);
  running.sink->Wait();
  LimitPieces(kNoLimit);
  EXPECT_EQ(ReasonOf(scores.status()), "STEP_MEMORY") << scores.status();
  ExpectSame(*running.sink, *wanted);
  EXPECT_EQ(BlocksLeft(*engine), 0);
  EXPECT_TRUE(engine->Score(text).ok());
}

}  // namespace
}  // namespace qamserve
