// Windows of the model's own samples: what they are, and that they take the memory of one block.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/evaluate/evaluate.h"
#include "core/model/model.h"
#include "tests/support/mapped_memory.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

using Windows = std::vector<std::vector<int32_t>>;

absl::Status NoProgress(double) { return absl::OkStatus(); }

std::shared_ptr<const Checkpoint> OpenAt(const std::string& path) {
  auto checkpoint = Checkpoint::Open(FileSet::FromPath(path).value());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
}

// The same from a model that is whole in memory, one window after the other: a token is where the cumulative sum of
// the probabilities passes a uniform number.
Windows SampleInMemory(const std::string& path, const std::vector<int32_t>& beginning, int32_t windows, int32_t tokens,
                       uint64_t seed) {
  const auto model = Model::Load(FileSet::FromPath(path).value()).value();
  ThreadPool pool(1);
  Workspace workspace;
  Windows out;
  for (int32_t i = 0; i < windows; ++i) {
    std::vector<int32_t>& window = out.emplace_back(beginning);
    KvCache cache(model->config(), tokens);
    Rng rng(seed + static_cast<uint64_t>(i));
    std::vector<float> logits;
    while (static_cast<int32_t>(window.size()) < tokens) {
      const SequenceChunk chunk{std::span(window).subspan(static_cast<size_t>(cache.length())), &cache};
      EXPECT_TRUE(model->Forward({&chunk, 1}, workspace, pool, logits).ok());
      const float max = *std::max_element(logits.begin(), logits.end());
      double left = 0;
      for (const float logit : logits) left += std::exp(static_cast<double>(logit - max));
      left *= rng.NextUniform();
      size_t token = 0;
      for (; token + 1 < logits.size(); ++token) {
        left -= std::exp(static_cast<double>(logits[token] - max));
        if (left < 0) break;
      }
      window.push_back(static_cast<int32_t>(token));
    }
  }
  return out;
}

class SampleTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WriteTinyModel({}, folder_ / "model").ok());
    checkpoint_ = OpenAt(folder_ / "model");
    ASSERT_NE(checkpoint_, nullptr);
  }
  absl::StatusOr<Windows> Sample(const std::vector<int32_t>& beginning, int32_t windows, int32_t tokens,
                                 uint64_t seed) {
    return SampleOf(*checkpoint_, {.beginning = beginning, .windows = windows, .window_tokens = tokens, .seed = seed});
  }
  absl::StatusOr<Windows> SampleOf(const Checkpoint& checkpoint, SampleRequest request,
                                   ProgressFn progress = NoProgress) {
    ThreadPool pool(2);
    request.scratch = folder_ / "scratch";
    return SampleWindows(checkpoint, request, pool, progress);
  }

  TempFolder folder_;
  std::shared_ptr<const Checkpoint> checkpoint_;
};

TEST_F(SampleTest, EveryWindowBeginsAsItWasToldAndGoesOnItsOwnWay) {
  const std::vector<int32_t> beginning = {1, 30, 31, 32, 33};
  const auto windows = Sample(beginning, 3, 24, 1);
  ASSERT_TRUE(windows.ok()) << windows.status();
  std::set<std::vector<int32_t>> different;
  for (const auto& window : *windows) {
    ASSERT_EQ(window.size(), 24u);
    EXPECT_EQ(std::vector<int32_t>(window.begin(), window.begin() + 5), beginning);
    different.insert(window);
  }
  EXPECT_EQ(different.size(), 3u);
  EXPECT_EQ(*Sample(beginning, 3, 24, 1), *windows);
  EXPECT_NE(*Sample(beginning, 3, 24, 2), *windows);
}

TEST_F(SampleTest, AllOfTheBeginningCounts) {
  // The random numbers are the same; that the model saw more than the last token shows in what it makes of them.
  const auto one = Sample({5}, 1, 12, 3), other = Sample({7, 5}, 1, 13, 3);
  ASSERT_TRUE(one.ok() && other.ok());
  EXPECT_NE(std::vector<int32_t>((*one)[0].begin() + 1, (*one)[0].end()),
            std::vector<int32_t>((*other)[0].begin() + 2, (*other)[0].end()));
}

TEST_F(SampleTest, ABeginningThatFillsTheWindowIsRefused) {
  EXPECT_TRUE(Sample({1, 2, 3}, 1, 4, 1).ok());
  for (const std::vector<int32_t>& beginning : {std::vector<int32_t>{}, std::vector<int32_t>{1, 2, 3, 4}}) {
    const absl::Status status = Sample(beginning, 1, 4, 1).status();
    EXPECT_EQ(ReasonOf(status), "WINDOW_TOKENS_RANGE") << status;
  }
}

// Whatever a checkpoint looks like on disk, and however many windows run together.
TEST_F(SampleTest, TokensAreThoseOfTheModelInMemory) {
  struct Case {
    const char* name;
    TinyModelOptions options;
    bool gguf = false;
    bool converted = false;  // some matrices cannot be multiplied where they are stored
  };
  const Case cases[] = {
      {"f32", {}},
      {"bf16", {.dtype = DType::kBF16}},
      {"f16 in shards", {.num_layers = 3, .dtype = DType::kF16, .shard_bytes = 30'000}},
      {"gemma", {.architecture = Architecture::kGemma3, .tie_embeddings = true, .dtype = DType::kBF16}},
      {"qwen2", {.architecture = Architecture::kQwen2, .dtype = DType::kF16}},
      {"llama gguf", {.dtype = DType::kF16}, /*gguf=*/true, /*converted=*/true},
      {"qwen3 gguf", {.architecture = Architecture::kQwen3, .dtype = DType::kF16}, /*gguf=*/true},
      {"q8_0 gguf", {.dtype = DType::kQ8_0}, /*gguf=*/true, /*converted=*/true},
  };
  const std::vector<int32_t> beginning = {1, 30, 31};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string path = folder_ / (std::string(c.name) + (c.gguf ? ".gguf" : ""));
    ASSERT_TRUE((c.gguf ? WriteTinyGguf(c.options, path) : WriteTinyModel(c.options, path)).ok());
    const auto checkpoint = OpenAt(path);
    ASSERT_NE(checkpoint, nullptr);
    const Windows expected = SampleInMemory(path, beginning, 5, 40, 9);
    EXPECT_EQ(SampleScratchBytes(*checkpoint) > 0, c.converted);
    const int64_t one_window = KvCache::BytesFor(checkpoint->config(), 40);
    for (const int64_t kv_bytes : {int64_t{0}, int64_t{1}, 2 * one_window}) {
      const auto windows = SampleOf(
          *checkpoint,
          {.beginning = beginning, .windows = 5, .window_tokens = 40, .seed = 9, .scratch = "", .kv_bytes = kv_bytes});
      ASSERT_TRUE(windows.ok()) << windows.status();
      EXPECT_EQ(*windows, expected) << "with " << kv_bytes << " bytes of keys and values";
    }
    EXPECT_FALSE(std::filesystem::exists(folder_ / "scratch"));
  }
}

TEST_F(SampleTest, ProgressGoesUpToTheEndAndAnErrorOfItEndsTheCall) {
  const std::vector<int32_t> beginning = {1, 2};
  const SampleRequest request{
      .beginning = beginning, .windows = 3, .window_tokens = 12, .seed = 1, .scratch = "", .kv_bytes = 1};
  double last = 0;
  ASSERT_TRUE(SampleOf(*checkpoint_, request, [&](double fraction) {
                EXPECT_GE(fraction, last);
                last = fraction;
                return absl::OkStatus();
              }).ok());
  EXPECT_NEAR(last, 1, 1e-9);
  for (const double at : {0.0, 0.5}) {
    const absl::Status stopped = SampleOf(*checkpoint_, request, [&](double fraction) {
                                   return fraction > at ? absl::CancelledError("enough") : absl::OkStatus();
                                 }).status();
    EXPECT_TRUE(absl::IsCancelled(stopped)) << stopped;
  }
}

// What lies in a mapping is not read a number at a time any more, so it is looked at before.
TEST_F(SampleTest, AWeightThatIsNotFiniteIsNamed) {
  TinyModelOptions options;
  options.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    FindTinyTensor(tensors, "model.layers.1.mlp.up_proj.weight")
        ->overrides.emplace_back(70, std::numeric_limits<float>::quiet_NaN());
  };
  ASSERT_TRUE(WriteTinyModel(options, folder_ / "nan").ok());
  const std::vector<int32_t> beginning = {1};
  const absl::Status status =
      SampleOf(*OpenAt(folder_ / "nan"), {.beginning = beginning, .windows = 1, .window_tokens = 8}).status();
  EXPECT_EQ(ReasonOf(status), "TENSOR_NOT_FINITE");
  EXPECT_NE(MessageOf(status).find("model.layers.1.mlp.up_proj.weight"), std::string::npos) << status;
}

// Bytes by a line of /proc/self/status.
int64_t StatusBytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    int64_t kib = 0;
    if (word == name + ":" && status >> kib) return kib * 1024;
  }
  return 0;
}

// Twelve blocks of 4 MiB, one of which is there at a time. The peak of the process is asked for as well, which also
// sees copies.
TEST_F(SampleTest, ABlockAtATimeIsInMemory) {
  TinyModelOptions options;
  options.hidden_size = 512;
  options.intermediate_size = 1024;
  options.num_layers = 12;
  options.head_dim = 64;
  for (const bool converted : {false, true}) {
    options.dtype = converted ? DType::kQ8_0 : DType::kF32;
    const std::string path = folder_ / (converted ? "large.gguf" : "large");
    ASSERT_TRUE((converted ? WriteTinyGguf(options, path) : WriteTinyModel(options, path)).ok());
    const auto checkpoint = OpenAt(path);
    ASSERT_NE(checkpoint, nullptr);
    const int64_t model_bytes = 4 * checkpoint->parameters();
    ASSERT_GT(model_bytes, 80 << 20);
    const int64_t estimate = SampleMemoryBytes(*checkpoint, 2, 16);
    EXPECT_LT(estimate, model_bytes / 4) << "which is the limit of a worker that makes such a model";
    if (converted) {
      EXPECT_NEAR(static_cast<double>(SampleScratchBytes(*checkpoint)), static_cast<double>(model_bytes), 2e6);
    }

    const std::string file = converted ? folder_ / "scratch" : path + "/model.safetensors";
    std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
    const int64_t before = StatusBytes("VmRSS");
    const bool peak_is_new = StatusBytes("VmHWM") < before + (4 << 20);
    int64_t mapped = 0;
    const std::vector<int32_t> beginning = {1, 2};
    const auto windows =
        SampleOf(*checkpoint, {.beginning = beginning, .windows = 2, .window_tokens = 16}, [&](double) {
          if (!converted) mapped = std::max(mapped, ResidentBytesOf(file));
          return absl::OkStatus();
        });
    ASSERT_TRUE(windows.ok()) << windows.status();
    EXPECT_EQ(mapped, 0) << "pages of a block that has run";
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which keep what was freed, and notes of the rest
    if (!peak_is_new) GTEST_SKIP() << "the system does not let a process begin its peak anew";
    constexpr int64_t kSlack = 6 << 20;  // of the allocator, and of pages that a block shares with the next
    EXPECT_LT(StatusBytes("VmHWM") - before, estimate + kSlack) << "the model has " << model_bytes;
#else
    (void)peak_is_new;
#endif
  }
}

}  // namespace
}  // namespace qamserve
