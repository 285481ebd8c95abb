// Tiny models behind the interface that the registry sees: what is read from them, and chat templates that do not work.
#include "server/serving/core_model_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/file.h"
#include "core/kernels/cuda/matmul.h"
#include "core/model/cuda/cuda_model.h"
#include "tests/support/host_forward_device.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_artifact.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class CoreModelLoaderTest : public testing::Test {
 protected:
  absl::StatusOr<LoadedModel> Load(uint64_t seed, const std::string& chat_template = "") {
    const std::string folder = dir_ / std::to_string(++models_);
    RETURN_IF_ERROR(WriteTinyModel({.seed = seed}, folder));
    if (!chat_template.empty()) RETURN_IF_ERROR(WriteFileAtomically(folder + "/chat_template.jinja", chat_template));
    ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(folder));
    CoreModelLoader loader({.threads = 1});
    ASSIGN_OR_RETURN(const LoadPlan plan, loader.Plan(files, 0));
    return loader.Load(files, plan);
  }

  TempFolder dir_;
  int models_ = 0;
};

TEST_F(CoreModelLoaderTest, ReadsTextsAndComparesModels) {
  auto one = Load(1), other = Load(2);
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_NE(one->chat_template, nullptr);
  EXPECT_TRUE(one->chat_error.ok());
  const std::vector<int32_t> tokens = {10, 11, 12, 13, 14};
  const auto scores = one->generator->Score(tokens, 2);
  ASSERT_TRUE(scores.ok()) << scores.status();
  EXPECT_EQ(scores->logprobs.size(), 4u);
  EXPECT_EQ(scores->top[3].size(), 2u);
  EXPECT_EQ(one->generator->Embed(tokens)->size(), 64u);
  const auto compared = one->generator->Compare(*other->generator, tokens, 2);
  ASSERT_TRUE(compared.ok()) << compared.status();
  ASSERT_EQ(compared->size(), 3u);
  EXPECT_GT((*compared)[0].kl, 0);
  EXPECT_NEAR((*compared)[0].base_nll, -scores->logprobs[1], 1e-5);
}

// On a GPU the KV cache and the scratch memory are the GPU's, and so are as many bytes as the weights have here.
TEST_F(CoreModelLoaderTest, WhatIsOnAGpuIsCountedThere) {
  ASSERT_TRUE(WriteTinyModel({.seed = 1}, dir_ / "gpu").ok());
  const absl::StatusOr<FileSet> files = FileSet::FromPath(dir_ / "gpu");
  ASSERT_TRUE(files.ok());
  const LoadPlan here = *CoreModelLoader({.threads = 1}).Plan(*files, 0);
  EXPECT_EQ(here.total_bytes(), here.weight_bytes + here.kv_bytes + here.scratch_bytes);
  EXPECT_EQ(here.device_bytes(), 0);
  const auto plan = [&](int64_t free_bytes) {
    return CoreModelLoader({.threads = 1, .device = "cuda:3"},
                           [&](int device) -> absl::StatusOr<CudaMemory> {
                             EXPECT_EQ(device, 3);
                             return CudaMemory{.bytes = 3 * free_bytes, .used_bytes = 2 * free_bytes};
                           })
        .Plan(*files, 0);
  };
  const absl::StatusOr<LoadPlan> there = plan(int64_t{1} << 40);
  ASSERT_TRUE(there.ok()) << there.status();
  EXPECT_EQ(there->total_bytes(), here.weight_bytes);
  EXPECT_EQ(there->device_bytes(), there->weight_bytes + there->kv_bytes + there->scratch_bytes + there->driver_bytes);
  EXPECT_GE(there->driver_bytes, 32 << 20) << "the code of kernels is in nobody else's count";
  EXPECT_EQ(there->kv_bytes, here.kv_bytes);
  EXPECT_TRUE(plan(there->device_bytes()).ok());
  const absl::Status too_little = plan(there->device_bytes() - 1).status();
  EXPECT_EQ(too_little.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(too_little), "DEVICE_MEMORY");
  EXPECT_THAT(MessageOf(too_little), HasSubstr("cuda:3"));
  EXPECT_THAT(MessageOf(too_little), HasSubstr(std::to_string(there->device_bytes())));
  EXPECT_THAT(MessageOf(too_little), HasSubstr(std::to_string(there->driver_bytes) + " left to the driver"));
  EXPECT_THAT(MessageOf(too_little), HasSubstr(std::to_string(there->device_bytes() - 1) + " are free"));
}

// What the plan says of a GPU beside what a model takes there, on a device of this machine's memory.
TEST_F(CoreModelLoaderTest, AModelTakesOnAGpuWhatThePlanSays) {
  ASSERT_TRUE(WriteTinyArtifact({.seed = 1}, {.bpw = 4, .channel_scale = false}, dir_.path()).ok());
  const EngineOptions options = {.max_running = 4, .threads = 1, .device = "cuda:0", .draft_tokens = 2};
  for (const char* name : {"model", "artifact"}) {
    SCOPED_TRACE(name);
    int64_t limit = INT64_MAX / 2;
    const CudaModel* on_device = nullptr;
    CoreModelLoader loader(
        options,
        [](int) -> absl::StatusOr<CudaMemory> { return CudaMemory{.bytes = int64_t{1} << 40, .used_bytes = 0}; },
        [&](std::string_view, std::shared_ptr<const Model> model, const KvLayout& layout, int64_t blocks,
            ThreadPool&) -> absl::StatusOr<std::unique_ptr<Forwarder>> {
          auto device = std::make_unique<HostForwardDevice>();
          device->LimitMemory(limit);
          ASSIGN_OR_RETURN(auto created, CudaModel::Create(std::move(model), std::move(device), layout, blocks));
          on_device = created.get();
          return created;
        });
    const absl::StatusOr<FileSet> files = FileSet::FromPath(dir_ / name);
    ASSERT_TRUE(files.ok()) << files.status();
    const absl::StatusOr<LoadPlan> plan = loader.Plan(*files, 0);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const absl::StatusOr<LoadedModel> loaded = loader.Load(*files, *plan);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    // The one thing that a GPU takes another number of bytes for.
    const int64_t rows = CudaModel::ReservedRows(options.prefill_tokens + 4 * (1 + options.draft_tokens));
    const int64_t widest = std::string_view(name) == "model" ? 0 : 512;
    const int64_t planned =
        plan->device_bytes() - plan->driver_bytes - CudaPackedScratchBytes(widest, rows) + kPackedScratchBytes;
    if (widest == 0) {
      EXPECT_EQ(on_device->memory_bytes(), planned);
    } else {
      EXPECT_LE(on_device->memory_bytes(), planned);
      EXPECT_GT(on_device->memory_bytes(), planned - (5 << 18)) << "tables and rotations are less than planned for";
    }
    limit = on_device->memory_bytes();
    EXPECT_TRUE(loader.Load(*files, *plan).ok());
    --limit;
    EXPECT_EQ(ReasonOf(loader.Load(*files, *plan).status()), "CUDA_MEMORY");
  }
}

TEST_F(CoreModelLoaderTest, ATemplateThatDoesNotWorkLeavesTheRest) {
  const std::pair<const char*, const char*> bad[] = {
      {"{% if x %}", "CHAT_TEMPLATE_INVALID"},
      {"{{ raise_exception('never') }}", "CHAT_TEMPLATE_REFUSED"},
      {"{{ messages[0].content + absent }}", "CHAT_TEMPLATE_REFUSED"},
      {"{% for i in range(2000000000) %}{% endfor %}", "CHAT_TEMPLATE_BUDGET"},
  };
  for (const auto& [source, reason] : bad) {
    const auto loaded = Load(1, source);
    ASSERT_TRUE(loaded.ok()) << source << loaded.status();
    EXPECT_EQ(loaded->chat_template, nullptr) << source;
    EXPECT_EQ(ReasonOf(loaded->chat_error), reason) << source;
    EXPECT_THAT(MessageOf(loaded->chat_error), HasSubstr("chat template: ")) << source;
    EXPECT_TRUE(loaded->generator->Embed(std::vector<int32_t>{10}).ok());
  }
  // Some templates want a system message.
  const auto wants = Load(1, "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}fine");
  ASSERT_TRUE(wants.ok());
  EXPECT_NE(wants->chat_template, nullptr);
  EXPECT_TRUE(wants->chat_error.ok());
}

}  // namespace
}  // namespace qamserve
