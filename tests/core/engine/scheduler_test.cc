// The scheduler without a model: steps are acted out by counting tokens as fed and choosing token 5 or a given one.
#include "core/engine/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/support/tiny_tokenizer.h"

namespace qamserve {
namespace {

constexpr int64_t kVocab = 300;
constexpr int64_t kBlock = 8;

ModelConfig SmallConfig() {
  ModelConfig config;
  config.num_layers = 1;
  config.num_heads = 1;
  config.num_kv_heads = 1;
  config.head_dim = 8;
  return config;
}

class NullSink : public TokenSink {
 public:
  bool OnToken(const TokenEvent& event) override {
    tokens.push_back(event.token);
    return true;
  }
  void OnDone(const GenerationSummary& done) override { summary = done; }
  std::vector<int32_t> tokens;
  GenerationSummary summary;
};

class SchedulerTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto tokenizer =
        Tokenizer::Create({TinyTokenizerJson(MakeTinyVocabulary(kVocab)), TinyTokenizerConfigJson(), ""}, "test");
    ASSERT_TRUE(tokenizer.ok()) << MessageOf(tokenizer.status());
    tokenizer_ = *tokenizer;
  }
  void Make(const SchedulerOptions& options, int64_t blocks) {
    pool_ = std::make_unique<KvPool>(KvLayout(SmallConfig(), 1, {KvType::kF32, kBlock}), blocks);
    scheduler_ = std::make_unique<Scheduler>(options, *pool_);
  }
  ~SchedulerTest() override {
    if (scheduler_ != nullptr) scheduler_->RemoveAll();
  }

  // A request of `prompt` tokens, all different from those of other requests, that answers with `answer` tokens.
  uint64_t Add(int64_t prompt, int32_t answer, int32_t priority = 0) {
    std::vector<int32_t> tokens(static_cast<size_t>(prompt));
    for (int64_t i = 0; i < prompt; ++i)
      tokens[static_cast<size_t>(i)] = static_cast<int32_t>(3 + (next_id_ + i) % 290);
    return AddTokens(std::move(tokens), answer, priority);
  }
  uint64_t AddTokens(std::vector<int32_t> tokens, int32_t answer, int32_t priority = 0) {
    const uint64_t id = next_id_++;
    sinks_[id] = std::make_shared<NullSink>();
    RequestOptions request;
    request.priority = priority;
    const SamplingParams params{.max_tokens = answer, .temperature = 0, .ignore_eos = true};
    scheduler_->Add(std::make_unique<Sequence>(id, std::move(tokens), params, request, sinks_[id], *tokenizer_, kVocab,
                                               4096, *pool_));
    return id;
  }

  // From `logits` [rows][kVocab].
  static void Choose(Sequence& sequence, std::span<float> logits) {
    SampleScratch scratch;
    sequence.BeginChoices();
    SampleRow row;
    for (size_t at = 0; sequence.PlanChoice(row); at += kVocab, row = {}) {
      sequence.TakeChoice(absl::OkStatus(), SampleLogits(BestKernels(), logits.subspan(at, kVocab), row, scratch));
    }
    sequence.EndChoices();
  }
  // One step. Gives how many tokens each request was fed.
  std::map<uint64_t, int64_t> Step(bool admit = true) {
    std::map<uint64_t, int64_t> fed;
    std::vector<std::unique_ptr<Sequence>> hopeless;
    const std::vector<Sequence*> step = scheduler_->Plan(admit, hopeless);
    EXPECT_TRUE(hopeless.empty());
    std::vector<Sequence*> choosing;
    for (Sequence* sequence : step) {
      const auto tokens = static_cast<int64_t>(sequence->feed().size());
      fed[sequence->id()] = tokens;
      EXPECT_LE(sequence->cache().length() + tokens, sequence->cache().capacity());
      sequence->cache().SetLength(sequence->cache().length() + tokens);
      const int64_t rows = sequence->Fed();
      if (rows == 0) continue;
      std::vector<float> logits(static_cast<size_t>(rows * kVocab), 0.0f);
      // The answer counts up: position p is followed by token p.
      for (int64_t r = 0; r < rows; ++r)
        logits[static_cast<size_t>(r * kVocab + (sequence->tokens() + r) % kVocab)] = 1;
      Choose(*sequence, logits);
      choosing.push_back(sequence);
    }
    scheduler_->NameFullBlocks();
    for (Sequence* sequence : choosing) {
      if (!sequence->Deliver()) scheduler_->Remove(sequence->id());
    }
    EXPECT_LE(scheduler_->running(), 64);
    return fed;
  }
  int StepsToEnd(int most = 100000) {
    int steps = 0;
    while (!scheduler_->empty() && steps < most) Step(), ++steps;
    EXPECT_TRUE(scheduler_->empty()) << "still going after " << most;
    return steps;
  }
  // What a request of this prompt says, whatever happens around it.
  void ExpectWholeAnswer(uint64_t id, int64_t prompt, int32_t answer) {
    std::vector<int32_t> wanted;
    for (int64_t p = prompt; p < prompt + answer; ++p) wanted.push_back(static_cast<int32_t>(p % kVocab));
    EXPECT_EQ(sinks_[id]->tokens, wanted) << "request " << id;
    EXPECT_EQ(sinks_[id]->summary.reason, FinishReason::kLength);
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<Scheduler> scheduler_;
  std::map<uint64_t, std::shared_ptr<NullSink>> sinks_;
  uint64_t next_id_ = 1;
};

TEST_F(SchedulerTest, PromptsShareTheBudgetEvenly) {
  Make({.max_running = 8, .prefill_tokens = 30}, 1000);
  const uint64_t tiny = Add(4, 5), big = Add(500, 5), other = Add(500, 5);
  const auto fed = Step();
  EXPECT_EQ(fed.at(tiny), 4) << "no more than it has";
  EXPECT_EQ(fed.at(big), 13) << "half of what the short one leaves";
  EXPECT_EQ(fed.at(other), 13);
  // One that answers takes nothing from the budget.
  const auto next = Step();
  EXPECT_EQ(next.at(tiny), 1);
  EXPECT_EQ(next.at(big), 15);
  EXPECT_EQ(next.at(other), 15);
  // A higher priority takes what it can use.
  const uint64_t urgent = Add(20, 5, 1);
  const auto third = Step();
  EXPECT_EQ(third.at(urgent), 20);
  EXPECT_EQ(third.at(big), 5);
}

TEST_F(SchedulerTest, ABudgetSmallerThanThePromptsStillMovesAll) {
  Make({.max_running = 8, .prefill_tokens = 2}, 1000);
  for (int i = 0; i < 6; ++i) Add(30, 2);
  EXPECT_EQ(Step().size(), 2u);
  StepsToEnd();
  for (uint64_t id = 1; id <= 6; ++id) ExpectWholeAnswer(id, 30, 2);
}

TEST_F(SchedulerTest, OfManyPromptsTheFirstAreReadyFirst) {
  Make({.max_running = 64, .prefill_tokens = 64}, 1000);
  for (int i = 0; i < 16; ++i) Add(30, 2);
  const auto first = Step();
  ASSERT_EQ(first.size(), 4u) << "a quarter of the budget each";
  for (uint64_t id = 1; id <= 4; ++id) EXPECT_EQ(first.at(id), 16);
  const auto second = Step();
  ASSERT_EQ(second.size(), 5u);
  for (uint64_t id = 1; id <= 4; ++id) EXPECT_EQ(second.at(id), 14) << "what is left of it";
  EXPECT_EQ(second.at(5), 8) << "what these leave";
  StepsToEnd();
  for (uint64_t id = 1; id <= 16; ++id) ExpectWholeAnswer(id, 30, 2);
}

// Six requests, five blocks' worth of memory for each in the end, but together only twelve.
TEST_F(SchedulerTest, PreemptsInsteadOfRunningOut) {
  Make({.max_running = 6, .prefill_tokens = 64, .prefix_cache = false}, 12);
  for (int i = 0; i < 6; ++i) Add(10, 30);
  int64_t most_used = 0;
  while (!scheduler_->empty()) {
    Step();
    most_used = std::max(most_used, pool_->used());
  }
  EXPECT_GT(scheduler_->totals().preemptions, 0);
  EXPECT_GT(most_used, 9) << "memory is put to use";
  int preemptions = 0;
  for (uint64_t id = 1; id <= 6; ++id) {
    ExpectWholeAnswer(id, 10, 30);
    preemptions += sinks_[id]->summary.preemptions;
  }
  EXPECT_EQ(preemptions, scheduler_->totals().preemptions);
  EXPECT_EQ(sinks_[1]->summary.preemptions, 0) << "the oldest is never the one to go";
  EXPECT_EQ(pool_->used(), 0);
}

TEST_F(SchedulerTest, TheLowestPriorityIsPreemptedFirst) {
  Make({.max_running = 4, .prefill_tokens = 64, .prefix_cache = false}, 8);
  const uint64_t low = Add(20, 30, -1);
  Step();
  const uint64_t high = Add(20, 30, 1);
  StepsToEnd();
  EXPECT_GT(sinks_[low]->summary.preemptions, 0) << "although it is older";
  EXPECT_EQ(sinks_[high]->summary.preemptions, 0);
  ExpectWholeAnswer(low, 20, 30);
  ExpectWholeAnswer(high, 20, 30);
}

TEST_F(SchedulerTest, AHigherPriorityTakesMemoryAtOnce) {
  Make({.max_running = 4, .prefill_tokens = 64, .prefix_cache = false}, 8);
  const uint64_t low = Add(50, 10);
  Step();
  const uint64_t high = Add(40, 2, 5);
  EXPECT_EQ(Step().count(high), 1u);
  EXPECT_EQ(Step().count(low), 0u) << "five of eight blocks are taken, and it needs seven";
  StepsToEnd();
  ExpectWholeAnswer(low, 50, 10);
}

TEST_F(SchedulerTest, AHigherPriorityTakesThePlaceOfALowerOne) {
  Make({.max_running = 2, .prefill_tokens = 64}, 100);
  const uint64_t a = Add(10, 50), b = Add(10, 50);
  Step();
  const uint64_t high = Add(10, 20, 1);
  const auto fed = Step();
  EXPECT_EQ(fed.count(high), 1u);
  EXPECT_EQ(fed.count(a), 1u);
  EXPECT_EQ(fed.count(b), 0u);
  StepsToEnd();
  ExpectWholeAnswer(b, 10, 50);
  EXPECT_EQ(sinks_[b]->summary.preemptions, 0) << "its memory was not needed";
}

// With one place, three long answers of one priority take turns.
TEST_F(SchedulerTest, RequestsOfOnePriorityTakeTurns) {
  Make({.max_running = 1, .prefill_tokens = 64, .quantum_tokens = 10}, 100);
  for (int i = 0; i < 3; ++i) Add(5, 100);
  std::map<uint64_t, int64_t> served;
  for (int step = 0; step < 150; ++step) {
    for (const auto& [id, tokens] : Step()) served[id] += tokens;
    if (step < 40) continue;
    const int64_t least = std::min({served[1], served[2], served[3]}),
                  most = std::max({served[1], served[2], served[3]});
    EXPECT_LE(most - least, 20) << "after step " << step;
  }
  StepsToEnd();
  for (uint64_t id = 1; id <= 3; ++id) ExpectWholeAnswer(id, 5, 100);
  EXPECT_EQ(scheduler_->totals().preemptions, 0);
}

// A stream of short requests does not hold up a long one, nor it them.
TEST_F(SchedulerTest, NewcomersDoNotStarveALongRequest) {
  Make({.max_running = 2, .prefill_tokens = 64, .quantum_tokens = 16}, 200);
  const uint64_t longest = Add(5, 300);
  std::map<uint64_t, int64_t> served;
  for (int step = 0; step < 400; ++step) {
    if (step % 8 == 0) Add(5, 10);
    for (const auto& [id, tokens] : Step()) served[id] += tokens;
  }
  EXPECT_GT(served[longest], 150) << "two places for 400 steps, of which the others need 550";
  EXPECT_LE(scheduler_->waiting(), 2);
}

TEST_F(SchedulerTest, ALongOneIsNotOvertakenByShortOnesThatLackMemoryToo) {
  Make({.max_running = 4, .prefill_tokens = 256, .prefix_cache = false}, 20);
  const uint64_t running = Add(80, 20);  // 10 blocks, 13 in the end
  Step();
  const uint64_t long_one = Add(100, 5);  // 13
  const uint64_t short_one = Add(8, 5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Step().size(), 1u);
  EXPECT_EQ(scheduler_->waiting(), 2);
  StepsToEnd();
  for (const auto& [id, prompt, answer] : {std::tuple{running, 80, 20}, {long_one, 100, 5}, {short_one, 8, 5}}) {
    ExpectWholeAnswer(id, prompt, answer);
  }
}

TEST_F(SchedulerTest, BlocksAreSharedWhileTheirOwnerRunsAndAfter) {
  Make({.max_running = 4, .prefill_tokens = 256}, 40);
  std::vector<int32_t> tokens;
  tokens.reserve(50);
  for (int i = 0; i < 50; ++i) tokens.push_back(3 + i * 5);
  const uint64_t first = AddTokens(tokens, 3);
  Step();
  EXPECT_EQ(pool_->used(), 7);
  const uint64_t second = AddTokens(tokens, 20);
  const auto fed = Step();
  EXPECT_EQ(fed.at(second), 2) << "50 tokens less six full blocks";
  EXPECT_EQ(pool_->used(), 8);
  StepsToEnd();
  EXPECT_EQ(pool_->used(), 0);
  ExpectWholeAnswer(first, 50, 3);
  ExpectWholeAnswer(second, 50, 20);
  EXPECT_EQ(sinks_[second]->summary.cached_prompt_tokens, 48);
  // The same beginning, then something else; and after its end the answer is known too.
  std::vector<int32_t> other(tokens.begin(), tokens.begin() + 30);
  other.push_back(77);
  const uint64_t third = AddTokens(other, 2);
  EXPECT_EQ(Step().at(third), 31 - 24);
  std::vector<int32_t> follow_up = tokens;
  follow_up.insert(follow_up.end(), sinks_[second]->tokens.begin(), sinks_[second]->tokens.end());
  follow_up.push_back(9);
  const uint64_t fourth = AddTokens(follow_up, 2);
  EXPECT_EQ(Step().at(fourth), 71 - 64);
  // A prompt that is known whole still has its last token fed: its logits are needed.
  follow_up.resize(64);
  const uint64_t fifth = AddTokens(follow_up, 2);
  EXPECT_EQ(Step().at(fifth), 8);
  StepsToEnd();
  EXPECT_EQ(scheduler_->totals().prompt_tokens_found, 48 + 24 + 64 + 56);
  EXPECT_EQ(scheduler_->totals().prompt_tokens, 50 + 50 + 31 + 71 + 64);
}

TEST_F(SchedulerTest, MemoryOfEndedRequestsIsGivenToNewOnes) {
  Make({.max_running = 4, .prefill_tokens = 256}, 10);
  for (int i = 0; i < 20; ++i) {
    const uint64_t id = Add(60, 10);
    StepsToEnd();
    ExpectWholeAnswer(id, 60, 10);
  }
  EXPECT_EQ(pool_->used(), 0);
  EXPECT_EQ(scheduler_->totals().preemptions, 0);
}

TEST_F(SchedulerTest, GuessesAreCheckedAndNothingElseChanges) {
  Make({.max_running = 4, .prefill_tokens = 256, .draft_tokens = 8}, 100);
  // The answer to 40 tokens counts up from 40; the prompt says so already.
  std::vector<int32_t> tokens;
  tokens.reserve(40);
  for (int i = 0; i < 20; ++i) tokens.push_back(3 + i);
  for (int i = 0; i < 18; ++i) tokens.push_back(40 + i);
  tokens.push_back(38), tokens.push_back(39);
  tokens[18] = 38, tokens[19] = 39;
  const uint64_t guessed = AddTokens(tokens, 25);
  const uint64_t other = Add(30, 25);
  const int steps = StepsToEnd();
  ExpectWholeAnswer(guessed, 40, 25);
  ExpectWholeAnswer(other, 30, 25);
  EXPECT_GE(sinks_[guessed]->summary.accepted_draft_tokens, 12);
  EXPECT_LE(sinks_[guessed]->summary.accepted_draft_tokens, sinks_[guessed]->summary.draft_tokens);
  EXPECT_LT(steps, 25) << "more than one token a step";
  EXPECT_EQ(pool_->used(), 0);
}

// Many requests of all kinds with little memory: all end whole, and all blocks come back.
TEST_F(SchedulerTest, EverythingAtOnce) {
  Rng rng(4);
  Make({.max_running = 5, .prefill_tokens = 37, .quantum_tokens = 9, .draft_tokens = 4}, 24);
  std::map<uint64_t, std::pair<int64_t, int32_t>> wanted;
  for (int step = 0; step < 600; ++step) {
    if (step % 5 == 0) {
      const auto prompt = static_cast<int64_t>(1 + rng.NextU64() % 90);
      const auto answer = static_cast<int32_t>(1 + rng.NextU64() % 60);
      wanted[Add(prompt, answer, static_cast<int32_t>(rng.NextU64() % 3))] = {prompt, answer};
    }
    if (step % 50 == 49) {
      const uint64_t id = 1 + rng.NextU64() % (next_id_ - 1);
      if (scheduler_->Remove(id) != nullptr) wanted.erase(id);
    }
    Step(/*admit=*/step % 7 != 0);
  }
  StepsToEnd();
  for (const auto& [id, shape] : wanted) ExpectWholeAnswer(id, shape.first, shape.second);
  EXPECT_GT(scheduler_->totals().preemptions, 0);
  EXPECT_EQ(pool_->used(), 0);
}

TEST_F(SchedulerTest, WhatThePoolCannotHoldAloneIsHopeless) {
  Make({.max_running = 2, .prefill_tokens = 64}, 3);
  Add(30, 5);
  std::vector<std::unique_ptr<Sequence>> hopeless;
  EXPECT_TRUE(scheduler_->Plan(true, hopeless).empty());
  EXPECT_EQ(hopeless.size(), 1u);
  EXPECT_TRUE(scheduler_->empty());
  // One that grows beyond it.
  Add(20, 50);
  hopeless.clear();
  int steps = 0;
  while (hopeless.empty() && steps < 100) {
    const std::vector<Sequence*> step = scheduler_->Plan(true, hopeless);
    ++steps;
    for (Sequence* sequence : step) {
      sequence->cache().SetLength(sequence->cache().length() + static_cast<int64_t>(sequence->feed().size()));
      if (sequence->Fed() == 0) continue;
      std::vector<float> logits(kVocab, 0.0f);
      Choose(*sequence, logits);
      EXPECT_TRUE(sequence->Deliver());
    }
  }
  EXPECT_EQ(hopeless.size(), 1u);
  EXPECT_EQ(steps, 6) << "20 tokens, then four more fit three blocks";
  EXPECT_EQ(pool_->used(), 0);
}

}  // namespace
}  // namespace qamserve
