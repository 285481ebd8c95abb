// Embeddings and heads in 8 bits: what is written, what the model reads, what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/evaluate/evaluate.h"
#include "core/model/artifact.h"
#include "core/model/dequantize.h"
#include "core/model/linear.h"
#include "core/model/model.h"
#include "core/quantize/internal.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_artifact.h"

namespace qamserve {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kEmbedding[] = "model.embed_tokens";
constexpr char kHead[] = "lm_head";

absl::Status NoProgress(double) { return absl::OkStatus(); }

struct Made {
  TempFolder folder;
  TinyModelOptions model = {.vocab_size = 331};  // the last strip has 11 rows
  QuantizeSpec spec = {.channel_scale = false, .embedding_bits = 8};
  std::shared_ptr<const Checkpoint> checkpoint;
  QuantizePlan plan;

  absl::Status Make() {
    RETURN_IF_ERROR(WriteTinyArtifact(model, spec, folder.path()));
    ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(folder / "model"));
    ASSIGN_OR_RETURN(checkpoint, Checkpoint::Open(files));
    ASSIGN_OR_RETURN(plan, PlanQuantization(*checkpoint, spec, 1));
    return absl::OkStatus();
  }
  FileSet Artifact() const { return *FileSet::FromPath(folder / "artifact"); }
  std::vector<std::string> Names() const {
    return model.tie_embeddings ? std::vector<std::string>{kEmbedding} : std::vector<std::string>{kEmbedding, kHead};
  }
};

void Rotate(const Rotation& rotation, std::vector<float>& rows) {
  std::vector<float> scratch(static_cast<size_t>(rotation.size()));
  for (size_t at = 0; at < rows.size(); at += scratch.size()) rotation.Apply(rows.data() + at, scratch.data());
}

class TiedAndUntied : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    made_.model.tie_embeddings = GetParam();
    ASSERT_EQ(made_.Make(), absl::OkStatus());
  }
  Made made_;
};
INSTANTIATE_TEST_SUITE_P(Models, TiedAndUntied, testing::Bool(),
                         [](const auto& info) { return info.param ? "Tied" : "Untied"; });

TEST_P(TiedAndUntied, TheFileHoldsWhatThePlanSaid) {
  EXPECT_EQ(std::filesystem::file_size(made_.folder / "artifact/model.safetensors"),
            static_cast<uint64_t>(made_.plan.artifact_bytes));
  const auto artifact = *ArtifactReader::Open(made_.Artifact());
  const Json config = Json::parse(*ReadFile(made_.folder / "artifact/config.json", 1 << 20));
  ASSERT_EQ(made_.plan.embeddings.size(), made_.Names().size());
  for (const std::string& name : made_.Names()) {
    EXPECT_FALSE(artifact->Has(name + ".weight"));
    EXPECT_EQ(artifact->Find(name + ".codes")->shape, (std::vector<int64_t>{352 * 64})) << "331 rows in strips of 32";
    EXPECT_EQ(artifact->Find(name + ".row_norm")->shape, (std::vector<int64_t>{331}));
    EXPECT_EQ(config["quantization_config"]["tensors"][name], (Json{{"codec", "int8"}, {"pair_bits", 16}}));
  }
  EXPECT_EQ(artifact->Has("lm_head.codes"), !GetParam());

  QuantizeSpec kept = made_.spec;
  kept.embedding_bits = 16;
  const auto plan = PlanQuantization(*made_.checkpoint, kept, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->embeddings.empty());
  EXPECT_EQ(plan->bpw, made_.plan.bpw) << "of the linear layers alone";
  EXPECT_EQ(plan->weights, made_.plan.weights);
  // Floats became bytes, a norm a row and padding; names in the header differ a little.
  const auto tensors = static_cast<int64_t>(made_.Names().size());
  EXPECT_NEAR(static_cast<double>(plan->artifact_bytes - made_.plan.artifact_bytes),
              static_cast<double>(tensors * (331 * 64 * 4 - 352 * 64 - 331 * 2)), 512);
}

TEST_P(TiedAndUntied, EveryWeightIsWithinHalfAStep) {
  const auto artifact = *ArtifactReader::Open(made_.Artifact());
  const Dequantizer dequantizer(*artifact);
  const Rotation rotation = *Rotation::Create(64, made_.spec.rotation, made_.spec.seed);
  for (const std::string& name : made_.Names()) {
    const auto rows = dequantizer.Open(name + ".weight");
    ASSERT_TRUE(rows.ok()) << rows.status();
    ASSERT_EQ(rows->shape(), (std::vector<int64_t>{331, 64}));
    std::vector<float> original(331 * 64), decoded(original.size());
    ASSERT_EQ(made_.checkpoint->ReadRows(name + ".weight", 0, 331, original), absl::OkStatus());
    rows->Read(0, 331, decoded);
    Rotate(rotation, original);
    Rotate(rotation, decoded);
    double error = 0, expected = 0;
    for (size_t r = 0; r < 331; ++r) {
      float largest = 0;
      for (size_t c = 0; c < 64; ++c) largest = std::max(largest, std::fabs(original[64 * r + c]));
      for (size_t c = 0; c < 64; ++c) {
        const float d = decoded[64 * r + c] - original[64 * r + c];
        ASSERT_LE(std::fabs(d), 0.505f * largest / 127) << name << " " << r << " " << c;
        error += static_cast<double>(d) * static_cast<double>(d);
        expected += std::pow(static_cast<double>(largest) / 127, 2) / 12;
      }
    }
    // Uniform over a step.
    EXPECT_NEAR(error / expected, 1, 0.05) << name;
  }
}

TEST_P(TiedAndUntied, LookupAndHeadReadTheBytesAsTheyLie) {
  const auto artifact = *ArtifactReader::Open(made_.Artifact());
  const Dequantizer dequantizer(*artifact);
  for (const std::string& name : made_.Names()) {
    const auto matrix = artifact->LoadEmbedding(name);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    EXPECT_TRUE(matrix->dense16.empty() && matrix->dense32.empty());
    std::vector<float> weights(331 * 64), row(64);
    dequantizer.Open(name + ".weight")->Read(0, 331, weights);
    for (int64_t r = 0; r < 331; ++r) {
      ReadRow(*matrix, r, BestKernels(), row.data());
      for (size_t c = 0; c < 64; ++c) {
        ASSERT_NEAR(row[c], weights[static_cast<size_t>(r) * 64 + c], 1e-6) << name << " " << r << " " << c;
      }
    }
  }

  const auto model = Model::Load(made_.Artifact());
  ASSERT_TRUE(model.ok()) << model.status();
  const auto head = dequantizer.Open(made_.Names().back() + ".weight");
  std::vector<float> weights(331 * 64);
  head->Read(0, 331, weights);
  // What is rounded are the values of the rotated hidden states.
  const Rotation rotation = *Rotation::Create(64, made_.spec.rotation, made_.spec.seed);
  Rotate(rotation, weights);
  const int64_t n = 5;
  Rng rng(3);
  std::vector<float> hidden(static_cast<size_t>(n * 64)), logits(static_cast<size_t>(n * 331));
  for (float& h : hidden) h = static_cast<float>(rng.NextGaussian());
  ThreadPool pool(1);
  (*model)->Head(hidden.data(), n, pool, logits.data());
  const std::vector<float> plain = hidden;
  Rotate(rotation, hidden);
  for (size_t t = 0; t < 5; ++t) {
    float largest = 0;
    for (size_t c = 0; c < 64; ++c) largest = std::max(largest, std::fabs(hidden[64 * t + c]));
    for (size_t r = 0; r < 331; ++r) {
      double exact = 0, magnitude = 0;
      for (size_t c = 0; c < 64; ++c) {
        exact += static_cast<double>(weights[64 * r + c]) * static_cast<double>(hidden[64 * t + c]);
        magnitude += std::fabs(static_cast<double>(weights[64 * r + c]));
      }
      // Half a step of the activations' 8191.
      ASSERT_NEAR(logits[331 * t + r], exact, 0.501 * static_cast<double>(largest) / 8191 * magnitude) << t << " " << r;
    }
  }
  // Nor does the split of the rows matter.
  ThreadPool seven(7);
  std::vector<float> again(logits.size());
  (*model)->Head(plain.data(), n, seven, again.data());
  EXPECT_EQ(again, logits);
}

// The worked example of docs/artifact_format.md.
TEST(Format, WorkedExample) {
  Made made;
  made.spec.rotation = RotationKind::kNone;
  made.model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    auto& overrides = FindTinyTensor(tensors, "model.embed_tokens.weight")->overrides;
    for (int64_t c = 0; c < 64; ++c) overrides.push_back({64 * 33 + c, c == 0 ? 0.5f : c == 5 ? -0.25f : 0.0f});
  };
  ASSERT_EQ(made.Make(), absl::OkStatus());
  const auto artifact = *ArtifactReader::Open(made.Artifact());
  const std::byte* codes = *artifact->Mapped("model.embed_tokens.codes", DType::kU8, {352 * 64});
  EXPECT_EQ(codes[2052], std::byte{0x7f});
  EXPECT_EQ(codes[2181], std::byte{0xc0});
  const std::byte* norms = *artifact->Mapped("model.embed_tokens.row_norm", DType::kF16, {331});
  EXPECT_EQ(norms[66], std::byte{0x00});
  EXPECT_EQ(norms[67], std::byte{0x38});
  std::vector<float> row(64);
  ReadRow(*artifact->LoadEmbedding(kEmbedding), 33, ScalarKernels(), row.data());
  EXPECT_FLOAT_EQ(row[0], 0.5f);
  EXPECT_NEAR(row[5], -0.25197f, 1e-5f);
}

std::vector<double> LogProbabilities(const float* logits, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i]));
  std::vector<double> out;
  for (size_t i = 0; i < n; ++i) out.push_back(static_cast<double>(logits[i]) - std::log(sum));
  return out;
}

TEST_P(TiedAndUntied, EvaluationMeasuresWhatIsServed) {
  std::vector<int32_t> window(60);
  Rng rng(5);
  for (int32_t& token : window) token = static_cast<int32_t>(rng.NextU64() % 331);
  ThreadPool pool(2);
  auto logits_of = [&](const Model& model) {
    KvCache cache(model.config(), 60);
    const SequenceChunk chunk{window, &cache, /*all_logits=*/true};
    Workspace workspace;
    std::vector<float> logits;
    EXPECT_EQ(model.Forward({&chunk, 1}, workspace, pool, logits), absl::OkStatus());
    return logits;
  };
  const auto served = *Model::Load(made_.Artifact()), base = *Model::Load(*FileSet::FromPath(made_.folder / "model"));
  const std::vector<float> a = logits_of(*base), b = logits_of(*served);
  double kl = 0;
  for (size_t t = 0; t < 59; ++t) {
    const auto p = LogProbabilities(a.data() + 331 * t, 331), q = LogProbabilities(b.data() + 331 * t, 331);
    for (size_t i = 0; i < 331; ++i) kl += std::exp(p[i]) * (p[i] - q[i]) / 59;
  }
  const auto report = Evaluate(*made_.checkpoint, *served, {window}, pool, NoProgress);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(kl, 1e-5);
  EXPECT_NEAR(report->kl_mean, kl, 1e-3 * kl);
}

TEST_P(TiedAndUntied, ReportAndCardSaySo) {
  const Json report = Json::parse(ReportJson(made_.spec, made_.plan, {}, {}));
  EXPECT_EQ(report["spec"]["embedding_bits"], 8);
  ASSERT_EQ(report["embeddings"].size(), made_.Names().size());
  EXPECT_EQ(report["embeddings"][0],
            (Json{{"name", kEmbedding}, {"rows", 331}, {"cols", 64}, {"bytes", 352 * 64 + 331 * 2}}));
  EXPECT_THAT(ModelCard(*made_.checkpoint, made_.spec, made_.plan, {}, {}), HasSubstr("embeddings have 8 bits"));
}

TEST(BadSpec, OtherNumbersOfBitsAreRefused) {
  for (int bits : {-8, 0, 4, 7, 9, 15, 32}) {
    const absl::Status status = ValidateQuantizeSpec({.embedding_bits = bits});
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_EQ(ReasonOf(status), "SPEC_FIELD");
    EXPECT_THAT(MessageOf(status), HasSubstr(fmt::format("embedding_bits is {}; it may be 8 or 16", bits)));
  }
  EXPECT_EQ(ValidateQuantizeSpec({.embedding_bits = 8}), absl::OkStatus());
}

TEST(BadWeights, ARowThatNoNormHoldsIsNamed) {
  Made made;
  made.model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    FindTinyTensor(tensors, "lm_head.weight")->overrides = {{64 * 40 + 3, 1e6f}};
  };
  const absl::Status status = made.Make();
  EXPECT_EQ(ReasonOf(status), "TENSOR_RANGE") << status;
  EXPECT_THAT(MessageOf(status), HasSubstr("lm_head, rows from 32"));
}

// Rows of zeros, below the smallest norm, and just above it, where its rounding is largest.
TEST(OddRows, PassTheGate) {
  Made made;
  made.spec.rotation = RotationKind::kNone;
  made.model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    auto& overrides = FindTinyTensor(tensors, "model.embed_tokens.weight")->overrides;
    for (int64_t c = 0; c < 64; ++c) {
      overrides.push_back({c, 0.0f});
      overrides.push_back({64 * 110 + c, 2e-8f});
      overrides.push_back({64 * 330 + c, 8.9e-8f});
    }
  };
  EXPECT_EQ(made.Make(), absl::OkStatus());
}

void Damage(const Made& made, const std::string& tensor, uint64_t at, std::span<const char> bytes) {
  const std::string path = made.folder / "artifact/model.safetensors";
  uint64_t offset = 0;
  {
    const auto artifact = *ArtifactReader::Open(made.Artifact());
    offset = artifact->Find(tensor)->offset;
  }
  std::string file = *ReadFile(path, 1 << 30);
  file.replace(offset + at, bytes.size(), bytes.data(), bytes.size());
  ASSERT_EQ(WriteFileAtomically(path, file), absl::OkStatus());
}

ArtifactInputs AnyOutcome(const QuantizePlan& plan) {
  ArtifactInputs inputs;
  inputs.outcomes.resize(plan.tensors.size());
  for (TensorOutcome& outcome : inputs.outcomes) outcome.distortion = 1;
  return inputs;
}

TEST(Gates, OneChangedByteOfAnEmbeddingIsFound) {
  Made made;
  ASSERT_EQ(made.Make(), absl::OkStatus());
  const std::string dir = made.folder / "artifact";
  ASSERT_EQ(VerifyArtifact(*made.checkpoint, made.plan, AnyOutcome(made.plan), dir), absl::OkStatus());
  const std::string codes = *ReadFile(dir + "/model.safetensors", 1 << 30);
  const auto offset = (*ArtifactReader::Open(made.Artifact()))->Find("lm_head.codes")->offset;
  const char changed = static_cast<char>(codes[offset + 2] ^ 0x02);
  Damage(made, "lm_head.codes", 2, {&changed, 1});
  const absl::Status status = VerifyArtifact(*made.checkpoint, made.plan, AnyOutcome(made.plan), dir);
  EXPECT_EQ(ReasonOf(status), "GATE_RECONSTRUCTION") << status;
  EXPECT_THAT(MessageOf(status), HasSubstr("lm_head, row 0, column 2"));
}

TEST(Gates, AnEmbeddingThatWasKeptIsNotCovered) {
  Made made;
  made.spec.embedding_bits = 16;
  ASSERT_EQ(made.Make(), absl::OkStatus());
  QuantizeSpec wanted = made.spec;
  wanted.embedding_bits = 8;
  const QuantizePlan plan = *PlanQuantization(*made.checkpoint, wanted, 1);
  const absl::Status status = VerifyArtifact(*made.checkpoint, plan, AnyOutcome(plan), made.folder / "artifact");
  EXPECT_EQ(ReasonOf(status), "GATE_COVERAGE") << status;
  EXPECT_THAT(MessageOf(status), HasSubstr(kEmbedding));
}

TEST(Load, ANormThatIsNotFiniteIsRefused) {
  Made made;
  ASSERT_EQ(made.Make(), absl::OkStatus());
  const char infinite[] = {0x00, 0x7c};
  Damage(made, "model.embed_tokens.row_norm", 2 * 7, infinite);
  const auto model = Model::Load(made.Artifact());
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(ReasonOf(model.status()), "TENSOR_NOT_FINITE");
  EXPECT_THAT(MessageOf(model.status()), HasSubstr("model.embed_tokens.row_norm"));
}

TEST(Load, AnotherCodecIsRefused) {
  Made made;
  ASSERT_EQ(made.Make(), absl::OkStatus());
  const std::string path = made.folder / "artifact/config.json";
  Json config = Json::parse(*ReadFile(path, 1 << 20));
  config["quantization_config"].erase("tensors");
  ASSERT_EQ(WriteFileAtomically(path, config.dump()), absl::OkStatus());
  const auto model = Model::Load(made.Artifact());
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(ReasonOf(model.status()), "ARTIFACT_VERSION");
  EXPECT_THAT(MessageOf(model.status()), HasSubstr("model.embed_tokens has codec joint"));
}

}  // namespace
}  // namespace qamserve
