// Codec full: what is stored, in which type, what the model computes with it, and what it excludes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/file.h"
#include "core/codec/half.h"
#include "core/evaluate/evaluate.h"
#include "core/model/artifact.h"
#include "core/model/model.h"
#include "core/quantize/internal.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_artifact.h"

namespace qamserve {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kUp[] = "model.layers.1.mlp.up_proj";

absl::Status NoProgress(double) { return absl::OkStatus(); }

QuantizeSpec Full() {
  return {.codec = Codec::kFull, .bpw = 16, .channel_scale = false, .rotation = RotationKind::kNone};
}

struct Made {
  TempFolder folder;
  TinyModelOptions model;
  std::shared_ptr<const Checkpoint> checkpoint;
  QuantizePlan plan;

  absl::Status Make() {
    RETURN_IF_ERROR(WriteTinyArtifact(model, Full(), folder.path()));
    ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(folder / "model"));
    ASSIGN_OR_RETURN(checkpoint, Checkpoint::Open(files));
    ASSIGN_OR_RETURN(plan, PlanQuantization(*checkpoint, Full(), 1));
    return absl::OkStatus();
  }
  FileSet Artifact() const { return *FileSet::FromPath(folder / "artifact"); }
  DType TypeOf(const std::string& layer) const {
    return (*ArtifactReader::Open(Artifact()))->Find(layer + ".weight")->dtype;
  }
  uint16_t FirstWeight(const std::string& layer) const {
    const auto artifact = *ArtifactReader::Open(Artifact());
    const TensorInfo& info = *artifact->Find(layer + ".weight");
    uint16_t bits;
    std::memcpy(&bits, *artifact->Mapped(info.name, info.dtype, info.shape), sizeof(bits));
    return bits;
  }
};

// Every weight of a tensor has one value.
void Fill(std::vector<TinyTensor>& tensors, const std::string& layer, double value) {
  TinyTensor* tensor = FindTinyTensor(tensors, layer + ".weight");
  tensor->mean = value;
  tensor->deviation = 0;
}

class SixteenBits : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, SixteenBits, testing::Values(DType::kF16, DType::kBF16),
                         [](const auto& info) { return DTypeName(info.param); });

TEST_P(SixteenBits, AreKeptBitForBitAndComputeTheSame) {
  Made made;
  made.model.dtype = GetParam();
  made.model.architecture = Architecture::kQwen2;  // has biases
  ASSERT_EQ(made.Make(), absl::OkStatus());
  EXPECT_EQ(made.plan.bpw, 16);
  EXPECT_EQ(std::filesystem::file_size(made.folder / "artifact/model.safetensors"),
            static_cast<uint64_t>(made.plan.artifact_bytes));
  const auto artifact = *ArtifactReader::Open(made.Artifact());
  for (const QuantizePlan::Tensor& t : made.plan.tensors) {
    EXPECT_EQ(t.packed_bytes, t.rows * t.cols * 2);
    const auto stored = artifact->Mapped(t.name + ".weight", GetParam(), {t.rows, t.cols});
    ASSERT_TRUE(stored.ok()) << stored.status();
    EXPECT_FALSE(artifact->Has(t.name + kCodesSuffix));
    EXPECT_FALSE(artifact->Has(t.name + kRowNormSuffix));
    std::vector<float> rows(static_cast<size_t>(t.rows * t.cols));
    ASSERT_EQ(made.checkpoint->ReadRows(t.name + ".weight", 0, t.rows, rows), absl::OkStatus());
    for (size_t i = 0; i < rows.size(); ++i) {
      uint16_t bits;
      std::memcpy(&bits, *stored + 2 * i, sizeof(bits));
      ASSERT_EQ(GetParam() == DType::kF16 ? HalfToFloat(bits) : BFloat16ToFloat(bits), rows[i]) << t.name << " " << i;
    }
  }
  const auto model = Model::Load(made.Artifact());
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<int32_t> window;
  window.reserve(40);
  for (int32_t t = 0; t < 40; ++t) window.push_back(7 * t % 300);
  ThreadPool pool(2);
  const auto report = Evaluate(*made.checkpoint, **model, {window, window}, pool, NoProgress);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_LT(report->kl_max, 1e-9);
  EXPECT_EQ(report->top1_agreement, 1);
  EXPECT_EQ(report->base_perplexity, report->quantized_perplexity);
}

// The worked example of docs/artifact_format.md.
TEST(Types, OfFloatsTheOneThatLosesLessIsTaken) {
  Made made;
  made.model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    Fill(tensors, kUp, 1e-7);
    Fill(tensors, "model.layers.0.mlp.up_proj", 0.3);
  };
  ASSERT_EQ(made.Make(), absl::OkStatus());
  EXPECT_EQ(made.TypeOf(kUp), DType::kBF16);
  EXPECT_EQ(made.FirstWeight(kUp), 0x33d7);
  EXPECT_EQ(made.TypeOf("model.layers.0.mlp.up_proj"), DType::kF16);
  EXPECT_EQ(made.FirstWeight("model.layers.0.mlp.up_proj"), 0x34cd);
  EXPECT_EQ(std::filesystem::file_size(made.folder / "artifact/model.safetensors"),
            static_cast<uint64_t>(made.plan.artifact_bytes))
      << "known before the types were";
}

TEST(Types, WhatIsExactInBothIsF16) {
  Made made;
  made.model.edit_tensors = [](std::vector<TinyTensor>& tensors) { Fill(tensors, kUp, 0.75); };
  ASSERT_EQ(made.Make(), absl::OkStatus());
  EXPECT_EQ(made.TypeOf(kUp), DType::kF16);
}

TEST(Types, AValueAboveF16MakesItBFloat16) {
  Made made;
  made.model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    FindTinyTensor(tensors, std::string(kUp) + ".weight")->overrides = {{5, 65520.0f}};
  };
  ASSERT_EQ(made.Make(), absl::OkStatus());
  EXPECT_EQ(made.TypeOf(kUp), DType::kBF16);
  EXPECT_EQ(made.TypeOf("model.layers.1.mlp.gate_proj"), DType::kF16) << "of the same group";
  EXPECT_TRUE(Model::Load(made.Artifact()).ok());
}

TEST(Types, AValueAboveBothIsAnErrorThatNamesTheTensor) {
  Made made;
  made.model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    FindTinyTensor(tensors, std::string(kUp) + ".weight")->overrides = {{5, -3.4e38f}};
  };
  const absl::Status status = made.Make();
  EXPECT_EQ(ReasonOf(status), "TENSOR_RANGE") << status;
  EXPECT_THAT(MessageOf(status), HasSubstr(kUp));
}

TEST(Types, BlocksOfGgufAreWidened) {
  const TempFolder folder;
  TinyModelOptions model;
  model.dtype = DType::kQ8_0;
  ASSERT_EQ(WriteTinyGguf(model, folder / "m.gguf"), absl::OkStatus());
  const auto checkpoint = Checkpoint::Open(*FileSet::FromPath(folder / "m.gguf"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto quantizer = Quantizer::Create(*checkpoint, Full());
  ASSERT_TRUE(quantizer.ok()) << quantizer.status();
  ThreadPool pool(1);
  const auto outcome = (*quantizer)->QuantizeTensor(0, {}, pool, NoProgress, folder / "packed");
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->type, "F16");
  EXPECT_EQ(outcome->bpw, 16);
  // Rounding to 11 bits loses a third of a quarter of 2^-22 or less of a weight's square.
  EXPECT_LT(outcome->distortion, 0x1p-22);
  EXPECT_GE(outcome->worst_row_distortion, outcome->distortion);
}

TEST(Excludes, EveryOptionOfACodecByName) {
  const auto error = [](auto change) {
    QuantizeSpec spec = Full();
    change(spec);
    return ValidateQuantizeSpec(spec);
  };
  EXPECT_EQ(ValidateQuantizeSpec(Full()), absl::OkStatus());
  const std::pair<const char*, absl::Status> refused[] = {
      {"channel_scale", error([](QuantizeSpec& s) { s.channel_scale = true; })},
      {"error_feedback", error([](QuantizeSpec& s) { s.error_feedback = true; })},
      {"rates", error([](QuantizeSpec& s) { s.rates = {{.filter = "*", .bpw = 16}}; })},
      {"rotation", error([](QuantizeSpec& s) { s.rotation = RotationKind::kBlock; })},
      {"embedding_bits", error([](QuantizeSpec& s) { s.embedding_bits = 8; })}};
  for (const auto& [field, status] : refused) {
    EXPECT_EQ(ReasonOf(status), "CODEC_OPTION") << field;
    EXPECT_THAT(MessageOf(status), HasSubstr(field));
  }
  EXPECT_EQ(ReasonOf(error([](QuantizeSpec& s) { s.bpw = 8; })), "BPW_RANGE");
  EXPECT_THAT(RatesOf(Codec::kFull), testing::ElementsAre(16));
}

TEST(Report, SaysWhatIsStored) {
  Made made;
  ASSERT_EQ(made.Make(), absl::OkStatus());
  ArtifactInputs inputs;
  inputs.display_name = "tiny";
  inputs.calibration_source = "none";
  inputs.outcomes = {{.name = kUp, .rows = 128, .cols = 64, .bpw = 16, .type = "BF16"}};
  const Json report = Json::parse(ReportJson(Full(), made.plan, inputs, {}));
  EXPECT_EQ(report["spec"]["codec"], "full");
  EXPECT_EQ(report["bpw"], 16);
  EXPECT_EQ(report["tensors"][0]["type"], "BF16");
  const std::string card = ModelCard(*made.checkpoint, Full(), made.plan, inputs, {});
  EXPECT_THAT(card, HasSubstr("# tiny in full precision"));
  EXPECT_THAT(card, HasSubstr("stored as 16-bit floats (1 in BF16)"));
  EXPECT_THAT(card, HasSubstr("without calibration"));
  EXPECT_THAT(card, testing::Not(HasSubstr("codebook")));
  // A report of codes says nothing of types.
  inputs.outcomes[0].type = "";
  EXPECT_FALSE(Json::parse(ReportJson(Full(), made.plan, inputs, {}))["tensors"][0].contains("type"));
}

TEST(Artifact, AConfigThatDoesNotFitItsTensorsIsRefused) {
  Made made;
  ASSERT_EQ(made.Make(), absl::OkStatus());
  const std::string path = made.folder / "artifact/config.json";
  Json config = Json::parse(*ReadFile(path, 1 << 20));
  EXPECT_EQ(config["quantization_config"]["codec"], "full");
  EXPECT_EQ(config["quantization_config"]["pair_bits"], 32);
  config["quantization_config"]["tensors"][kUp] = {{"codec", "joint"}, {"pair_bits", 11}};
  ASSERT_EQ(WriteFileAtomically(path, config.dump()), absl::OkStatus());
  const auto refused = Model::Load(made.Artifact());
  EXPECT_EQ(ReasonOf(refused.status()), "TENSOR_MISSING") << "its codes: " << refused.status();
  config["quantization_config"]["tensors"].clear();
  config["quantization_config"]["pair_bits"] = 16;
  ASSERT_EQ(WriteFileAtomically(path, config.dump()), absl::OkStatus());
  EXPECT_EQ(ReasonOf(Model::Load(made.Artifact()).status()), "BPW_RANGE");
}

}  // namespace
}  // namespace qamserve
