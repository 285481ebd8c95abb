// An artifact is measured with the mapped weights of one block at a time in memory, to the same last bit.
#include <gtest/gtest.h>

#include "core/base/rng.h"
#include "core/evaluate/evaluate.h"
#include "core/model/artifact.h"
#include "core/model/model.h"
#include "tests/support/mapped_memory.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_artifact.h"

namespace qamserve {
namespace {

absl::Status NoProgress(double) { return absl::OkStatus(); }

class WeightsMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    TinyModelOptions options;
    options.hidden_size = 256;
    options.intermediate_size = 512;
    options.num_layers = 8;
    options.head_dim = 64;
    QuantizeSpec spec;
    spec.bpw = 4;
    spec.channel_scale = false;
    ASSERT_TRUE(WriteTinyArtifact(options, spec, folder_.path()).ok());
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

}  // namespace
}  // namespace qamserve
