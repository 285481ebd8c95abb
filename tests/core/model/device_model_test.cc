// A model on a device gives the bits of the model on the CPU, step for step. Built twice: with the device's threads in
// turn on this machine, and for a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/model/cuda/cuda_model.h"
#include "tests/support/forward_test_device.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_artifact.h"

namespace qamserve {
namespace {

std::shared_ptr<const Model> Load(const std::string& folder) {
  const absl::StatusOr<FileSet> files = FileSet::FromPath(folder);
  EXPECT_TRUE(files.ok()) << files.status();
  const absl::StatusOr<std::shared_ptr<const Model>> model = Model::Load(*files);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *model : nullptr;
}

std::shared_ptr<const Model> TinyCheckpoint(const TinyModelOptions& options) {
  const TempFolder folder;
  const absl::Status status = WriteTinyModel(options, folder / "model");
  EXPECT_TRUE(status.ok()) << status;
  return Load(folder / "model");
}

// Some tokens of each sequence; 0 leaves it out.
using Step = std::vector<int64_t>;

// The same sequences on both sides.
class Pair {
 public:
  Pair(std::shared_ptr<const Model> model, std::unique_ptr<ForwardDevice> device, const KvFormat& format,
       size_t sequences)
      : model_(std::move(model)),
        layout_(model_->config(), model_->config().num_layers, format),
        blocks_(layout_.BlocksFor(kTokens) * static_cast<int64_t>(sequences)),
        host_blocks_(layout_, blocks_),
        device_blocks_(layout_, blocks_, KvMemory::kElsewhere) {
    absl::StatusOr<std::unique_ptr<CudaModel>> on_device =
        CudaModel::Create(model_, std::move(device), layout_, blocks_);
    EXPECT_TRUE(on_device.ok()) << on_device.status();
    if (on_device.ok()) on_device_ = *std::move(on_device);
    for (size_t i = 0; i < sequences; ++i) {
      host_.push_back(std::make_unique<KvCache>(host_blocks_));
      there_.push_back(std::make_unique<KvCache>(device_blocks_));
    }
  }

  CudaModel& on_device() { return *on_device_; }
  KvCache& cache(size_t i) { return *there_[i]; }

  // Feeds random tokens on both sides and compares the hidden states and logits. The last sequence gives all of its.
  void Feed(const Step& step, const std::string& what) {
    std::vector<SequenceChunk> host, there;
    std::vector<std::vector<int32_t>> tokens;
    for (size_t i = 0; i < step.size(); ++i) tokens.push_back(Random(step[i]));
    for (size_t i = 0; i < step.size(); ++i) {
      if (step[i] == 0) continue;
      const bool all = i + 1 == step.size();
      for (KvCache* cache : {host_[i].get(), there_[i].get()}) {
        ASSERT_TRUE(cache->Reserve(cache->length() + step[i])) << what;
      }
      host.push_back({tokens[i], host_[i].get(), all});
      there.push_back({tokens[i], there_[i].get(), all});
    }
    std::vector<float> expected, got;
    ASSERT_TRUE(model_->ForwardHidden(host, workspace_, pool_, expected).ok());
    absl::Status status = on_device_->ForwardHidden(there, got);
    ASSERT_TRUE(status.ok()) << status << ", " << what;
    ExpectSame(got, expected, what + ", hidden state");
    const int64_t n = static_cast<int64_t>(expected.size()) / model_->config().hidden_size;
    const auto logits = static_cast<size_t>(n * model_->config().vocab_size);
    std::vector<float> expected_logits(logits), got_logits(logits);
    model_->Head(expected.data(), n, pool_, expected_logits.data());
    status = on_device_->Head(got.data(), n, got_logits.data());
    ASSERT_TRUE(status.ok()) << status << ", " << what;
    ExpectSame(got_logits, expected_logits, what + ", logit");
    for (size_t i = 0; i < step.size(); ++i) ASSERT_EQ(there_[i]->length(), host_[i]->length()) << what;
  }

  // A prompt in pieces beside others, then single tokens; sequences begin at different times and their blocks lie
  // mixed up.
  void FeedAll(const std::string& what) {
    const Step steps[] = {{3, 9, 0}, {1, 0, 2},  {17, 1, 1}, {1, 33, 1}, {1, 1, 5},
                          {1, 1, 1}, {40, 0, 0}, {1, 1, 1},  {1, 1, 1}};
    for (size_t i = 0; i < std::size(steps); ++i) {
      ASSERT_NO_FATAL_FAILURE(Feed(steps[i], what + ", step " + std::to_string(i)));
    }
  }

 private:
  static constexpr int64_t kTokens = 96;

  std::vector<int32_t> Random(int64_t count) {
    std::vector<int32_t> out;
    out.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      out.push_back(static_cast<int32_t>(rng_.NextU64() % static_cast<uint64_t>(model_->config().vocab_size)));
    }
    return out;
  }
  static void ExpectSame(const std::vector<float>& got, const std::vector<float>& expected, const std::string& what) {
    ASSERT_EQ(got.size(), expected.size()) << what;
    for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], expected[i]) << what << " " << i;
  }

  const std::shared_ptr<const Model> model_;
  const KvLayout layout_;
  const int64_t blocks_;
  KvPool host_blocks_, device_blocks_;
  std::unique_ptr<CudaModel> on_device_;
  std::vector<std::unique_ptr<KvCache>> host_, there_;
  Workspace workspace_;
  ThreadPool pool_{1};
  Rng rng_{11};
};

class DeviceModel : public testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<std::unique_ptr<ForwardDevice>> device = OpenTestDevice();
    if (!device.ok()) GTEST_SKIP() << "no GPU: " << device.status().message();
  }
  static std::unique_ptr<ForwardDevice> Open() {
    absl::StatusOr<std::unique_ptr<ForwardDevice>> device = OpenTestDevice();
    EXPECT_TRUE(device.ok()) << device.status();
    return *std::move(device);
  }

  static void ExpectArtifact(const TinyModelOptions& model, const QuantizeSpec& spec, const std::string& what) {
    const TempFolder folder;
    const absl::Status status = WriteTinyArtifact(model, spec, folder.path());
    ASSERT_TRUE(status.ok()) << status;
    Pair pair(Load(folder / "artifact"), Open(), {}, 3);
    pair.FeedAll(what);
  }
};

TEST_F(DeviceModel, CheckpointsOfEveryArchitecture) {
  for (const Architecture architecture : {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2,
                                          Architecture::kQwen3, Architecture::kGemma3}) {
    TinyModelOptions options{.architecture = architecture, .seed = 5};
    if (architecture == Architecture::kMistral) options.sliding_window = 19;
    Pair pair(TinyCheckpoint(options), Open(), {}, 3);
    ASSERT_NO_FATAL_FAILURE(pair.FeedAll(ArchitectureName(architecture)));
  }
}

// 16-bit weights, tied embeddings, heads in groups that do not divide a tile and that are more than one.
TEST_F(DeviceModel, CheckpointsOfEveryShape) {
  struct Shape {
    int64_t heads, kv_heads, head_dim;
    DType dtype;
    bool tied;
  };
  for (const Shape& s : {Shape{3, 1, 40, DType::kF16, true},
                         {8, 8, 8, DType::kBF16, false},
                         {12, 1, 16, DType::kBF16, true},
                         {14, 2, 72, DType::kF16, false}}) {
    const TinyModelOptions options{.hidden_size = 72,
                                   .intermediate_size = 200,
                                   .num_heads = s.heads,
                                   .num_kv_heads = s.kv_heads,
                                   .head_dim = s.head_dim,
                                   .tie_embeddings = s.tied,
                                   .dtype = s.dtype,
                                   .seed = 6};
    Pair pair(TinyCheckpoint(options), Open(), {}, 3);
    ASSERT_NO_FATAL_FAILURE(pair.FeedAll(std::to_string(s.heads) + " heads"));
  }
}

TEST_F(DeviceModel, BlocksOfEverySizeAndType) {
  const std::shared_ptr<const Model> model = TinyCheckpoint({.architecture = Architecture::kGemma3, .seed = 7});
  for (const KvType type : {KvType::kF32, KvType::kInt8}) {
    for (const int64_t tokens : {8, 24, 64, 1024}) {
      Pair pair(model, Open(), {type, tokens}, 3);
      ASSERT_NO_FATAL_FAILURE(pair.FeedAll(std::string(KvTypeName(type)) + ", " + std::to_string(tokens)));
    }
  }
}

TEST_F(DeviceModel, ArtifactsOfEveryCodec) {
  const TinyModelOptions model{.architecture = Architecture::kQwen2, .dtype = DType::kBF16, .seed = 8};
  ASSERT_NO_FATAL_FAILURE(ExpectArtifact(model, {.codec = Codec::kJoint, .bpw = 5.5}, "joint"));
  ASSERT_NO_FATAL_FAILURE(ExpectArtifact(model, {.codec = Codec::kTrellis, .bpw = 4}, "trellis"));
  ASSERT_NO_FATAL_FAILURE(ExpectArtifact(model, {.codec = Codec::kInt8, .bpw = 8}, "int8"));
  ASSERT_NO_FATAL_FAILURE(ExpectArtifact(
      model, {.codec = Codec::kUniform, .bpw = 3, .channel_scale = false, .rotation = RotationKind::kNone}, "uniform"));
}

// Rotations with dense factors (576 = 12 x 12 x 4), heads and embeddings in 8 bits, tied and not.
TEST_F(DeviceModel, ArtifactsWithEightBitEmbeddings) {
  TinyModelOptions model{.hidden_size = 144,
                         .intermediate_size = 576,
                         .num_layers = 2,
                         .num_heads = 9,
                         .num_kv_heads = 3,
                         .dtype = DType::kBF16,
                         .seed = 9};
  const QuantizeSpec spec{.codec = Codec::kJoint, .bpw = 4.5, .embedding_bits = 8};
  ASSERT_NO_FATAL_FAILURE(ExpectArtifact(model, spec, "two matrices"));
  model.tie_embeddings = true;
  ASSERT_NO_FATAL_FAILURE(ExpectArtifact(model, spec, "tied"));
}

// Choices from kept logits: those of the CPU, where the device decides and where it leaves more than it sorts to the
// host, with adjustments and masks of each row's own.
TEST_F(DeviceModel, ChoosesWhatTheCpuChooses) {
  constexpr int64_t kVocab = 2100, kRows = 6;
  const std::shared_ptr<const Model> model = TinyCheckpoint({.vocab_size = kVocab, .seed = 4});
  const KvLayout layout(model->config(), model->config().num_layers, {});
  absl::StatusOr<std::unique_ptr<CudaModel>> on_device = CudaModel::Create(model, Open(), layout, 4);
  ASSERT_TRUE(on_device.ok()) << on_device.status();
  ThreadPool pool(2);
  CpuForwarder on_cpu(model, pool);
  Rng rng(12);
  std::vector<float> hidden;
  for (int64_t i = 0; i < kRows * model->config().hidden_size; ++i) {
    hidden.push_back(static_cast<float>(rng.NextGaussian()));
  }
  std::vector<uint64_t> allowed((kVocab + 63) / 64);
  for (uint64_t& word : allowed) word = rng.NextU64();
  for (const double top_p : {1.0, 0.99999, 0.3}) {
    std::vector<SampleResult> results[2];
    for (Forwarder* forwarder : {static_cast<Forwarder*>(on_device->get()), static_cast<Forwarder*>(&on_cpu)}) {
      std::vector<LogitAdjustment> adjustments[2];
      for (int32_t token = 0; token < 50; ++token)
        adjustments[0].push_back({.token = 7 * token, .bias = 2, .less = 0.5f});
      adjustments[1].push_back({.token = 2099, .penalty = 1.5f, .bias = 9});
      std::vector<SampleRow> rows(kRows);
      for (int64_t i = 0; i < kRows; ++i) {
        SampleRow& row = rows[static_cast<size_t>(i)];
        row.row = kRows - 1 - i;
        row.temperature = i == 0 ? 0 : 20;  // flat: nearly all tokens count
        row.top_p = top_p;
        row.top_k = i == 1 ? 1500 : 0;
        row.logprobs = i == 2 ? 4 : -1;
        row.draw = 0x123456789abcdef0u * static_cast<uint64_t>(i + 1);
        std::vector<LogitAdjustment>& own = adjustments[i % 2];
        if (i < 2) {
          row.adjustments = own.data();
          row.adjustment_count = static_cast<int64_t>(own.size());
        }
        if (i == 3) row.allowed = allowed.data();
      }
      std::vector<SampleResult>& out = results[forwarder == &on_cpu ? 1 : 0];
      out.resize(kRows);
      absl::Status status = forwarder->KeepLogits(hidden.data(), kRows);
      ASSERT_TRUE(status.ok()) << status;
      status = forwarder->Sample(rows, out);
      ASSERT_TRUE(status.ok()) << status;
    }
    for (size_t i = 0; i < kRows; ++i) {
      EXPECT_EQ(results[0][i].outcome, SampleOutcome::kChosen) << i;
      EXPECT_EQ(results[0][i].outcome, results[1][i].outcome) << i;
      EXPECT_EQ(results[0][i].token, results[1][i].token) << i << ", top_p " << top_p;
      EXPECT_EQ(results[0][i].own, results[1][i].own) << i;
      EXPECT_EQ(results[0][i].own_total, results[1][i].own_total) << i;
      EXPECT_EQ(results[0][i].best_count, results[1][i].best_count) << i;
    }
  }
}

// A step of two sequences whose hidden states stay where they are: the logits of some of them, in any order and again,
// are those that the CPU has, and another call in between takes them away.
TEST_F(DeviceModel, LogitsOfHiddenStatesThatStay) {
  const std::shared_ptr<const Model> model = TinyCheckpoint({.seed = 3});
  const KvLayout layout(model->config(), model->config().num_layers, {});
  absl::StatusOr<std::unique_ptr<CudaModel>> on_device = CudaModel::Create(model, Open(), layout, 8);
  ASSERT_TRUE(on_device.ok()) << on_device.status();
  ThreadPool pool(2);
  CpuForwarder on_cpu(model, pool);
  const std::vector<int32_t> one = {5, 6, 7}, other = {9, 8, 7, 6};
  const std::vector<std::vector<int32_t>> choices = {{0, 1, 2, 3, 4}, {0, 1}, {4, 0, 2}, {4, 0, 2}, {1}, {0, 1, 2}};
  std::vector<std::vector<SampleResult>> results[2];
  for (Forwarder* forwarder : {static_cast<Forwarder*>(on_device->get()), static_cast<Forwarder*>(&on_cpu)}) {
    KvPool blocks(layout, 8, forwarder->kv_memory());
    KvCache a(blocks), b(blocks);
    ASSERT_TRUE(a.Reserve(3) && b.Reserve(4));
    const SequenceChunk chunks[] = {{one, &a}, {other, &b, /*all_logits=*/true}};
    const int32_t first = 0, beyond = 5;
    EXPECT_EQ(ReasonOf(forwarder->KeepLogitsOf({&first, 1})), "NO_HIDDEN_STATES") << "before any step";
    const absl::Status status = forwarder->Forward(chunks);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(a.length(), 3);
    EXPECT_EQ(b.length(), 4);
    EXPECT_EQ(ReasonOf(forwarder->KeepLogitsOf({&beyond, 1})), "NO_HIDDEN_STATES");
    for (const std::vector<int32_t>& chosen : choices) {
      ASSERT_TRUE(forwarder->KeepLogitsOf(chosen).ok());
      std::vector<SampleRow> rows(chosen.size());
      for (size_t i = 0; i < rows.size(); ++i) {
        rows[i].row = static_cast<int64_t>(i);
        rows[i].logprobs = 4;
      }
      results[forwarder == &on_cpu ? 1 : 0].emplace_back(rows.size());
      ASSERT_TRUE(forwarder->Sample(rows, results[forwarder == &on_cpu ? 1 : 0].back()).ok());
    }
    std::vector<float> hidden(static_cast<size_t>(model->config().hidden_size)), logits(320);
    ASSERT_TRUE(forwarder->Head(hidden.data(), 1, logits.data()).ok());
    EXPECT_EQ(ReasonOf(forwarder->KeepLogitsOf({&first, 1})), "NO_HIDDEN_STATES") << "after another call";
  }
  for (size_t i = 0; i < choices.size(); ++i) {
    for (size_t row = 0; row < choices[i].size(); ++row) {
      const SampleResult &got = results[0][i][row], &expected = results[1][i][row];
      EXPECT_EQ(got.outcome, SampleOutcome::kChosen) << i;
      EXPECT_EQ(got.token, expected.token) << i << ", " << row;
      EXPECT_EQ(got.own, expected.own) << i << ", " << row;
      EXPECT_EQ(got.own_total, expected.own_total) << i << ", " << row;
      // The same hidden state gives the same, whatever stands beside it.
      EXPECT_EQ(got.own_total, results[0][0][static_cast<size_t>(choices[i][row])].own_total) << i << ", " << row;
    }
  }
}

TEST_F(DeviceModel, RefusesWhatTheCpuRefuses) {
  Pair pair(TinyCheckpoint({.seed = 3}), Open(), {}, 1);
  ASSERT_TRUE(pair.cache(0).Reserve(4));
  std::vector<float> hidden;
  const std::vector<int32_t> bad = {1, 320}, many(static_cast<size_t>(pair.cache(0).capacity() + 1), 1);
  SequenceChunk chunk{bad, &pair.cache(0)};
  EXPECT_EQ(ReasonOf(pair.on_device().ForwardHidden(std::span(&chunk, 1), hidden)), "PROMPT_TOKEN");
  chunk.tokens = many;
  EXPECT_EQ(ReasonOf(pair.on_device().ForwardHidden(std::span(&chunk, 1), hidden)), "CONTEXT_FULL");
  EXPECT_EQ(pair.cache(0).length(), 0);
}

// ---- only where the device is ours to break ----
#if !defined(QAMSERVE_TEST_ON_GPU)

TEST_F(DeviceModel, TooLittleMemoryIsSaidAndFreedAgain) {
  const std::shared_ptr<const Model> model = TinyCheckpoint({.seed = 3});
  const KvLayout layout(model->config(), model->config().num_layers, {});
  const auto create = [&](int64_t bytes) {
    auto device = std::make_unique<HostForwardDevice>();
    device->LimitMemory(bytes);
    return CudaModel::Create(model, std::move(device), layout, 100).status();
  };
  absl::Status status = create(model->weight_bytes() / 2);
  EXPECT_EQ(ReasonOf(status), "CUDA_MEMORY");
  EXPECT_NE(MessageOf(status).find("of 2 layers"), std::string::npos) << status;
  status = create(2 * model->weight_bytes());
  EXPECT_EQ(ReasonOf(status), "CUDA_MEMORY");
  EXPECT_NE(MessageOf(status).find("100 blocks of keys and values"), std::string::npos) << status;
  EXPECT_TRUE(create(2 * model->weight_bytes() + 100 * layout.block_bytes()).ok());
}

// What HostForwardDevice does then is what it did before, so equal results say that such steps are alike.
TEST_F(DeviceModel, StepsThatComeAgainAreRepeated) {
  auto device = std::make_unique<HostForwardDevice>();
  HostForwardDevice& kept = *device;
  Pair pair(TinyCheckpoint({.architecture = Architecture::kGemma3, .seed = 3}), std::move(device), {}, 3);
  ASSERT_NO_FATAL_FAILURE(pair.FeedAll("repeated"));
  EXPECT_GT(kept.repeats(), 0);
  const int64_t before = kept.repeats();
  for (int i = 0; i < 3; ++i) ASSERT_NO_FATAL_FAILURE(pair.Feed({1, 1, 0}, "two of three"));
  EXPECT_GT(kept.repeats(), before);
}

// Wherever the device is lost, the step is an error, no cache has grown, and later steps are errors too.
TEST_F(DeviceModel, ADeviceThatIsLostEndsTheStep) {
  const std::shared_ptr<const Model> model = TinyCheckpoint({.seed = 3});
  const std::vector<int32_t> tokens = {5, 6, 7};
  const KvLayout layout(model->config(), model->config().num_layers, {});
  const auto step = [&](int64_t calls, absl::Status& first, absl::Status& second) {
    auto device = std::make_unique<HostForwardDevice>();
    HostForwardDevice& kept = *device;
    absl::StatusOr<std::unique_ptr<CudaModel>> on_device = CudaModel::Create(model, std::move(device), layout, 4);
    ASSERT_TRUE(on_device.ok()) << on_device.status();
    kept.FailAfter(calls);
    KvPool pool(layout, 4, KvMemory::kElsewhere);
    KvCache cache(pool);
    ASSERT_TRUE(cache.Reserve(3));
    const SequenceChunk chunk{tokens, &cache};
    std::vector<float> hidden, logits(320);
    first = (*on_device)->ForwardHidden(std::span(&chunk, 1), hidden);
    EXPECT_EQ(cache.length(), first.ok() ? 3 : 0);
    if (first.ok()) first = (*on_device)->Head(hidden.data(), 1, logits.data());
    second = (*on_device)->Head(std::vector<float>(64).data(), 1, logits.data());
  };
  int64_t calls = 0;
  for (bool whole = false; !whole; ++calls) {
    absl::Status first, second;
    ASSERT_NO_FATAL_FAILURE(step(calls, first, second));
    whole = first.ok() && second.ok();
    if (first.ok()) continue;
    EXPECT_EQ(ReasonOf(first), "CUDA_LOST") << calls;
    EXPECT_EQ(ReasonOf(second), "CUDA_LOST") << calls;
  }
  EXPECT_GT(calls, 40) << "a step of two layers asks the device for more than that";
}

// Every head of every row is in one tile, and passes hold what they were given room for.
TEST(StepPlan, TilesCoverEveryQueryOnce) {
  ModelConfig config;
  config.num_layers = 2;
  config.num_heads = 20;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.sliding_window = 21;
  config.layer_slides = {true, false};
  const KvLayout layout(config, 2, {.block_tokens = 8});
  KvPool pool(layout, 64, KvMemory::kElsewhere);
  KvCache a(pool), b(pool);
  ASSERT_TRUE(a.Reserve(100));
  ASSERT_TRUE(b.Reserve(30));
  a.SetLength(70);
  const std::vector<int32_t> tokens(25, 1);
  const SequenceChunk chunks[] = {{tokens, &a}, {tokens, &b, true}};
  constexpr int64_t kMost = 2000;
  const StepPlan plan(config, chunks, kMost);
  EXPECT_EQ(plan.rows(), 50);
  EXPECT_EQ(plan.wanted.size(), 26u);
  EXPECT_LE(plan.scores, kMost);
  for (const AttentionPlan* attention : {&plan.global, &plan.sliding}) {
    std::set<std::pair<int, int>> seen;
    int64_t next = 0;
    for (const AttentionPass& pass : attention->passes) {
      EXPECT_EQ(pass.first_tile, next);
      next += pass.tiles;
      int64_t scores = 0;
      for (int64_t i = pass.first_tile; i < next; ++i) {
        const AttentionTile& tile = attention->tiles[static_cast<size_t>(i)];
        EXPECT_EQ(tile.scores, scores);
        scores += int64_t{tile.keys} * tile.tokens * tile.heads;
        EXPECT_LE(tile.tokens * tile.heads, kTileQueries);
        EXPECT_EQ(tile.head / 10, (tile.head + tile.heads - 1) / 10) << "one KV head";
        EXPECT_EQ(tile.begin % 8, 0);
        EXPECT_EQ(tile.keys % 8, 0);
        EXPECT_GE(tile.begin + tile.keys, tile.position + tile.tokens);
        EXPECT_LE(tile.begin, attention == &plan.sliding ? std::max(0, tile.position - 20) : 0);
        EXPECT_LE(tile.keys, pass.most_keys);
        for (int t = 0; t < tile.tokens; ++t) {
          EXPECT_EQ(plan.positions[static_cast<size_t>(tile.row + t)], tile.position + t);
          EXPECT_EQ(plan.tables[static_cast<size_t>(tile.row + t)], tile.table);
          for (int h = 0; h < tile.heads; ++h) EXPECT_TRUE(seen.insert({tile.row + t, tile.head + h}).second);
        }
      }
      EXPECT_LE(scores, kMost);
    }
    EXPECT_EQ(next, static_cast<int64_t>(attention->tiles.size()));
    EXPECT_EQ(seen.size(), 50u * 20u);
    EXPECT_GT(attention->passes.size(), 1u);
  }
}

#endif

}  // namespace
}  // namespace qamserve
