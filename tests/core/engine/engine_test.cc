#include "core/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <ctime>
#include <future>
#include <thread>

#include "tests/core/engine/engine_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

TEST_F(EngineTest, GreedyFollowsTheModel) {
  const auto engine = Make();
  const auto sink = Generate(*engine, Prompt(20), {.max_tokens = 30, .temperature = 0, .ignore_eos = true});
  EXPECT_EQ(sink->tokens(), GreedyReference(Prompt(20), 30));
  EXPECT_EQ(sink->summary.reason, FinishReason::kLength);
  EXPECT_EQ(sink->summary.prompt_tokens, 20);
  EXPECT_EQ(sink->summary.completion_tokens, 30);
  StreamDecoder decoder(**tokenizer_);
  std::string text;
  for (const int32_t token : sink->tokens()) text += decoder.Add(token);
  EXPECT_EQ(sink->text(), text + decoder.Flush());
  EXPECT_GE(sink->summary.total_seconds, sink->summary.time_to_first_token_seconds);
}

TEST_F(EngineTest, PrefillInPiecesGivesTheSame) {
  const SamplingParams params{.max_tokens = 12, .ignore_eos = true, .logprobs = 2};
  const auto whole = Generate(*Make(), Prompt(100), params);
  for (const int32_t piece : {1, 7, 99}) {
    const auto pieces = Generate(*Make({.prefill_tokens = piece}), Prompt(100), params);
    EXPECT_EQ(pieces->tokens(), whole->tokens());
    for (size_t i = 0; i < whole->events.size(); ++i) EXPECT_EQ(pieces->events[i].logprob, whole->events[i].logprob);
  }
}

TEST_F(EngineTest, CompanyInTheBatchChangesNothing) {
  const SamplingParams params{
      .max_tokens = 40, .temperature = 1.2, .top_p = 0.95, .seed = 11, .ignore_eos = true, .logprobs = 3};
  const auto alone = Generate(*Make(), Prompt(33), params);
  ASSERT_EQ(alone->events.size(), 40u);

  const auto engine = Make({.prefill_tokens = 16, .threads = 2});
  std::vector<std::shared_ptr<Collector>> others;
  const auto submit = [&](int i) {
    SamplingParams other{.max_tokens = 10 + 9 * i,
                         .temperature = 0.5 + 0.2 * i,
                         .seed = 100u + static_cast<uint64_t>(i),
                         .ignore_eos = true};
    others.push_back(std::make_shared<Collector>());
    ASSERT_TRUE(engine->Submit(Prompt(5 + 13 * i, 40 * i), other, others.back()).ok());
  };
  for (int i = 0; i < 4; ++i) submit(i);
  const auto among = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(Prompt(33), params, among).ok());
  for (int i = 4; i < 7; ++i) submit(i);
  among->Wait();
  for (const auto& other : others) other->Wait();

  EXPECT_EQ(among->tokens(), alone->tokens());
  for (size_t i = 0; i < alone->events.size(); ++i) {
    EXPECT_EQ(among->events[i].logprob, alone->events[i].logprob) << i;
    ASSERT_EQ(among->events[i].top.size(), 3u);
    for (size_t k = 0; k < 3; ++k) EXPECT_EQ(among->events[i].top[k].logprob, alone->events[i].top[k].logprob);
  }
}

TEST_F(EngineTest, SeedDecides) {
  const auto engine = Make();
  SamplingParams params{.max_tokens = 20, .temperature = 2, .seed = 5, .ignore_eos = true};
  const auto first = Generate(*engine, Prompt(8), params);
  EXPECT_EQ(Generate(*engine, Prompt(8), params)->tokens(), first->tokens());
  params.seed = 6;
  EXPECT_NE(Generate(*engine, Prompt(8), params)->tokens(), first->tokens());
}

TEST_F(EngineTest, StopTokenEndsAndIsNotSent) {
  // A seed whose sampled answer meets the stop token: at this temperature each token is one of 320 nearly evenly.
  const auto engine = Make();
  SamplingParams params{.max_tokens = 200, .temperature = 50, .ignore_eos = true};
  for (params.seed = 0; params.seed < 50; ++params.seed) {
    const auto free = Generate(*engine, Prompt(4), params);
    const std::vector<int32_t> tokens = free->tokens();
    const auto eos = std::find(tokens.begin(), tokens.end(), kTinyImEnd);
    if (eos == tokens.end()) continue;
    SamplingParams stopping = params;
    stopping.ignore_eos = false;
    const auto sink = Generate(*engine, Prompt(4), stopping);
    EXPECT_EQ(sink->summary.reason, FinishReason::kStop);
    EXPECT_LE(sink->tokens().size(), static_cast<size_t>(eos - tokens.begin()));
    EXPECT_EQ(sink->tokens(),
              std::vector<int32_t>(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(sink->tokens().size())));
    EXPECT_EQ(sink->summary.completion_tokens, static_cast<int32_t>(sink->tokens().size()));
    return;
  }
  FAIL() << "no seed met the stop token";
}

TEST_F(EngineTest, StopStringIsNeverSent) {
  const auto engine = Make();
  SamplingParams params{.max_tokens = 60, .temperature = 0.9, .seed = 2, .ignore_eos = true};
  const std::string text = Generate(*engine, Prompt(16), params)->text();
  ASSERT_GT(text.size(), 12u);
  // A piece of the middle that a token boundary may well cut.
  size_t at = text.size() / 2;
  while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  size_t end = std::min(text.size(), at + 5);
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
  const std::string stop = text.substr(at, end - at);
  params.stop = {stop};
  const auto sink = Generate(*engine, Prompt(16), params);
  EXPECT_EQ(sink->summary.reason, FinishReason::kStop);
  EXPECT_EQ(sink->text(), text.substr(0, text.find(stop)));
  EXPECT_EQ(sink->summary.trailing_text, "");
}

TEST_F(EngineTest, TextHeldBackComesAtTheEnd) {
  const auto engine = Make();
  SamplingParams params{.max_tokens = 20, .temperature = 0, .ignore_eos = true};
  const std::string text = Generate(*engine, Prompt(9), params)->text();
  params.stop = {text.substr(text.size() - 1) + std::string("never said")};
  const auto sink = Generate(*engine, Prompt(9), params);
  EXPECT_EQ(sink->summary.reason, FinishReason::kLength);
  EXPECT_EQ(sink->text(), text);
  EXPECT_NE(sink->summary.trailing_text, "");
}

TEST_F(EngineTest, ContextFullIsLength) {
  const auto engine = Make({.context_tokens = 32});
  EXPECT_EQ(engine->context_tokens(), 32);
  const auto sink = Generate(*engine, Prompt(30), {.max_tokens = 100, .temperature = 0, .ignore_eos = true});
  EXPECT_EQ(sink->summary.reason, FinishReason::kLength);
  EXPECT_EQ(sink->summary.completion_tokens, 2);
  EXPECT_EQ(Generate(*engine, Prompt(31), {.ignore_eos = true})->summary.completion_tokens, 1);
}

TEST_F(EngineTest, RefusesAtOnce) {
  const auto engine = Make({.context_tokens = 32});
  const auto reason = [&](const std::vector<int32_t>& prompt, const SamplingParams& params) {
    auto sink = std::make_shared<Collector>();
    const absl::Status status = engine->Submit(prompt, params, sink).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return ReasonOf(status);
  };
  EXPECT_EQ(reason({}, {}), "PROMPT_EMPTY");
  EXPECT_EQ(reason(Prompt(32), {}), "PROMPT_TOO_LONG");
  EXPECT_EQ(reason({5, 320}, {}), "PROMPT_TOKEN");
  EXPECT_EQ(reason({-1}, {}), "PROMPT_TOKEN");
  EXPECT_EQ(reason(Prompt(3), {.temperature = -1}), "SAMPLING_PARAM");
  EXPECT_EQ(reason(Prompt(3), {.logit_bias = {{320, 1}}}), "SAMPLING_PARAM");
  EXPECT_EQ(reason(Prompt(3), {.logit_bias = {{-1, 1}}}), "SAMPLING_PARAM");
  EXPECT_EQ(ReasonOf(engine->ScoreWithTop(Prompt(3), 21).status()), "SAMPLING_PARAM");
  EXPECT_EQ(ReasonOf(engine->ScoreWithTop(Prompt(3), -1).status()), "SAMPLING_PARAM");
  EXPECT_EQ(ReasonOf(engine->Score(Prompt(33)).status()), "PROMPT_TOO_LONG");
  EXPECT_EQ(ReasonOf(engine->Score({}).status()), "PROMPT_EMPTY");
}

TEST_F(EngineTest, OptionsOutOfTheirLimits) {
  const std::pair<const char*, EngineOptions> bad[] = {
      {"max_running", {.max_running = 0}},
      {"prefill_tokens", {.prefill_tokens = 0}},
      {"context_tokens", {.context_tokens = 257}},
      {"kv_bytes", {.kv_bytes = 10}},
      {"kv_bytes", {.context_tokens = 256, .kv_bytes = KvCache::BytesFor((*model_)->config(), 224)}},
      {"threads", {.threads = -1}}};
  for (const auto& [field, options] : bad) {
    const auto engine = Engine::Create(*model_, *tokenizer_, options);
    ASSERT_FALSE(engine.ok()) << field;
    EXPECT_EQ(ReasonOf(engine.status()), "ENGINE_OPTION");
    EXPECT_THAT(MessageOf(engine.status()), HasSubstr(field));
  }
  const int64_t half = KvCache::BytesFor((*model_)->config(), 128);
  const auto fitted = Engine::Create(*model_, *tokenizer_, {.kv_bytes = half, .threads = 1});
  ASSERT_TRUE(fitted.ok());
  EXPECT_LE((*fitted)->context_tokens(), 128);
  EXPECT_GT((*fitted)->context_tokens(), 100);
}

TEST_F(EngineTest, SinkThatReturnsFalseEndsItsRequestOnly) {
  const auto engine = Make();
  auto impatient = std::make_shared<Collector>([](size_t n) { return n < 3; });
  auto patient = std::make_shared<Collector>();
  const SamplingParams params{.max_tokens = 30, .ignore_eos = true};
  ASSERT_TRUE(engine->Submit(Prompt(5), params, impatient).ok());
  ASSERT_TRUE(engine->Submit(Prompt(5), params, patient).ok());
  impatient->Wait();
  patient->Wait();
  EXPECT_EQ(impatient->summary.reason, FinishReason::kCancelled);
  EXPECT_EQ(impatient->events.size(), 3u);
  EXPECT_EQ(patient->events.size(), 30u);
}

TEST_F(EngineTest, CancelRunningAndWaiting) {
  const auto engine = Make({.max_running = 1});
  std::promise<void> started;
  std::shared_future<void> go_on;
  std::promise<void> release;
  go_on = release.get_future().share();
  auto running = std::make_shared<Collector>([&](size_t n) {
    if (n == 1) {
      started.set_value();
      go_on.wait();
    }
    return true;
  });
  auto waiting = std::make_shared<Collector>();
  const SamplingParams params{.max_tokens = 100, .ignore_eos = true};
  const auto first = engine->Submit(Prompt(5), params, running);
  started.get_future().wait();
  const auto second = engine->Submit(Prompt(5), params, waiting);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(engine->stats().waiting, 1);
  EXPECT_EQ(engine->stats().running, 1);
  EXPECT_GT(engine->stats().kv_used_ratio, 0);
  engine->Cancel(*first);
  engine->Cancel(*second);
  engine->Cancel(12345);
  release.set_value();
  running->Wait();
  waiting->Wait();
  EXPECT_EQ(running->summary.reason, FinishReason::kCancelled);
  EXPECT_EQ(running->events.size(), 1u);
  EXPECT_EQ(waiting->summary.reason, FinishReason::kCancelled);
  EXPECT_EQ(waiting->events.size(), 0u);
  EXPECT_EQ(waiting->done_calls, 1);
  // All memory came back.
  EXPECT_EQ(Generate(*engine, Prompt(5), params)->events.size(), 100u);
}

TEST_F(EngineTest, QueueHasALimit) {
  const auto engine = Make({.max_running = 1, .max_waiting = 2});
  std::promise<void> started, release;
  auto go_on = release.get_future().share();
  auto running = std::make_shared<Collector>([&](size_t n) {
    if (n == 1) {
      started.set_value();
      go_on.wait();
    }
    return true;
  });
  const SamplingParams params{.max_tokens = 2, .ignore_eos = true};
  ASSERT_TRUE(engine->Submit(Prompt(5), params, running).ok());
  started.get_future().wait();
  std::vector<std::shared_ptr<Collector>> queued = {std::make_shared<Collector>(), std::make_shared<Collector>()};
  for (const auto& sink : queued) ASSERT_TRUE(engine->Submit(Prompt(5), params, sink).ok());
  const absl::Status refused = engine->Submit(Prompt(5), params, std::make_shared<Collector>()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), "QUEUE_FULL");
  release.set_value();
  for (const auto& sink : queued) {
    sink->Wait();
    EXPECT_EQ(sink->events.size(), 2u);
    EXPECT_GT(sink->summary.queue_seconds, 0);
  }
}

// With memory for one and a half requests, the second starts when the first has ended; all of them end.
TEST_F(EngineTest, AdmissionByMemory) {
  const int64_t one = KvCache::BytesFor((*model_)->config(), 64);
  const auto engine = Make({.context_tokens = 64, .kv_bytes = one + one / 2});
  std::atomic<int> running{0}, most{0};
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int i = 0; i < 5; ++i) {
    sinks.push_back(std::make_shared<Collector>([&](size_t n) {
      if (n == 1) most = std::max(most.load(), ++running);
      if (n == 20) --running;
      return true;
    }));
    ASSERT_TRUE(engine->Submit(Prompt(40), {.max_tokens = 20, .ignore_eos = true}, sinks.back()).ok());
  }
  for (const auto& sink : sinks) {
    sink->Wait();
    EXPECT_EQ(sink->events.size(), 20u);
  }
  EXPECT_EQ(most, 1);
}

TEST_F(EngineTest, DestructionEndsEveryRequest) {
  std::vector<std::shared_ptr<Collector>> sinks;
  {
    const auto engine = Make({.max_running = 2});
    for (int i = 0; i < 6; ++i) {
      sinks.push_back(std::make_shared<Collector>());
      ASSERT_TRUE(engine->Submit(Prompt(100), {.max_tokens = 150, .ignore_eos = true}, sinks.back()).ok());
    }
  }
  int cancelled = 0;
  for (const auto& sink : sinks) {
    sink->Wait();
    EXPECT_EQ(sink->done_calls, 1);
    cancelled += sink->summary.reason == FinishReason::kCancelled ? 1 : 0;
  }
  EXPECT_GT(cancelled, 0);
}

TEST_F(EngineTest, ScoreIsTheModelsLogProbability) {
  const auto engine = Make({.prefill_tokens = 16});
  const std::vector<int32_t> tokens = Prompt(50);
  // Beside running requests.
  auto other = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(Prompt(20), {.max_tokens = 60, .ignore_eos = true}, other).ok());
  const auto scores = engine->Score(tokens);
  ASSERT_TRUE(scores.ok()) << MessageOf(scores.status());
  ASSERT_EQ(scores->size(), 49u);

  ThreadPool pool(1);
  Workspace workspace;
  KvCache cache((*model_)->config(), 64);
  const SequenceChunk chunk{tokens, &cache, /*all_logits=*/true};
  std::vector<float> logits;
  ASSERT_TRUE((*model_)->Forward(std::span(&chunk, 1), workspace, pool, logits).ok());
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    double sum = 0;
    for (size_t v = 0; v < 320; ++v) sum += std::exp(double{logits[i * 320 + v]});
    EXPECT_NEAR((*scores)[i], logits[i * 320 + static_cast<size_t>(tokens[i + 1])] - std::log(sum), 1e-5) << i;
  }
  EXPECT_EQ(engine->Score(Prompt(1))->size(), 0u);
  other->Wait();
}

TEST_F(EngineTest, ScoreAndGenerateAgree) {
  const auto engine = Make();
  const auto sink = Generate(*engine, Prompt(10), {.max_tokens = 20, .ignore_eos = true, .logprobs = 0});
  std::vector<int32_t> all = Prompt(10);
  for (const int32_t token : sink->tokens()) all.push_back(token);
  const auto scores = engine->Score(all);
  ASSERT_TRUE(scores.ok());
  for (size_t i = 0; i < 20; ++i) EXPECT_EQ((*scores)[9 + i], sink->events[i].logprob) << i;
}

TEST_F(EngineTest, SinkMayCallTheEngine) {
  const auto engine = Make();
  auto inner = std::make_shared<Collector>();
  auto outer = std::make_shared<Collector>([&](size_t n) {
    const SamplingParams params{.max_tokens = 3, .ignore_eos = true};
    return n != 2 || engine->Submit(Prompt(4), params, inner).ok();
  });
  ASSERT_TRUE(engine->Submit(Prompt(4), {.max_tokens = 5, .ignore_eos = true}, outer).ok());
  outer->Wait();
  inner->Wait();
  EXPECT_EQ(inner->events.size(), 3u);
}

TEST_F(EngineTest, ManyThreadsSubmitAndCancel) {
  const auto engine = Make({.max_running = 4, .max_waiting = 1000});
  std::vector<std::thread> threads;
  threads.reserve(4);
  std::atomic<int> done{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 15; ++i) {
        auto sink = std::make_shared<Collector>();
        const auto id = engine->Submit(Prompt(3 + i, t), {.max_tokens = 8, .ignore_eos = true}, sink);
        ASSERT_TRUE(id.ok());
        if (i % 3 == 0) engine->Cancel(*id);
        if (i % 5 == 0) {
          EXPECT_TRUE(engine->Score(Prompt(6)).ok());
        }
        sink->Wait();
        ++done;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(done, 60);
}

TEST_F(EngineTest, IdleTakesNoProcessorTime) {
  const auto engine = Make();
  Generate(*engine, Prompt(4), {.max_tokens = 2, .ignore_eos = true});
  const auto cpu_seconds = [] {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(cpu_seconds() - before, 0.1);
}

}  // namespace
}  // namespace qamserve
