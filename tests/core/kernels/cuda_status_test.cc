// Errors of the CUDA runtime as they become a Status, over a runtime of one device that this file has in its place: on
// any machine, since without a driver the real one knows only one error.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <utility>

#include "core/kernels/cuda/buffer.h"
#include "core/kernels/cuda/device.h"
#include "core/kernels/cuda/runtime.h"

namespace {

// As the real one it keeps the last error until somebody asks for it.
struct FakeRuntime {
  int calls_until_error = -1;  // -1: none fails
  cudaError_t error = cudaSuccess;
  cudaError_t last = cudaSuccess;
};
FakeRuntime runtime;

cudaError_t Call() {
  if (runtime.calls_until_error-- != 0) return cudaSuccess;
  runtime.last = runtime.error;
  return runtime.error;
}

}  // namespace

cudaError_t cudaGetLastError() { return std::exchange(runtime.last, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorFake"; }
const char* cudaGetErrorString(cudaError_t) { return "as a test wanted"; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, Call(); }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, Call(); }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, Call(); }
cudaError_t cudaSetDevice(int) { return Call(); }
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* bytes) { return *free_bytes = *bytes = 1, Call(); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  properties->major = 9;
  return Call();
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) { return Call(); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return Call(); }
cudaError_t cudaMalloc(void** data, size_t bytes) {
  const cudaError_t error = Call();
  if (error == cudaSuccess) *data = new char[bytes];
  return error;
}
cudaError_t cudaFree(void* data) { return delete[] static_cast<char*>(data), cudaSuccess; }
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { return Call(); }
cudaError_t cudaMemcpyAsync(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t) { return Call(); }

namespace qamserve {
namespace {

class CudaStatusTest : public testing::Test {
 protected:
  void SetUp() override { runtime = {}; }
};

// Calls of every kind, one behind the other, until one fails.
absl::Status UseDevice() {
  ASSIGN_OR_RETURN(const CudaStream stream, CudaStream::Create(0));
  RETURN_IF_ERROR(CudaMemoryOf(0).status());
  ASSIGN_OR_RETURN(const CudaBuffer buffer, CudaBuffer::Allocate(4, stream));
  char bytes[4] = {};
  RETURN_IF_ERROR(buffer.Upload(bytes, 4, stream));
  RETURN_IF_ERROR(buffer.Download(bytes, 4, stream));
  return stream.Wait();
}

// Else the next launch, which asks for the thread's last error, would report it although it succeeded.
TEST_F(CudaStatusTest, AnErrorIsToldOnceWhateverHasFailed) {
  int failed = 0;
  for (absl::Status status = absl::UnknownError(""); !status.ok(); ++failed) {
    runtime = {.calls_until_error = failed, .error = cudaErrorInvalidValue};
    status = UseDevice();
    EXPECT_EQ(runtime.last, cudaSuccess) << "call " << failed << ": " << status;
    EXPECT_EQ(ReasonOf(status), status.ok() ? "" : "CUDA_ERROR") << "call " << failed;
  }
  EXPECT_GT(failed, 12) << "calls of a device that works";
}

TEST_F(CudaStatusTest, WhatIsWrongHasAReasonOfItsOwn) {
  EXPECT_TRUE(CudaStatus(cudaSuccess, "nothing").ok());
  const absl::Status memory = CudaStatus(cudaErrorMemoryAllocation, "taking memory");
  EXPECT_EQ(ReasonOf(memory), "CUDA_MEMORY");
  EXPECT_EQ(memory.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(MessageOf(memory), "taking memory: as a test wanted (cudaErrorFake)");
  for (const cudaError_t error : {cudaErrorInvalidValue, cudaErrorLaunchOutOfResources,
                                  cudaErrorStreamCaptureInvalidated, cudaErrorNoDevice, cudaErrorNotSupported}) {
    const absl::Status status = CudaStatus(error, "queueing a kernel");
    EXPECT_EQ(ReasonOf(status), "CUDA_ERROR") << error;
    EXPECT_FALSE(IsCudaLost(status)) << error;
  }
  for (const cudaError_t error : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorECCUncorrectable,
                                  cudaErrorMisalignedAddress, cudaErrorUnknown}) {
    const absl::Status status = CudaStatus(error, "waiting for the device");
    EXPECT_EQ(ReasonOf(status), "CUDA_LOST") << error;
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << "a request that broke one device is not to break the next";
    EXPECT_TRUE(IsCudaLost(status)) << error;
  }
}

}  // namespace
}  // namespace qamserve
