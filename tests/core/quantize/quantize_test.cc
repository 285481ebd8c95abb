// The tasks of a quantize job on tiny models: same bytes for any number of threads, gates that catch planted damage.
#include "core/quantize/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/evaluate/evaluate.h"
#include "core/kernels/kernels.h"
#include "core/model/artifact.h"
#include "core/model/model.h"
#include "core/quantize/feedback.h"
#include "core/quantize/strip.h"
#include "tests/core/quantize/quantize_fixture.h"

namespace qamserve {
namespace {

class EveryArchitecture : public testing::TestWithParam<Architecture> {};

TEST_P(EveryArchitecture, QuantizesLoadsAndStaysCloseToItsCheckpoint) {
  Pipeline p;
  p.model.architecture = GetParam();
  ASSERT_EQ(p.Prepare(), absl::OkStatus());
  ASSERT_EQ(p.Assemble(), absl::OkStatus());
  EXPECT_EQ(std::filesystem::file_size(p.folder / "artifact/model.safetensors"),
            static_cast<uint64_t>(p.plan.artifact_bytes));
  for (const TensorOutcome& t : p.inputs.outcomes) EXPECT_LT(t.distortion, 2.5e-3) << t.name;

  const auto model = Model::Load(*FileSet::FromPath(p.folder / "artifact"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->is_quantized());
  ThreadPool pool(1);
  const auto windows = Windows(3, 24, p.model.vocab_size);
  const auto report = Evaluate(*p.checkpoint, **model, windows, pool, NoProgress);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->kl_mean, 0);
  EXPECT_LT(report->kl_mean, 0.05);
  EXPECT_EQ(report->scored_tokens, 3 * 23);

  // The unquantized model beside itself: whole in memory against a block at a time.
  const auto same = Model::Load(*FileSet::FromPath(p.folder / "model"));
  ASSERT_TRUE(same.ok()) << same.status();
  const auto zero = Evaluate(*p.checkpoint, **same, windows, pool, NoProgress);
  ASSERT_TRUE(zero.ok());
  EXPECT_LT(zero->kl_max, 1e-9);
  EXPECT_EQ(zero->top1_agreement, 1.0);
}

INSTANTIATE_TEST_SUITE_P(All, EveryArchitecture,
                         testing::Values(Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2,
                                         Architecture::kQwen3, Architecture::kGemma3));

TEST(Digest, IsTheSameForAnyNumberOfThreads) {
  std::set<std::string> digests;
  for (const QuantizeSpec& spec : Methods()) {
    const std::string one = DigestWith(1, spec);
    ASSERT_TRUE(IsSha256(one)) << QuantizeSpecToJson(spec) << one;
    EXPECT_EQ(DigestWith(2, spec), one) << QuantizeSpecToJson(spec);
    EXPECT_EQ(DigestWith(7, spec), one) << QuantizeSpecToJson(spec);
    EXPECT_TRUE(digests.insert(one).second) << QuantizeSpecToJson(spec);
  }
}

// Calibration, channel scales, feedback and search run on the kernels of each instruction set in turn.
TEST(Digest, IsTheSameForEveryInstructionSet) {
  const auto digest_on = [](const Kernels& kernels, const QuantizeSpec& spec) {
    setenv(kKernelsVariable, std::string(kernels.name).c_str(), 1);
    std::string digest = DigestWith(2, spec);
    unsetenv(kKernelsVariable);
    return digest;
  };
  for (const QuantizeSpec& spec : Methods()) {
    const std::string reference = digest_on(ScalarKernels(), spec);
    ASSERT_TRUE(IsSha256(reference)) << QuantizeSpecToJson(spec) << reference;
    for (const Kernels* kernels : {Avx2Kernels(), Avx512Kernels(), AmxKernels()}) {
      if (kernels == nullptr) continue;
      EXPECT_EQ(digest_on(*kernels, spec), reference) << kernels->name << QuantizeSpecToJson(spec);
    }
  }
}

// Loaded by the kernels that serve, and close to its checkpoint.
TEST(Methods, EveryOneIsServedAndStaysCloseToItsCheckpoint) {
  for (const QuantizeSpec& spec : Methods()) {
    Pipeline p;
    p.spec = spec;
    if (RatesOf(spec.codec).size() > 1) p.spec.bpw = 5;
    ASSERT_EQ(p.Prepare(), absl::OkStatus()) << QuantizeSpecToJson(spec);
    ASSERT_EQ(p.Assemble(), absl::OkStatus()) << QuantizeSpecToJson(spec);
    const auto model = Model::Load(*FileSet::FromPath(p.folder / "artifact"));
    ASSERT_TRUE(model.ok()) << model.status();
    ThreadPool pool(2);
    const auto report =
        Evaluate(*p.checkpoint, **model, Windows(2, 24, (*model)->config().vocab_size), pool, NoProgress);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_GT(report->kl_mean, 0) << QuantizeSpecToJson(spec);
    EXPECT_LT(report->kl_mean, 0.2) << QuantizeSpecToJson(spec);
  }
}

// What the report says a layer's outputs lose, method by method: each step beyond the plain codec must pay.
double OutputError(QuantizeSpec spec) {
  Pipeline p;
  p.spec = spec;
  if (absl::Status status = p.Prepare(); !status.ok()) return -1;
  double sum = 0;
  for (const TensorOutcome& outcome : p.inputs.outcomes) sum += outcome.output_error;
  return sum;
}

TEST(Methods, FeedbackAndTrellisLoseLess) {
  const double joint = OutputError({.bpw = 4, .error_feedback = true});
  const double trellis = OutputError({.codec = Codec::kTrellis, .bpw = 4, .error_feedback = true});
  ASSERT_GT(trellis, 0);
  EXPECT_LT(trellis, 0.75 * joint) << "4.9e-3 against 7.9e-3 on a Gaussian";
  EXPECT_LT(joint, OutputError({.bpw = 4}));
}

TEST(BadInput, FeedbackOnDeadInputsNamesTheGroup) {
  ThreadPool pool(1);
  const Rotation rotation = *Rotation::Create(64, RotationKind::kFull, 1);
  for (float value : {0.0f, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> outer(64 * 64, value);
    const auto feedback = ErrorFeedback::Create("model.layers.3.mlp.down", outer, {}, rotation);
    EXPECT_EQ(ReasonOf(feedback.status()), "STATISTICS_SINGULAR");
    EXPECT_NE(MessageOf(feedback.status()).find("model.layers.3.mlp.down"), std::string::npos);
  }
  // One channel that fires is enough: damping makes up for the others.
  std::vector<float> outer(64 * 64, 0.0f);
  outer[5 * 64 + 5] = 1;
  EXPECT_TRUE(ErrorFeedback::Create("g", outer, {}, rotation).ok());
}

// (I + U) D (I + U)' must be the damped matrix in the rotated basis.
TEST(Feedback, FactorsTheStatistics) {
  const int64_t n = 64;
  const Rotation rotation = *Rotation::Create(n, RotationKind::kFull, 3);
  Rng rng(5);
  std::vector<float> outer(static_cast<size_t>(n * n), 0.0f), scale(static_cast<size_t>(n));
  for (float& s : scale) s = static_cast<float>(0.5 + rng.NextUniform());
  for (int sample = 0; sample < 200; ++sample) {
    std::vector<double> x(static_cast<size_t>(n));
    for (double& v : x) v = rng.NextGaussian();
    x[7] *= 20;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        outer[static_cast<size_t>(i * n + j)] +=
            static_cast<float>(x[static_cast<size_t>(i)] * x[static_cast<size_t>(j)] / 200);
      }
    }
  }
  // Q S^-1 as columns: the rotation of each scaled unit vector.
  std::vector<std::vector<float>> columns;
  for (int64_t i = 0; i < n; ++i) {
    std::vector<float> unit(static_cast<size_t>(n), 0.0f), scratch(static_cast<size_t>(n));
    unit[static_cast<size_t>(i)] = 1 / scale[static_cast<size_t>(i)];
    rotation.Apply(unit.data(), scratch.data());
    columns.push_back(unit);
  }
  std::vector<double> expected(static_cast<size_t>(n * n), 0.0);
  double trace = 0;
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t b = 0; b < n; ++b) {
      double& sum = expected[static_cast<size_t>(a * n + b)];
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          sum += static_cast<double>(columns[static_cast<size_t>(i)][static_cast<size_t>(a)]) *
                 static_cast<double>(outer[static_cast<size_t>(i * n + j)]) *
                 static_cast<double>(columns[static_cast<size_t>(j)][static_cast<size_t>(b)]);
        }
      }
    }
    trace += expected[static_cast<size_t>(a * n + a)];
  }
  const auto feedback = ErrorFeedback::Create("g", outer, scale, rotation);
  ASSERT_TRUE(feedback.ok()) << feedback.status();
  auto upper = [&](int64_t i, int64_t k) {
    if (i == k) return 1.0;
    return i < k / 2 * 2 ? static_cast<double>(feedback->rows()[static_cast<size_t>(k * n + i)]) : 0.0;
  };
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t b = 0; b < n; ++b) {
      double sum = 0;
      for (int64_t p = 0; p < n / 2; ++p) {
        const auto& [d0, d1, d2] = feedback->weights()[static_cast<size_t>(p)];
        const double ae = upper(a, 2 * p), ao = upper(a, 2 * p + 1), be = upper(b, 2 * p), bo = upper(b, 2 * p + 1);
        sum += ae * be * d0 + (ae * bo + ao * be) * d1 + ao * bo * d2;
      }
      const double damping = a == b ? 0.01 * trace / static_cast<double>(n) : 0.0;
      ASSERT_NEAR(sum, expected[static_cast<size_t>(a * n + b)] + damping, 1e-5 * trace / static_cast<double>(n));
    }
  }
}

// A worker with a device holds a panel of rows, which for these shapes is more than a CPU's strip; one panel, however
// many tensors are under way.
TEST(Plan, CountsThePanelOfADevice) {
  constexpr int64_t kHidden = 256, kIntermediate = 512;
  Pipeline p;
  p.model = {.hidden_size = kHidden, .intermediate_size = kIntermediate, .num_layers = 1};
  ASSERT_EQ(WriteTinyModel(p.model, p.folder / "model"), absl::OkStatus());
  p.checkpoint = Checkpoint::Open(FileSet::FromPath(p.folder / "model").value()).value();
  // Without what is the same for all of these specs, and without packed tensors.
  const auto rest = [&](const QuantizeSpec& spec, int threads) {
    const QuantizePlan plan = PlanQuantization(*p.checkpoint, spec, threads).value();
    int64_t largest = 0;
    for (const QuantizePlan::Tensor& t : plan.tensors) largest = std::max(largest, t.packed_bytes);
    return plan.peak_memory_bytes - threads * largest;
  };
  const QuantizeSpec joint{.codec = Codec::kJoint, .bpw = 4}, trellis{.codec = Codec::kTrellis, .bpw = 4};
  const QuantizeSpec int8{.codec = Codec::kInt8, .bpw = 8};  // which no device codes
  const QuantizeSpec feedback{.codec = Codec::kJoint, .bpw = 4, .error_feedback = true};
  constexpr int64_t kStrip = kIntermediate * 32 * 16, kPanel = kHidden * kIntermediate * 4;
  static_assert(kPanel == 2 * kStrip);
  EXPECT_EQ(rest(joint, 1) - rest(int8, 1), kPanel - kStrip);
  EXPECT_EQ(rest(trellis, 1), rest(joint, 1));
  EXPECT_EQ(rest(joint, 2), rest(joint, 1)) << "two strips are one panel";
  EXPECT_EQ(rest(joint, 3) - rest(joint, 1), 3 * kStrip - kPanel) << "three are more, on a worker without a device";
  EXPECT_EQ(rest(feedback, 1) - rest(int8, 1), 16 * kIntermediate * kIntermediate) << "factors of a CPU are more still";
}

TEST(Digest, DependsOnEveryFieldOfTheSpec) {
  QuantizeSpec plain, rate, rotation, seed, scale, embeddings;
  rate.bpw = 4;
  rotation.rotation =
      RotationKind::kBlock;  // 64 and 128 are powers of two: the same matrix, another name in config.json
  seed.seed = 2;
  scale.channel_scale = false;
  const std::string base = DigestWith(1, plain);
  EXPECT_NE(DigestWith(1, rate), base);
  EXPECT_NE(DigestWith(1, seed), base);
  embeddings.embedding_bits = 8;
  EXPECT_NE(DigestWith(1, scale), base);
  EXPECT_NE(DigestWith(1, embeddings), base);
  EXPECT_NE(QuantizeSpecToJson(plain), QuantizeSpecToJson(embeddings));
  EXPECT_NE(QuantizeSpecToJson(plain), QuantizeSpecToJson(rotation));
}

TEST(Gates, AZeroedTensorIsRefused) {
  Pipeline p;
  ASSERT_EQ(p.Prepare(), absl::OkStatus());
  Overwrite(p.inputs.packed[3], 0, 1, 0);
  const absl::Status status = p.Assemble();
  EXPECT_EQ(ReasonOf(status), "GATE_RECONSTRUCTION") << status;
  EXPECT_NE(MessageOf(status).find(p.plan.tensors[3].name), std::string::npos);
}

TEST(Strip, TellsOfAWorstRowFarAboveTheMean) {
  // Half the strength of a row in one weight: rounding to 127ths of it loses a hundred times what other rows lose.
  const Rotation none = *Rotation::Create(64, RotationKind::kNone, 1);
  const CoderTables tables({Codec::kInt8, 16});
  Rng rng(1);
  std::vector<float> rows(32 * 64);
  for (float& w : rows) w = static_cast<float>(rng.NextGaussian());
  rows[0] = 60;
  std::vector<uint16_t> norms(32);
  std::vector<uint8_t> packed(static_cast<size_t>(CodesStripBytes(tables.format(), 64)));
  const auto outcome =
      EncodeStrip({.rotation = none, .tables = tables, .scale = {}, .mean_square = {}}, rows, norms, packed);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_GT(outcome->worst_row, 4 * outcome->relative / 32) << "what the gate would otherwise allow";
}

TEST(Gates, ScrambledCodesAreRefused) {
  Pipeline p;
  ASSERT_EQ(p.Prepare(), absl::OkStatus());
  Overwrite(p.inputs.packed[5], 0.0, 0.9, 0x5a);
  EXPECT_EQ(ReasonOf(p.Assemble()), "GATE_RECONSTRUCTION");
}

class GatesOfCodec : public testing::TestWithParam<Codec> {
 protected:
  void SetUp() override {
    p_.spec.codec = GetParam();
    const std::vector<double> rates = RatesOf(GetParam());
    p_.spec.bpw = rates.size() == 1 ? rates.front() : 4;
    const bool full = GetParam() == Codec::kFull;
    const bool plain = full || GetParam() == Codec::kInt8 || GetParam() == Codec::kUniform;
    if (plain) p_.spec.rotation = RotationKind::kNone;
    if (full) p_.spec.channel_scale = false;
    ASSERT_EQ(p_.Prepare(), absl::OkStatus());
  }
  Pipeline p_;
};

TEST_P(GatesOfCodec, AZeroedTensorIsRefused) {
  Overwrite(p_.inputs.packed[3], 0, 1, 0);
  EXPECT_EQ(ReasonOf(p_.Assemble()), "GATE_RECONSTRUCTION");
}

TEST_P(GatesOfCodec, ScrambledCodesAreRefused) {
  Overwrite(p_.inputs.packed[5], 0.0, 0.9, 0x5a);
  EXPECT_EQ(ReasonOf(p_.Assemble()), "GATE_RECONSTRUCTION");
}

INSTANTIATE_TEST_SUITE_P(Codecs, GatesOfCodec, testing::ValuesIn(kCodecs),
                         [](const auto& info) { return std::string(CodecName(info.param)); });

TEST(Gates, ARowFarAboveTheMeanPassesOnlyWithoutRotation) {
  Pipeline plain;
  plain.spec.codec = Codec::kInt8;
  plain.spec.bpw = 8;
  plain.spec.rotation = RotationKind::kNone;
  plain.spec.channel_scale = false;
  // Row 0, which the gate reads back, has nearly all of its strength in one weight.
  plain.model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    FindTinyTensor(tensors, "model.layers.0.mlp.up_proj.weight")->overrides = {{0, 60.0f}};
  };
  ASSERT_EQ(plain.Prepare(), absl::OkStatus());
  EXPECT_EQ(plain.Assemble(), absl::OkStatus());

  Pipeline rotated;
  ASSERT_EQ(rotated.Prepare(), absl::OkStatus());
  rotated.inputs.outcomes[5].worst_row_distortion = 10;
  Overwrite(rotated.inputs.packed[5], 0.0, 0.9, 0x5a);
  EXPECT_EQ(ReasonOf(rotated.Assemble()), "GATE_RECONSTRUCTION");
}

// As of a short row at a high rate, most of whose error is one point's outside of the codebook.
TEST(Gates, ARowMayBeAsBadAsTheWorstThatWasMeasured) {
  Pipeline p;
  ASSERT_EQ(p.Prepare(), absl::OkStatus());
  TensorOutcome& outcome = p.inputs.outcomes[5];
  outcome.distortion /= 16;
  EXPECT_EQ(p.Assemble(), absl::OkStatus());
  outcome.worst_row_distortion /= 16;
  EXPECT_EQ(ReasonOf(p.Assemble()), "GATE_RECONSTRUCTION");
}

TEST(Gates, AnotherTensorsCodesAreRefused) {
  Pipeline p;
  ASSERT_EQ(p.Prepare(), absl::OkStatus());
  std::swap(p.inputs.packed[1], p.inputs.packed[2]);  // k and v: same shape, other names
  EXPECT_EQ(ReasonOf(p.Assemble()), "GATE_COVERAGE");
}

TEST(Gates, AMissingTensorIsRefused) {
  Pipeline p;
  ASSERT_EQ(p.Prepare(), absl::OkStatus());
  p.inputs.packed.pop_back();
  p.inputs.outcomes.pop_back();
  EXPECT_EQ(ReasonOf(p.Assemble()), "GATE_COVERAGE");
}

TEST(BadInput, NotANumberInAWeightNamesTensorAndStopsCalibration) {
  Pipeline p;
  p.model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    FindTinyTensor(tensors, "model.layers.1.mlp.up_proj.weight")->overrides = {{5, std::nanf("")}};
  };
  const absl::Status status = p.Prepare();
  EXPECT_EQ(ReasonOf(status), "TENSOR_NOT_FINITE") << status;
  EXPECT_NE(MessageOf(status).find("model.layers.1.mlp.up_proj.weight"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(p.folder / "statistics"));
}

TEST(BadInput, ADimensionThatNoRotationFitsIsNamedWithItsTensor) {
  Pipeline p;
  p.model.intermediate_size = 8 * 43;
  const absl::Status status = p.Prepare();
  EXPECT_EQ(ReasonOf(status), "ROTATION_DIMENSION") << status;
  EXPECT_NE(MessageOf(status).find("344"), std::string::npos);
  EXPECT_NE(MessageOf(status).find("down_proj"), std::string::npos);
  Pipeline block;
  block.model.intermediate_size = 8 * 43;
  block.spec.rotation = RotationKind::kBlock;
  EXPECT_EQ(block.Prepare(), absl::OkStatus());
  EXPECT_EQ(block.Assemble(), absl::OkStatus());
}

TEST(BadInput, RatesOutOfRangeAreRefusedBeforeAnythingIsRead) {
  for (double bpw : {0.0, 2.0, 6.5, 5.25}) {
    Pipeline p;
    p.spec.bpw = bpw;
    EXPECT_EQ(ReasonOf(p.Prepare()), "BPW_RANGE") << bpw;
  }
}

TEST(Cancel, StopsCalibrationAndLeavesNothing) {
  Pipeline p;
  ASSERT_EQ(p.Prepare(), absl::OkStatus());
  ThreadPool pool(1);
  int calls = 0;
  auto stop = [&](double) { return ++calls < 2 ? absl::OkStatus() : absl::CancelledError("stop"); };
  const std::string path = p.folder / "cancelled";
  EXPECT_TRUE(absl::IsCancelled(CalibrateShard(*p.checkpoint, p.spec, Windows(2, 32, 320), pool, stop, path)));
  EXPECT_EQ(calls, 2);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Artifact, AFlippedShapeOrMissingScaleIsRefusedAtLoad) {
  Pipeline p;
  ASSERT_EQ(p.Prepare(), absl::OkStatus());
  ASSERT_EQ(p.Assemble(), absl::OkStatus());
  const std::string config_path = p.folder / "artifact/config.json";
  std::string config = *ReadFile(config_path, 1 << 20);
  config.replace(config.find("\"pair_bits\": 11"), 15, "\"pair_bits\": 10");
  ASSERT_EQ(WriteFileAtomically(config_path, config), absl::OkStatus());
  const auto loaded = Model::Load(*FileSet::FromPath(p.folder / "artifact"));
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(ReasonOf(loaded.status()), "TENSOR_SHAPE");
  EXPECT_NE(MessageOf(loaded.status()).find(".codes"), std::string::npos);
}

TEST(Report, RoundTripsItsFigures) {
  QualityReport report;
  report.windows = 8;
  report.kl_mean = 0.0123456;
  report.base_perplexity = 29.2178;
  report.text_source = "text";
  report.chat_template = true;
  const auto read = QualityReportFromJson(QualityReportToJson(report));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->kl_mean, report.kl_mean);
  EXPECT_EQ(read->windows, 8);
  EXPECT_EQ(read->text_source, "text");
  EXPECT_TRUE(read->chat_template);
  EXPECT_FALSE(QualityReportFromJson("{}").ok());
  // Of a version that did not know templates.
  std::string old = QualityReportToJson(report);
  const std::string field = "\"chat_template\":true,";
  ASSERT_NE(old.find(field), std::string::npos);
  old.erase(old.find(field), field.size());
  ASSERT_TRUE(QualityReportFromJson(old).ok());
  EXPECT_FALSE(QualityReportFromJson(old)->chat_template);
}

TEST(Windows, CutsInOrderAndSaysWhenTheTextIsShort) {
  std::vector<int32_t> tokens(100);
  for (int i = 0; i < 100; ++i) tokens[static_cast<size_t>(i)] = i;
  const auto windows = CutWindows(tokens, 3, 30, 7);
  ASSERT_TRUE(windows.ok());
  EXPECT_EQ((*windows)[1][0], 7);
  EXPECT_EQ((*windows)[1][1], 31);
  const auto refused = CutWindows(tokens, 4, 30, std::nullopt);
  EXPECT_EQ(ReasonOf(refused.status()), "TEXT_TOO_SHORT");
  EXPECT_NE(MessageOf(refused.status()).find("120"), std::string::npos);
}

}  // namespace
}  // namespace qamserve
