// Tests that need a GPU. Where there is none they skip and say why.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "core/kernels/cuda/buffer.h"
#include "core/kernels/cuda/device.h"

namespace qamserve {

class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<CudaPlatform> platform = FindCudaDevices();
    if (!platform.ok()) GTEST_SKIP() << "no GPU: " << platform.status().message();
    absl::StatusOr<CudaStream> stream = CudaStream::Create(platform->devices.front().ordinal);
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_ = std::make_unique<CudaStream>(*std::move(stream));
  }
  const CudaStream& stream() const { return *stream_; }

  CudaBuffer Allocate(int64_t bytes) const {
    absl::StatusOr<CudaBuffer> buffer = CudaBuffer::Allocate(bytes, *stream_);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    return *std::move(buffer);
  }
  template <typename T>
  CudaBuffer Upload(const std::vector<T>& values) const {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    CudaBuffer buffer = Allocate(bytes);
    absl::Status status = buffer.Upload(values.data(), bytes, *stream_);
    if (status.ok()) status = stream_->Wait();  // `values` may be gone after this
    EXPECT_TRUE(status.ok()) << status;
    return buffer;
  }
  std::vector<float> Download(const CudaBuffer& buffer) const {
    std::vector<float> values(static_cast<size_t>(buffer.bytes()) / sizeof(float));
    const absl::Status status = buffer.Download(values.data(), buffer.bytes(), *stream_);
    EXPECT_TRUE(status.ok()) << status;
    const absl::Status done = stream_->Wait();
    EXPECT_TRUE(done.ok()) << done;
    return values;
  }

 private:
  std::unique_ptr<CudaStream> stream_;
};

}  // namespace qamserve
