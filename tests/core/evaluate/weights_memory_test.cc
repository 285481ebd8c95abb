// An artifact is measured with the mapped weights of one block at a time in memory, to the same last bit.
#include <gtest/gtest.h>

#include "core/base/rng.h"
#include "core/evaluate/evaluate.h"
#include "core/model/artifact.h"
#include "core/model/model.h"
#include "core/model/parameters.h"
#include "tests/support/mapped_memory.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_artifact.h"

namespace qamserve {
namespace {

absl::Status NoProgress(double) { return absl::OkStatus(); }

class WeightsMemoryTest : public testing::Test {
 protected:
  static TinyModelOptions Options() {
    TinyModelOptions options;
    options.hidden_size = 256;
    options.intermediate_size = 512;
    options.num_layers = 8;
    options.head_dim = 64;
    return options;
  }
  void SetUp() override {
    QuantizeSpec spec;
    spec.bpw = 4;
    spec.channel_scale = false;
    ASSERT_TRUE(WriteTinyArtifact(Options(), spec, folder_.path()).ok());
    auto model = Model::Load(FileSet::FromPath(folder_ / "artifact").value());
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    weights_ = folder_ / "artifact/model.safetensors";
    Rng rng(3);
    for (int i = 0; i < 40; ++i) window_.push_back(static_cast<int32_t>(rng.NextU64() % 320));
  }

  std::vector<float> Run(Workspace& workspace) {
    KvCache cache(model_->config(), static_cast<int64_t>(window_.size()));
    const SequenceChunk chunk{window_, &cache, /*all_logits=*/true};
    ThreadPool pool(2);
    std::vector<float> hidden;
    const absl::Status status = model_->ForwardHidden({&chunk, 1}, workspace, pool, hidden);
    EXPECT_TRUE(status.ok()) << status;
    return hidden;
  }

  TempFolder folder_;
  std::shared_ptr<const Model> model_;
  std::string weights_;
  std::vector<int32_t> window_;
};

TEST_F(WeightsMemoryTest, AStepLeavesTheWeightsInMemoryUnlessToldToDropThem) {
  Workspace keeping, dropping;
  dropping.DropWeightsAfterUse();
  const std::vector<float> kept = Run(keeping);
  constexpr int64_t kBlocksBytes = 2 << 20;
  EXPECT_GT(ResidentBytesOf(weights_), kBlocksBytes);
  EXPECT_EQ(Run(dropping), kept);
  EXPECT_EQ(ResidentBytesOf(weights_), 0);
  EXPECT_EQ(Run(keeping), kept) << "and they come back";
}

TEST_F(WeightsMemoryTest, AnEvaluationDropsThem) {
  auto checkpoint = Checkpoint::Open(FileSet::FromPath(folder_ / "model").value());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ThreadPool pool(2);
  const auto report = Evaluate(**checkpoint, *model_, {window_}, pool, NoProgress);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(ResidentBytesOf(weights_), 0);
}

// Embeddings and head are copied out of the mapping, and stay there no longer than it takes.
TEST_F(WeightsMemoryTest, LoadingLeavesNothingBehind) {
  model_ = nullptr;
  auto reader = ArtifactReader::Open(FileSet::FromPath(folder_ / "artifact").value());
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto head = (*reader)->LoadEmbedding(kOutputHead);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(ResidentBytesOf(weights_), 0);
}

// The base model's head is not loaded where the artifact has the same; a head in 8 bits is another one.
TEST_F(WeightsMemoryTest, AHeadOfItsOwnIsMeasuredAgainstThatOfTheCheckpoint) {
  auto checkpoint = Checkpoint::Open(FileSet::FromPath(folder_ / "model").value());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  TempFolder other;
  QuantizeSpec spec;
  spec.bpw = 4;
  spec.channel_scale = false;
  spec.embedding_bits = 8;
  ASSERT_TRUE(WriteTinyArtifact(Options(), spec, other.path()).ok());
  const auto rounded = Model::Load(FileSet::FromPath(other / "artifact").value());
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  ThreadPool pool(2);
  const auto kept = Evaluate(**checkpoint, *model_, {window_}, pool, NoProgress);
  const auto eight_bits = Evaluate(**checkpoint, **rounded, {window_}, pool, NoProgress);
  ASSERT_TRUE(kept.ok() && eight_bits.ok());
  EXPECT_EQ(kept->base_perplexity, eight_bits->base_perplexity) << "the base side is the same";
  EXPECT_NE(kept->kl_mean, eight_bits->kl_mean);
}

}  // namespace
}  // namespace qamserve
