// Quantize jobs and sums of inputs on a GPU: the bytes of the CPU.
#include <gtest/gtest.h>

#include "core/quantize/cuda/input_sums.h"
#include "core/quantize/cuda/quantize_device.h"
#include "core/quantize/feedback.h"
#include "tests/core/kernels/cuda_fixture.h"
#include "tests/core/quantize/cuda/input_problem.h"
#include "tests/core/quantize/quantize_fixture.h"

namespace qamserve {
namespace {

using CudaQuantize = CudaTest;

TEST_F(CudaQuantize, SumsOfInputsAreThoseOfTheCpu) {
  for (const auto& [cols, outer] : InputShapes()) {
    const InputProblem problem(cols);
    auto sums = CudaInputSums::Create(cols, outer, stream());
    ASSERT_TRUE(sums.ok()) << sums.status();
    for (const std::vector<float>& x : problem.calls) {
      const absl::Status status = sums->Add(x.data(), static_cast<int64_t>(x.size()) / cols);
      ASSERT_TRUE(status.ok()) << status;
    }
    const auto read = sums->Read();
    ASSERT_TRUE(read.ok()) << read.status();
    ExpectSameSums(*read, problem.OnCpu(outer), cols);
  }
}

TEST_F(CudaQuantize, ArtifactsAreThoseOfTheCpu) {
  const auto device = OpenCudaQuantizeDevice(stream().device());
  ASSERT_TRUE(device.ok()) << device.status();
  for (const QuantizeSpec& spec : Methods()) {
    const std::string expected = DigestWith(1, spec);
    ASSERT_TRUE(IsSha256(expected)) << expected;
    EXPECT_EQ(DigestWith(2, spec, *device), expected) << QuantizeSpecToJson(spec);
  }
}

TEST_F(CudaQuantize, FeedbackOnDeadInputsNamesTheGroup) {
  const auto device = OpenCudaQuantizeDevice(stream().device());
  ASSERT_TRUE(device.ok()) << device.status();
  const Rotation rotation = *Rotation::Create(64, RotationKind::kFull, 1);
  const std::vector<float> outer(64 * 64, 0.0f);
  const auto coder = (*device)->MakeCoder({.group = "model.layers.3.mlp.down",
                                           .format = {Codec::kJoint, 8},
                                           .rows = 64,
                                           .rotation = rotation,
                                           .outer = outer});
  EXPECT_EQ(ReasonOf(coder.status()), "STATISTICS_SINGULAR");
  EXPECT_NE(MessageOf(coder.status()).find("model.layers.3.mlp.down"), std::string::npos);
}

}  // namespace
}  // namespace qamserve
