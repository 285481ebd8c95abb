// Calibrations that say little or nothing of some inputs, and damage between the tasks of a job: what must be made all
// the same, and what must be refused with the tensor's name.
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/codec/half.h"
#include "core/evaluate/evaluate.h"
#include "core/format/artifact_format.h"
#include "core/model/model.h"
#include "tests/core/quantize/quantize_fixture.h"

namespace qamserve {
namespace {

constexpr int64_t kHidden = 64;
constexpr int64_t kDeadChannel = 5;

// Sets one weight of a norm, and with it an input channel of all layers behind that norm, to zero.
void Silence(std::vector<TinyTensor>& tensors, const std::string& norm, int64_t channel) {
  TinyTensor* tensor = FindTinyTensor(tensors, norm);
  ASSERT_NE(tensor, nullptr) << norm;
  tensor->overrides.emplace_back(channel, 0.0f);
}

// Every group of inputs has a channel that never fires: q, k, v and gate, up through their norms, o through a row of v,
// which two heads of q share, and down through a row of up.
void SilenceAChannelOfEveryGroup(std::vector<TinyTensor>& tensors) {
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    Silence(tensors, layer + "input_layernorm.weight", kDeadChannel);
    Silence(tensors, layer + "post_attention_layernorm.weight", kDeadChannel);
    for (int64_t j = 0; j < kHidden; ++j) {
      Silence(tensors, layer + "self_attn.v_proj.weight", kDeadChannel * kHidden + j);
      Silence(tensors, layer + "mlp.up_proj.weight", kDeadChannel * kHidden + j);
    }
  }
}

// The mean KL of what `p` makes; NaN after an error, which is told.
double KlOf(Pipeline& p) {
  absl::Status status = p.Prepare();
  if (status.ok()) status = p.Assemble();
  EXPECT_EQ(status, absl::OkStatus()) << QuantizeSpecToJson(p.spec);
  if (!status.ok()) return std::nan("");
  for (const TensorOutcome& t : p.inputs.outcomes) {
    EXPECT_TRUE(std::isfinite(t.distortion) && std::isfinite(t.weighted_error) && std::isfinite(t.output_error))
        << t.name << QuantizeSpecToJson(p.spec);
  }
  const auto model = Model::Load(*FileSet::FromPath(p.folder / "artifact"));
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return std::nan("");
  ThreadPool pool(2);
  const auto report = Evaluate(*p.checkpoint, **model, Windows(2, 24, (*model)->config().vocab_size), pool, NoProgress);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? report->kl_mean : std::nan("");
}

TEST(Calibration, AChannelThatNeverFiresIsNoErrorOfAnyMethod) {
  for (const QuantizeSpec& spec : Methods()) {
    Pipeline p;
    p.spec = spec;
    p.model.edit_tensors = SilenceAChannelOfEveryGroup;
    EXPECT_LT(KlOf(p), 0.3) << QuantizeSpecToJson(spec);
  }
}

// Six tokens say nothing of most directions of 64 and 128 channels.
TEST(Calibration, FewerTokensThanChannelsAreNoErrorOfAnyMethod) {
  for (const QuantizeSpec& spec : Methods()) {
    Pipeline p;
    p.spec = spec;
    p.window_tokens = 3;
    EXPECT_LT(KlOf(p), 0.3) << QuantizeSpecToJson(spec);
  }
}

TEST(Calibration, AGroupWhoseInputsAreAllZeroIsNamedWhereItsStatisticsAreTheMetric) {
  const auto silence_all = [](std::vector<TinyTensor>& tensors) {
    for (int64_t j = 0; j < kHidden; ++j) Silence(tensors, "model.layers.1.post_attention_layernorm.weight", j);
  };
  for (const QuantizeSpec& spec : Methods()) {
    Pipeline p;
    p.spec = spec;
    p.model.edit_tensors = silence_all;
    const absl::Status status = p.Prepare();
    if (!spec.error_feedback) {
      EXPECT_EQ(status, absl::OkStatus()) << QuantizeSpecToJson(spec);
      continue;
    }
    EXPECT_EQ(ReasonOf(status), "STATISTICS_SINGULAR") << QuantizeSpecToJson(spec) << status;
    EXPECT_NE(MessageOf(status).find("model.layers.1.mlp.gate_up"), std::string::npos) << status;
  }
}

// Overwrites one element of a tensor in a safetensors file.
void SetElement(const std::string& path, const std::string& name, size_t index, uint16_t value) {
  std::string bytes = *ReadFile(path, 1 << 30);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const auto json = nlohmann::json::parse(bytes.substr(8, header));
  ASSERT_TRUE(json.contains(name)) << name;
  const auto begin = json[name]["data_offsets"][0].get<size_t>();
  std::memcpy(&bytes[8 + header + begin + index * sizeof(value)], &value, sizeof(value));
  ASSERT_EQ(WriteFileAtomically(path, bytes), absl::OkStatus());
}

// In a row that the gate does not read back, too: every norm and scale is looked at.
TEST(Gates, ANumberThatIsNotFiniteIsRefused) {
  const uint16_t kNan = 0x7e00, kInfinity = 0x7c00;
  for (const uint16_t value : {kNan, kInfinity}) {
    for (const bool scale : {false, true}) {
      Pipeline p;
      ASSERT_EQ(p.Prepare(), absl::OkStatus());
      const QuantizePlan::Tensor& tensor = p.plan.tensors[7];
      const std::string name = scale ? tensor.group + kChannelScaleSuffix : tensor.name + kRowNormSuffix;
      SetElement(p.inputs.packed[7], name, 1, value);
      const absl::Status status = p.Assemble();
      EXPECT_EQ(ReasonOf(status), "GATE_RECONSTRUCTION") << status;
      EXPECT_NE(MessageOf(status).find(name), std::string::npos) << status;
    }
  }
}

// Codes of one codebook that the artifact says are another's of the same size.
TEST(Gates, ASwappedCodebookIsRefused) {
  for (const Codec other : {Codec::kPolar, Codec::kScalar, Codec::kUniform, Codec::kTrellis}) {
    Pipeline p;
    p.spec.bpw = 4;
    ASSERT_EQ(p.Prepare(), absl::OkStatus());
    p.spec.codec = other;
    const auto plan = PlanQuantization(*p.checkpoint, p.spec, 1);
    ASSERT_TRUE(plan.ok()) << plan.status();
    p.plan = *plan;
    const absl::Status status = p.Assemble();
    EXPECT_EQ(ReasonOf(status), "GATE_RECONSTRUCTION") << CodecName(other) << status;
    EXPECT_NE(MessageOf(status).find(p.plan.tensors[0].name), std::string::npos) << status;
  }
}

// Of one tensor alone, in a mix.
TEST(Gates, ASwappedCodebookOfOneTensorIsRefused) {
  Pipeline p;
  p.spec.bpw = 4;
  ASSERT_EQ(p.Prepare(), absl::OkStatus());
  p.plan.tensors[9].format.codec = Codec::kPolar;
  const absl::Status status = p.Assemble();
  EXPECT_EQ(ReasonOf(status), "GATE_RECONSTRUCTION") << status;
  EXPECT_NE(MessageOf(status).find(p.plan.tensors[9].name), std::string::npos) << status;
}

}  // namespace
}  // namespace qamserve
