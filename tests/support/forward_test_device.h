// The device that tests of a forward pass run on: threads in turn on this machine, or, where a test is built with
// QAMSERVE_TEST_ON_GPU, a GPU. There is nothing that a test may expect of the one and not of the other.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "core/kernels/cuda/device.h"
#include "core/kernels/cuda/forward/forward_device.h"
#include "tests/support/host_forward_device.h"

namespace qamserve {

#if defined(QAMSERVE_TEST_ON_GPU)
inline absl::StatusOr<std::unique_ptr<ForwardDevice>> OpenTestDevice() {
  ASSIGN_OR_RETURN(const CudaPlatform platform, FindCudaDevices());
  return OpenCudaForwardDevice(platform.devices.front().ordinal);
}
#else
inline absl::StatusOr<std::unique_ptr<ForwardDevice>> OpenTestDevice() { return std::make_unique<HostForwardDevice>(); }
#endif

// Skips where there is no GPU and says why.
class ForwardDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<ForwardDevice>> device = OpenTestDevice();
    if (!device.ok()) GTEST_SKIP() << "no GPU: " << device.status().message();
    device_ = *std::move(device);
  }
  ForwardDevice& device() { return *device_; }

  void* Allocate(int64_t bytes) {
    absl::StatusOr<ForwardDevice::Memory> memory = device_->Allocate(bytes);
    EXPECT_TRUE(memory.ok()) << memory.status();
    kept_.push_back(*std::move(memory));
    return kept_.back().get();
  }
  template <typename T>
  T* Upload(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    auto* const to = static_cast<T*>(Allocate(bytes));
    const absl::Status status = device_->Upload(to, values.data(), bytes);
    EXPECT_TRUE(status.ok()) << status;
    return to;
  }
  template <typename T>
  std::vector<T> Download(const T* from, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    const absl::Status status = device_->Download(values.data(), from, count * static_cast<int64_t>(sizeof(T)));
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }

 private:
  std::unique_ptr<ForwardDevice> device_;
  std::vector<ForwardDevice::Memory> kept_;
};

}  // namespace qamserve
