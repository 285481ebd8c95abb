// Engines on a tiny random model, and a sink that collects answers.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/engine/engine.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_tokenizer.h"

namespace qamserve {

// Collects an answer. `keep_going` is asked after each token.
class Collector : public TokenSink {
 public:
  explicit Collector(std::function<bool(size_t)> keep_going = {}) : keep_going_(std::move(keep_going)) {}

  bool OnToken(const TokenEvent& event) override {
    events.push_back(event);
    return !keep_going_ || keep_going_(events.size());
  }
  void OnDone(const GenerationSummary& done) override {
    summary = done;
    ++done_calls;
    promise_.set_value();
  }
  void Wait() { ASSERT_EQ(promise_.get_future().wait_for(std::chrono::seconds(60)), std::future_status::ready); }

  std::vector<int32_t> tokens() const {
    std::vector<int32_t> out;
    for (const TokenEvent& event : events) out.push_back(event.token);
    return out;
  }
  std::string text() const {
    std::string out;
    for (const TokenEvent& event : events) out += event.text;
    return out + summary.trailing_text;
  }

  std::vector<TokenEvent> events;
  GenerationSummary summary;
  int done_calls = 0;

 private:
  std::function<bool(size_t)> keep_going_;
  std::promise<void> promise_;
};

class EngineTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const TempFolder folder;
    // Any token may be the stop token here, so tests that count tokens set ignore_eos.
    ASSERT_TRUE(WriteTinyModel({.seed = 3}, folder / "model").ok());
    const auto files = FileSet::FromPath(folder / "model");
    ASSERT_TRUE(files.ok());
    const auto model = Model::Load(*files);
    ASSERT_TRUE(model.ok()) << MessageOf(model.status());
    const auto tokenizer_files = ReadTokenizerFiles(*files);
    ASSERT_TRUE(tokenizer_files.ok()) << MessageOf(tokenizer_files.status());
    const auto tokenizer = Tokenizer::Create(*tokenizer_files, "tiny");
    ASSERT_TRUE(tokenizer.ok()) << MessageOf(tokenizer.status());
    model_ = new std::shared_ptr<const Model>(*model);
    tokenizer_ = new std::shared_ptr<const Tokenizer>(*tokenizer);
  }
  static void TearDownTestSuite() {
    delete model_;
    delete tokenizer_;
    model_ = nullptr;
    tokenizer_ = nullptr;
  }

  static std::unique_ptr<Engine> Make(EngineOptions options = {}) {
    if (options.threads == 0) options.threads = 2;
    auto engine = Engine::Create(*model_, *tokenizer_, options);
    EXPECT_TRUE(engine.ok()) << MessageOf(engine.status());
    return std::move(*engine);
  }
  static std::vector<int32_t> Prompt(int n, int first = 10) {
    std::vector<int32_t> out;
    out.reserve(n);
    for (int i = 0; i < n; ++i) out.push_back(3 + (first + i * 7) % 300);
    return out;
  }
  static std::shared_ptr<Collector> Generate(Engine& engine, const std::vector<int32_t>& prompt,
                                             const SamplingParams& params) {
    auto sink = std::make_shared<Collector>();
    const auto id = engine.Submit(prompt, params, sink);
    EXPECT_TRUE(id.ok()) << MessageOf(id.status());
    if (id.ok()) sink->Wait();
    return sink;
  }
  // The same answer: tokens, text and log-probabilities, to the last bit.
  static void ExpectSame(const Collector& a, const Collector& b) {
    EXPECT_EQ(a.tokens(), b.tokens());
    EXPECT_EQ(a.text(), b.text());
    EXPECT_EQ(a.summary.reason, b.summary.reason);
    for (size_t i = 0; i < std::min(a.events.size(), b.events.size()); ++i) {
      EXPECT_EQ(a.events[i].logprob, b.events[i].logprob) << i;
      ASSERT_EQ(a.events[i].top.size(), b.events[i].top.size());
      for (size_t k = 0; k < a.events[i].top.size(); ++k) {
        EXPECT_EQ(a.events[i].top[k].token, b.events[i].top[k].token);
        EXPECT_EQ(a.events[i].top[k].logprob, b.events[i].top[k].logprob);
      }
    }
  }
  // Waits until no request has blocks; how many have, if that does not come.
  static int64_t BlocksLeft(const Engine& engine) {
    for (int i = 0; i < 1000 && engine.stats().kv_blocks_used > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return engine.stats().kv_blocks_used;
  }

  // Forwarded token by token, with no engine: what greedy generation must give.
  static std::vector<int32_t> GreedyReference(std::vector<int32_t> tokens, int n) {
    ThreadPool pool(1);
    Workspace workspace;
    KvCache cache((*model_)->config(), 256);
    std::vector<int32_t> out;
    std::vector<float> logits;
    while (static_cast<int>(out.size()) < n) {
      const SequenceChunk chunk{tokens, &cache};
      EXPECT_TRUE((*model_)->Forward(std::span(&chunk, 1), workspace, pool, logits).ok());
      out.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      tokens = {out.back()};
    }
    return out;
  }

  static inline std::shared_ptr<const Model>* model_ = nullptr;
  static inline std::shared_ptr<const Tokenizer>* tokenizer_ = nullptr;
};

}  // namespace qamserve
