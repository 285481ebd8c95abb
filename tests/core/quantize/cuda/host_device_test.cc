// Whole quantize jobs with what a GPU's threads do run on this machine: the artifact's bytes are the CPU's.
#include "tests/core/quantize/cuda/host_device.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/core/quantize/quantize_fixture.h"

namespace qamserve {
namespace {

TEST(HostDevice, GivesTheArtifactOfTheCpu) {
  for (const QuantizeSpec& spec : Methods()) {
    const auto device = std::make_shared<HostDevice>(64);
    const std::string digest = DigestWith(1, spec, device);
    ASSERT_TRUE(IsSha256(digest)) << QuantizeSpecToJson(spec) << digest;
    EXPECT_EQ(digest, DigestWith(1, spec)) << QuantizeSpecToJson(spec);
    const bool encodes = spec.codec != Codec::kInt8 && spec.codec != Codec::kFull;
    EXPECT_EQ(device->tensors() > 0, encodes) << QuantizeSpecToJson(spec);
  }
}

TEST(HostDevice, GivesTheOutcomesOfTheCpu) {
  Pipeline cpu, host;
  cpu.spec = host.spec = {.bpw = 4, .error_feedback = true};
  host.device = std::make_shared<HostDevice>(32);
  ASSERT_EQ(cpu.Prepare(), absl::OkStatus());
  ASSERT_EQ(host.Prepare(), absl::OkStatus());
  ASSERT_EQ(cpu.inputs.outcomes.size(), host.inputs.outcomes.size());
  for (size_t i = 0; i < cpu.inputs.outcomes.size(); ++i) {
    const TensorOutcome &a = host.inputs.outcomes[i], &b = cpu.inputs.outcomes[i];
    EXPECT_EQ(a.distortion, b.distortion) << a.name;
    EXPECT_EQ(a.worst_row_distortion, b.worst_row_distortion) << a.name;
    EXPECT_EQ(a.weighted_error, b.weighted_error) << a.name;
    EXPECT_EQ(a.output_error, b.output_error) << a.name;
    EXPECT_GT(a.output_error, 0) << a.name;
  }
}

// Fails where it is told to.
class BrokenDevice : public HostDevice {
 public:
  BrokenDevice(bool sums, bool coder) : HostDevice(32), sums_(sums), coder_(coder) {}
  absl::StatusOr<std::unique_ptr<DeviceCoder>> MakeCoder(const DeviceTensor& tensor) override {
    if (coder_) return Internal("CUDA_ERROR", "no coder");
    return HostDevice::MakeCoder(tensor);
  }
  absl::StatusOr<std::unique_ptr<DeviceInputSums>> MakeInputSums(int64_t cols, bool outer) override {
    if (sums_) return Internal("CUDA_ERROR", "no sums");
    return HostDevice::MakeInputSums(cols, outer);
  }

 private:
  bool sums_, coder_;
};

TEST(HostDevice, ItsErrorsEndTheTask) {
  for (bool sums : {false, true}) {
    Pipeline p;
    p.spec = {.bpw = 4, .error_feedback = true};
    p.device = std::make_shared<BrokenDevice>(sums, !sums);
    const absl::Status status = p.Prepare();
    EXPECT_EQ(ReasonOf(status), "CUDA_ERROR");
    EXPECT_EQ(MessageOf(status), sums ? "no sums" : "no coder");
  }
}

}  // namespace
}  // namespace qamserve
