// Texts that are only read: the best tokens beside a score, mean hidden states, two models compared. What they must be
// is worked out here from Model's own forward pass.
#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "tests/core/engine/engine_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

struct Loaded {
  std::shared_ptr<const Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;
};

class ReadingTest : public EngineTest {
 protected:
  // Another model; `edit` may change the text of its tokenizer.json.
  static Loaded Load(const TinyModelOptions& options, const std::function<void(std::string&)>& edit = {}) {
    const TempFolder folder;
    EXPECT_TRUE(WriteTinyModel(options, folder / "model").ok());
    const auto files = FileSet::FromPath(folder / "model");
    EXPECT_TRUE(files.ok());
    auto tokenizer_files = ReadTokenizerFiles(*files);
    EXPECT_TRUE(tokenizer_files.ok());
    if (edit) edit(tokenizer_files->tokenizer_json);
    auto model = Model::Load(*files);
    auto tokenizer = Tokenizer::Create(*tokenizer_files, "other");
    EXPECT_TRUE(model.ok()) << MessageOf(model.status());
    EXPECT_TRUE(tokenizer.ok()) << MessageOf(tokenizer.status());
    return {*std::move(model), *std::move(tokenizer)};
  }
  static std::unique_ptr<Engine> Make(const Loaded& loaded, EngineOptions options = {}) {
    options.threads = 2;
    auto engine = Engine::Create(loaded.model, loaded.tokenizer, options);
    EXPECT_TRUE(engine.ok()) << MessageOf(engine.status());
    return *std::move(engine);
  }
  using EngineTest::Make;

  // log p [tokens][vocab] in double, all tokens at once.
  static std::vector<std::vector<double>> LogSoftmax(const Model& model, const std::vector<int32_t>& tokens) {
    ThreadPool pool(1);
    Workspace workspace;
    KvCache cache(model.config(), 256);
    const SequenceChunk chunk{tokens, &cache, /*all_logits=*/true};
    std::vector<float> logits;
    EXPECT_TRUE(model.Forward(std::span(&chunk, 1), workspace, pool, logits).ok());
    std::vector<std::vector<double>> out;
    const size_t vocab = logits.size() / tokens.size();
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::vector<double> row(logits.begin() + static_cast<ptrdiff_t>(i * vocab),
                              logits.begin() + static_cast<ptrdiff_t>((i + 1) * vocab));
      double sum = 0;
      for (const double z : row) sum += std::exp(z);
      for (double& z : row) z -= std::log(sum);
      out.push_back(std::move(row));
    }
    return out;
  }
};

TEST_F(ReadingTest, TopIsTheBestOfEachPlace) {
  const std::vector<int32_t> tokens = Prompt(50);
  const auto scores = Make({.prefill_tokens = 16})->ScoreWithTop(tokens, 5);
  ASSERT_TRUE(scores.ok()) << MessageOf(scores.status());
  ASSERT_EQ(scores->top.size(), 49u);
  const auto wanted = LogSoftmax(**model_, tokens);
  for (size_t i = 0; i < 49; ++i) {
    std::vector<int32_t> order(wanted[i].size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return wanted[i][static_cast<size_t>(a)] > wanted[i][static_cast<size_t>(b)];
    });
    ASSERT_EQ(scores->top[i].size(), 5u);
    for (size_t k = 0; k < 5; ++k) {
      EXPECT_EQ(scores->top[i][k].token, order[k]) << i << " " << k;
      EXPECT_NEAR(scores->top[i][k].logprob, wanted[i][static_cast<size_t>(order[k])], 1e-5);
    }
  }
  // The scores themselves are the same, and more than there are tokens is all of them.
  EXPECT_EQ(scores->logprobs, *Make()->Score(tokens));
  EXPECT_TRUE(Make()->ScoreWithTop(tokens, 0)->top.empty());
}

TEST_F(ReadingTest, EmbeddingIsTheMeanOfTheHiddenStates) {
  const std::vector<int32_t> tokens = Prompt(50);
  ThreadPool pool(1);
  Workspace workspace;
  KvCache cache((*model_)->config(), 64);
  const SequenceChunk chunk{tokens, &cache, /*all_logits=*/true};
  std::vector<float> hidden;
  ASSERT_TRUE((*model_)->ForwardHidden(std::span(&chunk, 1), workspace, pool, hidden).ok());
  ASSERT_EQ(hidden.size(), 50u * 64);

  const auto engine = Make({.prefill_tokens = 16});
  const auto embedding = engine->Embed(tokens);
  ASSERT_TRUE(embedding.ok()) << MessageOf(embedding.status());
  ASSERT_EQ(embedding->size(), 64u);
  for (size_t i = 0; i < 64; ++i) {
    double sum = 0;
    for (size_t t = 0; t < 50; ++t) sum += static_cast<double>(hidden[t * 64 + i]);
    EXPECT_NEAR((*embedding)[i], sum / 50, 1e-6) << i;
  }
  // However it is cut, and beside what else.
  auto other = std::make_shared<Collector>();
  const auto beside = Make({.prefill_tokens = 7});
  ASSERT_TRUE(beside->Submit(Prompt(20), {.max_tokens = 60, .ignore_eos = true}, other).ok());
  EXPECT_EQ(*beside->Embed(tokens), *embedding);
  other->Wait();
  // One token is its own mean.
  EXPECT_NEAR((*engine->Embed(std::span(tokens).first(1)))[5], hidden[5], 1e-7);
  EXPECT_EQ(ReasonOf(engine->Embed({}).status()), "PROMPT_EMPTY");
  EXPECT_EQ(ReasonOf(engine->Embed(std::vector<int32_t>{5, 320}).status()), "PROMPT_TOKEN");
  EXPECT_EQ(ReasonOf(Make({.context_tokens = 32})->Embed(tokens).status()), "PROMPT_TOO_LONG");
  EXPECT_EQ(BlocksLeft(*engine), 0);
}

TEST_F(ReadingTest, ComparisonIsTheDivergenceOfTheDistributions) {
  // Of another width, so that hidden states cannot be mixed up.
  const Loaded wide = Load({.hidden_size = 128, .seed = 9});
  const auto base = Make({.prefill_tokens = 16});
  const auto other = Make(wide, {.prefill_tokens = 7});
  const std::vector<int32_t> tokens = Prompt(90);
  const auto p = LogSoftmax(**model_, tokens), q = LogSoftmax(*wide.model, tokens);
  for (const int64_t first : {1, 40, 89}) {
    const auto compared = base->Compare(*other, tokens, first);
    ASSERT_TRUE(compared.ok()) << MessageOf(compared.status());
    ASSERT_EQ(compared->size(), 90u - static_cast<size_t>(first));
    for (size_t i = 0; i < compared->size(); ++i) {
      const size_t at = static_cast<size_t>(first) + i - 1;  // what the token was drawn after
      const TokenComparison& token = (*compared)[i];
      const auto target = static_cast<size_t>(tokens[at + 1]);
      double kl = 0;
      for (size_t v = 0; v < p[at].size(); ++v) kl += std::exp(p[at][v]) * (p[at][v] - q[at][v]);
      EXPECT_NEAR(token.kl, kl, 1e-5 * (1 + kl)) << at;
      EXPECT_NEAR(token.base_nll, -p[at][target], 1e-5 * (1 - p[at][target]));
      EXPECT_NEAR(token.other_nll, -q[at][target], 1e-5 * (1 - q[at][target]));
      const auto best = [](const std::vector<double>& row) {
        return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
      };
      EXPECT_EQ(token.base_top, best(p[at]));
      EXPECT_EQ(token.other_top, best(q[at]));
      EXPECT_EQ(token.same_top, best(p[at]) == best(q[at]));
      EXPECT_GT(kl, 0.01) << "the models should differ";
    }
  }
  EXPECT_EQ(BlocksLeft(*base), 0);
  EXPECT_EQ(BlocksLeft(*other), 0);
}

TEST_F(ReadingTest, AModelDoesNotDifferFromItself) {
  const auto engine = Make();
  const std::vector<int32_t> tokens = Prompt(20);
  const auto same = engine->Compare(*engine, tokens, 1);
  ASSERT_TRUE(same.ok()) << MessageOf(same.status());
  const auto scores = *engine->Score(tokens);
  for (size_t i = 0; i < same->size(); ++i) {
    EXPECT_NEAR((*same)[i].kl, 0, 1e-12);
    EXPECT_TRUE((*same)[i].same_top);
    EXPECT_NEAR(-(*same)[i].base_nll, scores[i], 1e-5);
  }
}

TEST_F(ReadingTest, VocabulariesMustBeTheSame) {
  const auto base = Make();
  const auto why = [&](const Loaded& loaded) { return base->Compare(*Make(loaded), Prompt(5), 1).status(); };
  const absl::Status smaller = why(Load({.vocab_size = 300}));
  EXPECT_EQ(smaller.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(smaller), "VOCABULARY_DIFFERS");
  EXPECT_THAT(MessageOf(smaller), HasSubstr("300"));
  const absl::Status renamed = why(Load({}, [](std::string& json) {
    const size_t at = json.find("<|im_start|>");
    ASSERT_NE(at, std::string::npos);
    for (size_t place = at; place != std::string::npos; place = json.find("<|im_start|>", place)) {
      json.replace(place, 12, "<|im_begin|>");
    }
  }));
  EXPECT_EQ(ReasonOf(renamed), "VOCABULARY_DIFFERS");
  EXPECT_THAT(MessageOf(renamed), HasSubstr("token 1 "));
  // Another file with the same tokens in it.
  const absl::Status spaced = why(Load({}, [](std::string& json) { json += "\n"; }));
  EXPECT_TRUE(spaced.ok()) << spaced;
}

TEST_F(ReadingTest, BothContextsMustHoldTheText) {
  const auto base = Make();
  const auto other = Make({.context_tokens = 32});
  const absl::Status status = base->Compare(*other, Prompt(33), 1).status();
  EXPECT_EQ(ReasonOf(status), "PROMPT_TOO_LONG");
  EXPECT_THAT(MessageOf(status), HasSubstr((*model_)->origin()));
  EXPECT_EQ(ReasonOf(other->Compare(*base, Prompt(33), 1).status()), "PROMPT_TOO_LONG");
}

TEST_F(ReadingTest, ManyReadersAtOnceGetTheirOwnAnswers) {
  const auto base = Make({.prefill_tokens = 16});
  const auto other = Make(Load({.seed = 9}));
  const auto embedding = *base->Embed(Prompt(40, 1));
  const auto compared = *base->Compare(*other, Prompt(40, 2), 5);
  std::vector<std::thread> threads;
  threads.reserve(6);
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 4; ++i) {
        if (t % 3 == 0) {
          EXPECT_EQ(*base->Embed(Prompt(40, 1)), embedding);
        } else if (t % 3 == 1) {
          const auto again = *base->Compare(*other, Prompt(40, 2), 5);
          EXPECT_EQ(again.back().kl, compared.back().kl);
        } else {  // the other way round, so that each waits for the other one
          EXPECT_EQ(other->Compare(*base, Prompt(40, 2), 5)->size(), 35u);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace qamserve
