// What is said about GPUs, on any machine.
#include <gtest/gtest.h>

#include "core/kernels/cuda/device.h"

namespace qamserve {
namespace {

CudaDevice Device(const char* name, int capability) {
  CudaDevice device;
  device.name = name;
  device.capability = capability;
  device.memory_bytes = int64_t{80} << 30;
  return device;
}

CudaProbe Probe(CudaProbe::Outcome outcome, int driver) {
  CudaProbe probe;
  probe.outcome = outcome;
  probe.driver_version = driver;
  probe.runtime_version = 13000;
  return probe;
}

TEST(CudaDevice, EveryReasonForNoneIsSaidPlainly) {
  const auto expect = [](const CudaProbe& probe, const char* reason, const char* words) {
    const absl::StatusOr<CudaPlatform> platform = JudgeCudaProbe(probe);
    ASSERT_FALSE(platform.ok());
    EXPECT_EQ(ReasonOf(platform.status()), reason);
    EXPECT_NE(MessageOf(platform.status()).find(words), std::string::npos) << platform.status();
    EXPECT_EQ(DescribeCuda(platform), "none: " + MessageOf(platform.status()));
  };
  expect(Probe(CudaProbe::Outcome::kInsufficientDriver, 0), "NO_CUDA_DRIVER", "no NVIDIA driver");
  expect(Probe(CudaProbe::Outcome::kInsufficientDriver, 12040), "CUDA_DRIVER_OLD", "up to 12.4");
  expect(Probe(CudaProbe::Outcome::kNoDevice, 13000), "NO_CUDA_DEVICE", "finds no GPU");
  expect(Probe(CudaProbe::Outcome::kDevices, 13000), "NO_CUDA_DEVICE", "finds no GPU");
  CudaProbe broken = Probe(CudaProbe::Outcome::kOther, 13000);
  broken.error = "initialization error";
  expect(broken, "CUDA_ERROR", "initialization error");
  CudaProbe old = Probe(CudaProbe::Outcome::kDevices, 13000);
  old.devices = {Device("Tesla T4", 75)};
  expect(old, "CUDA_DEVICE_OLD", "Tesla T4 (7.5, 80.0 GiB): the kernels need compute capability 8.0");
}

TEST(CudaDevice, OnlyThoseThatCanRunTheKernelsAreListed) {
  CudaProbe probe = Probe(CudaProbe::Outcome::kDevices, 13010);
  probe.devices = {Device("Tesla T4", 75), Device("H200", 90), Device("A100", 80)};
  probe.devices[1].ordinal = 1;
  probe.devices[2].ordinal = 2;
  const absl::StatusOr<CudaPlatform> platform = JudgeCudaProbe(probe);
  ASSERT_TRUE(platform.ok()) << platform.status();
  ASSERT_EQ(platform->devices.size(), 2u);
  EXPECT_EQ(platform->devices[0].ordinal, 1);
  EXPECT_EQ(DescribeCuda(platform),
            "H200 (9.0, 80.0 GiB), A100 (8.0, 80.0 GiB); driver runs CUDA 13.1, built with 13.0");
  EXPECT_EQ(DescribeCudaDevice(platform, 2), "A100, 80.0 GiB");
  EXPECT_EQ(DescribeCudaDevice(platform, 0), "");
  EXPECT_EQ(DescribeCudaDevice(JudgeCudaProbe(Probe(CudaProbe::Outcome::kNoDevice, 13000)), 0), "");
}

// Whatever this machine has, asking is safe and the answer is one line.
TEST(CudaDevice, ThisMachineIsDescribedInOneLine) {
  const absl::StatusOr<CudaPlatform> platform = FindCudaDevices();
  const std::string text = DescribeCuda(platform);
  RecordProperty("cuda", text);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_GT(text.size(), 10u);
  if (platform.ok()) {
    for (const CudaDevice& device : platform->devices) {
      EXPECT_GE(device.capability, kMinCudaCapability);
      EXPECT_GT(device.multiprocessors, 0);
      EXPECT_GT(device.shared_bytes, 48 << 10);
    }
  } else {
    EXPECT_NE(ReasonOf(platform.status()), "CUDA_ERROR") << platform.status();
  }
}

}  // namespace
}  // namespace qamserve
