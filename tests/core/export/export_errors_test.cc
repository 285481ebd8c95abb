// Exports that are refused or stopped: what they say, and that they leave nothing.
#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/core/export/export_fixture.h"

namespace qamserve {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

void EditJson(const std::string& path, const std::function<void(nlohmann::json&)>& edit) {
  nlohmann::json json = nlohmann::json::parse(*ReadFile(path, 1 << 26));
  edit(json);
  ASSERT_EQ(WriteFileAtomically(path, json.dump()), absl::OkStatus());
}

TEST(ExportErrors, WhatIsThereIsNotWrittenOver) {
  Exported e;
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  for (const ExportFormat format : kFormats) {
    e.options.format = format;
    ASSERT_EQ(e.Export(), absl::OkStatus());
    const absl::Status status = e.Export();
    EXPECT_EQ(ReasonOf(status), "EXPORT_EXISTS") << status;
    EXPECT_THAT(MessageOf(status), HasSubstr(e.out()));
  }
}

TEST(ExportErrors, AStoppedExportLeavesNothing) {
  Exported e;
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  for (const ExportFormat format : kFormats) {
    e.options = {.format = format, .max_shard_bytes = 30'000};
    double last = 0;
    const absl::Status status = e.Export([&](double fraction) {
      EXPECT_GT(fraction, last);
      last = fraction;
      return fraction > 0.5 ? absl::CancelledError("stop") : absl::OkStatus();
    });
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
    EXPECT_THAT(e.Leftovers(), IsEmpty());
    // What a killed export left is in no one's way.
    ASSERT_EQ(CreateDirectories(e.out() + ".export-partial/model.gguf"), absl::OkStatus());
    EXPECT_EQ(e.Export(), absl::OkStatus());
    EXPECT_EQ(e.Leftovers().size(), 1u);
    ASSERT_EQ(RemoveAll(e.out()), absl::OkStatus());
  }
}

TEST(ExportErrors, AValueThatF16CannotHoldNamesItsTensorAndRow) {
  Exported e;
  e.options.dtype = DType::kF16;
  e.model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    FindTinyTensor(tensors, "model.embed_tokens.weight")->overrides = {{64 * 7 + 3, 1e6f}};
  };
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  const absl::Status status = e.Export();
  EXPECT_EQ(ReasonOf(status), "EXPORT_RANGE") << status;
  EXPECT_THAT(MessageOf(status), HasSubstr("model.embed_tokens.weight, row 7"));
  EXPECT_THAT(MessageOf(status), HasSubstr("model.safetensors"));
  EXPECT_THAT(e.Leftovers(), IsEmpty());
  e.options.dtype = DType::kBF16;
  EXPECT_EQ(e.Export(), absl::OkStatus());
}

TEST(ExportErrors, ACheckpointIsNoArtifact) {
  Exported e;
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  ThreadPool pool(1);
  const absl::Status status = ExportArtifact(
      *FileSet::FromPath(e.folder / "model"), {}, pool, [](double) { return absl::OkStatus(); }, e.out());
  EXPECT_EQ(ReasonOf(status), "CONFIG_FIELD") << status;
  const absl::Status nowhere = ExportArtifact(
      *FileSet::FromPath(e.artifact()), {}, pool, [](double) { return absl::OkStatus(); }, "");
  EXPECT_EQ(ReasonOf(nowhere), "EXPORT_PATH") << nowhere;
  EXPECT_THAT(e.Leftovers(), IsEmpty());
}

TEST(ExportErrors, ATokenizerThatGgufCannotSayIsNamed) {
  Exported e;
  e.options.format = ExportFormat::kGguf;
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  EditJson(e.artifact() + "/tokenizer.json", [](nlohmann::json& json) {
    json["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"}, {"pattern", {{"Regex", "[aeiou]"}}}, {"behavior", "Isolated"}, {"invert", false}},
          json["pre_tokenizer"]}}};
  });
  const absl::Status status = e.Export();
  EXPECT_EQ(ReasonOf(status), "EXPORT_TOKENIZER") << status;
  EXPECT_THAT(MessageOf(status), HasSubstr("pre_tokenizer"));
  EXPECT_THAT(e.Leftovers(), IsEmpty());
  // A Hugging Face folder takes it as it is.
  e.options.format = ExportFormat::kHuggingFace;
  EXPECT_EQ(e.Export(), absl::OkStatus());
}

TEST(ExportErrors, MathematicsThatGgufHasNoKeyForAreNamed) {
  struct Wrong {
    Architecture architecture;
    std::function<void(nlohmann::ordered_json&)> edit;
    const char* words;
  };
  const Wrong wrong[] = {
      {Architecture::kGemma3, [](auto& c) { c["query_pre_attn_scalar"] = 64; }, "query_pre_attn_scalar 64"},
      {Architecture::kGemma3,
       [](auto& c) {
         c["layer_types"] = {"full_attention", "sliding_attention", "sliding_attention", "full_attention"};
       },
       "layer_types"},
      {Architecture::kQwen3,
       [](auto& c) {
         c["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 8192}};
       },
       "llama3"}};
  for (const Wrong& w : wrong) {
    Exported e;
    e.options.format = ExportFormat::kGguf;
    e.model.architecture = w.architecture;
    e.model.num_layers = 4;
    e.model.edit_config = w.edit;
    ASSERT_EQ(e.Quantize(), absl::OkStatus());
    const absl::Status status = e.Export();
    EXPECT_EQ(ReasonOf(status), "EXPORT_MODEL") << status;
    EXPECT_THAT(MessageOf(status), HasSubstr(w.words));
    EXPECT_THAT(e.Leftovers(), IsEmpty());
    e.options.format = ExportFormat::kHuggingFace;
    EXPECT_EQ(e.Export(), absl::OkStatus());
  }
}

// llama.cpp reads any divisors; our reader of GGUF recognizes those of published models only.
TEST(ExportErrors, ARopeScalingThatOnlyOthersReadBackIsNoError) {
  Exported e;
  e.options.format = ExportFormat::kGguf;
  e.model.edit_config = [](auto& c) {
    c["rope_scaling"] = {{"rope_type", "llama3"},
                         {"factor", 8.0},
                         {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0},
                         {"original_max_position_embeddings", 32}};
  };
  EXPECT_EQ(e.QuantizeAndExport(), absl::OkStatus());
}

TEST(ExportErrors, WordsForOptions) {
  EXPECT_EQ(ParseExportOptions("gguf", "f16")->dtype, DType::kF16);
  EXPECT_EQ(ParseExportOptions("hf", "bf16")->format, ExportFormat::kHuggingFace);
  EXPECT_EQ(ReasonOf(ParseExportOptions("onnx", "f16").status()), "EXPORT_FORMAT");
  EXPECT_EQ(ReasonOf(ParseExportOptions("hf", "int8").status()), "EXPORT_DTYPE");
}

}  // namespace
}  // namespace qamserve
