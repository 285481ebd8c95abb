// Probes of single tensors against an evaluation of the whole.
#include "core/evaluate/probe.h"

#include <gtest/gtest.h>

#include <numeric>

#include "core/base/rng.h"
#include "core/evaluate/evaluate.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_artifact.h"

namespace qamserve {
namespace {

absl::Status NoProgress(double) { return absl::OkStatus(); }

std::vector<std::vector<int32_t>> SomeWindows() {
  Rng rng(5);
  std::vector<std::vector<int32_t>> windows(2);
  for (auto& window : windows) {
    for (int i = 0; i < 48; ++i) window.push_back(static_cast<int32_t>(rng.NextU64() % 320));
  }
  return windows;
}

class ProbeTest : public testing::TestWithParam<Architecture> {
 protected:
  void SetUp() override {
    QuantizeSpec spec;
    spec.bpw = 3;
    spec.channel_scale = false;
    ASSERT_TRUE(WriteTinyArtifact({.architecture = GetParam()}, spec, folder_.path()).ok());
    checkpoint_ = Checkpoint::Open(FileSet::FromPath(folder_ / "model").value()).value();
    artifact_ = ArtifactReader::Open(FileSet::FromPath(folder_ / "artifact").value()).value();
  }
  std::vector<double> Probe(int64_t layer, int threads) {
    ThreadPool pool(threads);
    auto kl = ProbeBlock(*checkpoint_, *artifact_, layer, SomeWindows(), pool, NoProgress);
    EXPECT_TRUE(kl.ok()) << kl.status();
    return kl.ok() ? *kl : std::vector<double>();
  }

  TempFolder folder_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::unique_ptr<ArtifactReader> artifact_;
};

TEST_P(ProbeTest, PartsAddUpToAboutTheWhole) {
  double sum = 0;
  for (int64_t layer = 0; layer < checkpoint_->config().num_layers; ++layer) {
    const std::vector<double> kl = Probe(layer, 2);
    ASSERT_EQ(kl.size(), 7u);
    for (double value : kl) EXPECT_GT(value, 0);
    sum += std::accumulate(kl.begin(), kl.end(), 0.0);
  }
  ThreadPool pool(2);
  const auto model = Model::Load(FileSet::FromPath(folder_ / "artifact").value());
  ASSERT_TRUE(model.ok()) << model.status();
  const auto whole = Evaluate(*checkpoint_, **model, SomeWindows(), pool, NoProgress);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_GT(sum, 0.6 * whole->kl_mean);
  EXPECT_LT(sum, 1.6 * whole->kl_mean);
}

TEST_P(ProbeTest, IsTheSameForAnyNumberOfThreads) { EXPECT_EQ(Probe(1, 1), Probe(1, 3)); }

TEST_P(ProbeTest, StopsWhenToldTo) {
  ThreadPool pool(1);
  auto stop = [](double) { return Cancelled("STOP", "enough"); };
  EXPECT_EQ(ReasonOf(ProbeBlock(*checkpoint_, *artifact_, 0, SomeWindows(), pool, stop).status()), "STOP");
}

INSTANTIATE_TEST_SUITE_P(Architectures, ProbeTest, testing::Values(Architecture::kLlama, Architecture::kGemma3));

}  // namespace
}  // namespace qamserve
