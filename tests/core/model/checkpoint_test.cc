#include "core/model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr Architecture kAll[] = {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2,
                                 Architecture::kQwen3, Architecture::kGemma3};

using CheckpointOr = absl::StatusOr<std::shared_ptr<const Checkpoint>>;

CheckpointOr OpenPath(const std::string& path) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(path));
  return Checkpoint::Open(files);
}

CheckpointOr OpenHuggingFace(const TempFolder& folder, const TinyModelOptions& options) {
  RETURN_IF_ERROR(WriteTinyModel(options, folder / "model"));
  return OpenPath(folder / "model");
}

CheckpointOr OpenGguf(const TempFolder& folder, const TinyModelOptions& options) {
  RETURN_IF_ERROR(WriteTinyGguf(options, folder / "tiny.gguf"));
  return OpenPath(folder / "tiny.gguf");
}

std::vector<float> ReadAll(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo& info = checkpoint.Info(name);
  std::vector<float> values(static_cast<size_t>(info.elements()));
  const absl::Status status = checkpoint.ReadRows(name, 0, info.rows(), values);
  EXPECT_TRUE(status.ok()) << MessageOf(status);
  return values;
}

void ExpectRefused(const CheckpointOr& checkpoint, std::string_view reason, std::string_view first,
                   std::string_view second = "") {
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_EQ(ReasonOf(checkpoint.status()), reason);
  EXPECT_THAT(MessageOf(checkpoint.status()), AllOf(HasSubstr(std::string(first)), HasSubstr(std::string(second))));
}

TEST(CheckpointTest, ReadsWhatWasWritten) {
  for (const Architecture architecture : kAll) {
    for (const int64_t shard_bytes : {int64_t{0}, int64_t{40000}}) {
      SCOPED_TRACE(ArchitectureName(architecture));
      const TempFolder folder;
      const TinyModelOptions options{.architecture = architecture, .shard_bytes = shard_bytes};
      const auto checkpoint = OpenHuggingFace(folder, options);
      ASSERT_TRUE(checkpoint.ok()) << MessageOf(checkpoint.status());
      EXPECT_EQ((*checkpoint)->config_json(), TinyConfig(options).dump(2));
      int64_t parameters = 0;
      for (const TinyTensor& tensor : TinyTensors(options)) {
        SCOPED_TRACE(tensor.name);
        ASSERT_TRUE((*checkpoint)->Has(tensor.name));
        EXPECT_EQ((*checkpoint)->Info(tensor.name).shape, tensor.shape);
        std::vector<float> expected = TinyValues(options, tensor);
        parameters += static_cast<int64_t>(expected.size());
        const bool less_one = architecture == Architecture::kGemma3 && tensor.name.ends_with("norm.weight");
        for (float& value : expected) value += less_one ? 1 : 0;
        EXPECT_EQ(ReadAll(**checkpoint, tensor.name), expected);
      }
      EXPECT_EQ((*checkpoint)->parameters(), parameters);
      EXPECT_FALSE((*checkpoint)->Has("model.layers.2.mlp.up_proj.weight"));
    }
  }
}

// The GGUF holds q and k of llama permuted and Gemma's norms whole; under Hugging Face names both files are one model.
TEST(CheckpointTest, GgufAndHuggingFaceGiveTheSameRows) {
  for (const Architecture architecture : kAll) {
    SCOPED_TRACE(ArchitectureName(architecture));
    const TempFolder folder;
    const TinyModelOptions options{.architecture = architecture, .tie_embeddings = true};
    const auto ours = OpenHuggingFace(folder, options);
    const auto gguf = OpenGguf(folder, options);
    ASSERT_TRUE(ours.ok()) << MessageOf(ours.status());
    ASSERT_TRUE(gguf.ok()) << MessageOf(gguf.status());
    EXPECT_EQ((*ours)->parameters(), (*gguf)->parameters());
    for (const TinyTensor& tensor : TinyTensors(options)) {
      EXPECT_EQ(ReadAll(**ours, tensor.name), ReadAll(**gguf, tensor.name)) << tensor.name;
      EXPECT_EQ((*gguf)->Info(tensor.name).name, tensor.name);
    }
  }
}

TEST(CheckpointTest, PermutedRowsInAnyRange) {
  const TempFolder folder;
  const TinyModelOptions options;
  const auto checkpoint = OpenGguf(folder, options);
  ASSERT_TRUE(checkpoint.ok()) << MessageOf(checkpoint.status());
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  const std::vector<float> all = ReadAll(**checkpoint, name);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {7, 9}, {15, 33}, {63, 64}, {5, 5}}) {
    std::vector<float> rows(static_cast<size_t>((end - begin) * 64));
    ASSERT_TRUE((*checkpoint)->ReadRows(name, begin, end, rows).ok());
    EXPECT_EQ(rows, std::vector<float>(all.begin() + begin * 64, all.begin() + end * 64));
  }
  std::vector<float> row(64);
  EXPECT_EQ(ReasonOf((*checkpoint)->ReadRows(name, 64, 65, row)), "TENSOR_RANGE");
  EXPECT_EQ(ReasonOf((*checkpoint)->ReadRows(name, 0, 2, row)), "TENSOR_RANGE");
  EXPECT_EQ(ReasonOf((*checkpoint)->ReadRows("model.none", 0, 1, row)), "TENSOR_MISSING");
}

TEST(CheckpointTest, SmallTypesAreNearTheFloats) {
  const TinyModelOptions options;
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const std::vector<TinyTensor> tensors = TinyTensors(options);
  const std::vector<float> exact = TinyValues(options, *FindTinyTensor(tensors, name));
  // Largest error allowed: the deviation is 0.09 and no weight is beyond 3.5 of it.
  const struct {
    DType dtype;
    bool gguf;
    double limit;
  } cases[] = {{DType::kF16, false, 2e-4},
               {DType::kBF16, false, 2e-3},
               {DType::kF16, true, 2e-4},
               {DType::kQ8_0, true, 2e-3},
               {DType::kQ4_1, true, 0.03}};
  for (const auto& test : cases) {
    SCOPED_TRACE(DTypeName(test.dtype));
    const TempFolder folder;
    TinyModelOptions small = options;
    small.dtype = test.dtype;
    const auto checkpoint = test.gguf ? OpenGguf(folder, small) : OpenHuggingFace(folder, small);
    ASSERT_TRUE(checkpoint.ok()) << MessageOf(checkpoint.status());
    EXPECT_EQ((*checkpoint)->Info(name).dtype, test.dtype);
    const std::vector<float> read = ReadAll(**checkpoint, name);
    double worst = 0;
    for (size_t i = 0; i < read.size(); ++i) worst = std::max(worst, std::abs(double{read[i]} - exact[i]));
    EXPECT_LT(worst, test.limit);
    EXPECT_GT(worst, 0);
  }
}

TEST(CheckpointTest, MissingTensor) {
  for (const bool gguf : {false, true}) {
    const TempFolder folder;
    TinyModelOptions options;
    options.edit_tensors = [](std::vector<TinyTensor>& tensors) {
      std::erase_if(tensors, [](const TinyTensor& t) { return t.name == "model.layers.1.mlp.up_proj.weight"; });
    };
    ExpectRefused(gguf ? OpenGguf(folder, options) : OpenHuggingFace(folder, options), "TENSOR_MISSING",
                  "model.layers.1.mlp.up_proj.weight", "[128, 64]");
  }
}

TEST(CheckpointTest, UntiedModelWithoutHead) {
  const TempFolder folder;
  TinyModelOptions options{.tie_embeddings = true};
  options.edit_config = [](nlohmann::ordered_json& json) { json["tie_word_embeddings"] = false; };
  ExpectRefused(OpenHuggingFace(folder, options), "TENSOR_MISSING", "lm_head.weight");
}

TEST(CheckpointTest, WrongShape) {
  for (const bool gguf : {false, true}) {
    const TempFolder folder;
    TinyModelOptions options;
    options.edit_tensors = [](std::vector<TinyTensor>& tensors) {
      FindTinyTensor(tensors, "model.layers.0.self_attn.v_proj.weight")->shape = {32, 32};
    };
    ExpectRefused(gguf ? OpenGguf(folder, options) : OpenHuggingFace(folder, options), "TENSOR_SHAPE", "[32, 32]",
                  "[32, 64]");
  }
}

TEST(CheckpointTest, UnknownTensor) {
  for (const bool gguf : {false, true}) {
    const TempFolder folder;
    TinyModelOptions options;
    options.edit_tensors = [](std::vector<TinyTensor>& tensors) {
      tensors.push_back({"model.layers.0.self_attn.sinks", {4}});
    };
    ExpectRefused(gguf ? OpenGguf(folder, options) : OpenHuggingFace(folder, options), "TENSOR_UNKNOWN",
                  "model.layers.0.self_attn.sinks", "llama");
  }
  // A layer too many is unknown too.
  const TempFolder folder;
  TinyModelOptions options;
  options.edit_config = [](nlohmann::ordered_json& json) { json["num_hidden_layers"] = 1; };
  ExpectRefused(OpenHuggingFace(folder, options), "TENSOR_UNKNOWN", "model.layers.1.");
  // Biases belong to Qwen 2 only.
  options = {.architecture = Architecture::kQwen3};
  options.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    tensors.push_back({"model.layers.0.self_attn.q_proj.bias", {64}});
  };
  ExpectRefused(OpenHuggingFace(folder, options), "TENSOR_UNKNOWN", "q_proj.bias");
}

TEST(CheckpointTest, TensorsThatDoNoHarm) {
  const TempFolder folder;
  TinyModelOptions options{.tie_embeddings = true};
  options.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {8}});
    tensors.push_back({"lm_head.weight", {320, 64}});
  };
  const auto checkpoint = OpenHuggingFace(folder, options);
  ASSERT_TRUE(checkpoint.ok()) << MessageOf(checkpoint.status());
  EXPECT_FALSE((*checkpoint)->Has("lm_head.weight"));
}

TEST(CheckpointTest, MultimodalGemma) {
  for (const std::string prefix : {"language_model.model.", "model.language_model."}) {
    const TempFolder folder;
    TinyModelOptions options{.architecture = Architecture::kGemma3, .tie_embeddings = true};
    options.edit_config = [](nlohmann::ordered_json& json) {
      const nlohmann::ordered_json text = json;
      json = {{"architectures", {"Gemma3ForConditionalGeneration"}}, {"text_config", text}};
    };
    options.edit_tensors = [&](std::vector<TinyTensor>& tensors) {
      for (TinyTensor& tensor : tensors) tensor.name = prefix + tensor.name.substr(6);
      tensors.push_back({"vision_tower.patch.weight", {3, 5}});
    };
    const auto checkpoint = OpenHuggingFace(folder, options);
    ASSERT_TRUE(checkpoint.ok()) << MessageOf(checkpoint.status());
    EXPECT_TRUE((*checkpoint)->Has("model.layers.1.post_feedforward_layernorm.weight"));
    EXPECT_THAT((*checkpoint)->config_json(), HasSubstr("Gemma3ForCausalLM"));
  }
}

TEST(CheckpointTest, ValuesThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    const TempFolder folder;
    TinyModelOptions options;
    const std::string name = "model.layers.0.mlp.gate_proj.weight";
    options.edit_tensors = [&](std::vector<TinyTensor>& tensors) {
      FindTinyTensor(tensors, name)->overrides = {{3 * 64 + 5, bad}};
    };
    const auto checkpoint = OpenHuggingFace(folder, options);
    ASSERT_TRUE(checkpoint.ok()) << MessageOf(checkpoint.status());
    std::vector<float> rows(2 * 64);
    const absl::Status status = (*checkpoint)->ReadRows(name, 2, 4, rows);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReasonOf(status), "TENSOR_NOT_FINITE");
    EXPECT_THAT(MessageOf(status), AllOf(HasSubstr(name), HasSubstr("row 3, column 5"), HasSubstr(folder.path())));
    EXPECT_TRUE((*checkpoint)->ReadRows(name, 0, 2, rows).ok());
  }
}

TEST(CheckpointTest, IntegerWeights) {
  const TempFolder folder;
  ASSERT_TRUE(WriteTinyModel({}, folder / "model").ok());
  // Same bytes, another type in the header.
  const std::string path = folder / "model/model.safetensors";
  std::string text = *ReadFile(path, 1 << 24);
  for (size_t at = text.find("\"F32\""); at != std::string::npos; at = text.find("\"F32\""))
    text.replace(at, 5, "\"I32\"");
  ASSERT_TRUE(WriteFileAtomically(path, text).ok());
  ExpectRefused(OpenPath(folder / "model"), "TENSOR_DTYPE_UNSUPPORTED", "I32", "weight");
}

TEST(CheckpointTest, FolderWithoutModel) {
  const TempFolder folder;
  ExpectRefused(OpenPath(folder.path()), "CHECKPOINT_FILE_MISSING", "config.json");
  TinyModelOptions options;
  options.edit_config = [](nlohmann::ordered_json& json) { json["architectures"] = {"MambaForCausalLM"}; };
  ExpectRefused(OpenHuggingFace(folder, options), "ARCHITECTURE_UNSUPPORTED", "MambaForCausalLM");
}

TEST(CheckpointTest, LinearNamesExist) {
  const TempFolder folder;
  const auto checkpoint = OpenHuggingFace(folder, {});
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_EQ((*checkpoint)->LinearNames(1).front(), "model.layers.1.self_attn.q_proj");
  EXPECT_EQ((*checkpoint)->LinearNames(1).size(), 7u);
  for (const std::string& name : (*checkpoint)->LinearNames(1)) EXPECT_TRUE((*checkpoint)->Has(name + ".weight"));
}

}  // namespace
}  // namespace qamserve
