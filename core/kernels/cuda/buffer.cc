#include "core/kernels/cuda/buffer.h"

#include <algorithm>

#include "core/kernels/cuda/device.h"
#include "core/kernels/cuda/runtime.h"

namespace qamserve {

void CudaStream::Destroy::operator()(CUstream_st* stream) const { cudaStreamDestroy(stream); }
void CudaBuffer::Free::operator()(void* data) const { cudaFree(data); }

absl::StatusOr<CudaStream> CudaStream::Create(int device) {
  ASSIGN_OR_RETURN(const CudaPlatform platform, FindCudaDevices());
  const auto found = std::find_if(platform.devices.begin(), platform.devices.end(),
                                  [&](const CudaDevice& d) { return d.ordinal == device; });
  if (found == platform.devices.end()) {
    return NotFound("CUDA_DEVICE", "there is no usable GPU {}; there are {} in all", device, platform.devices.size());
  }
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device), "choosing a device"));
  CudaStream stream;
  stream.device_ = device;
  stream.shared_bytes_ = found->shared_bytes;
  stream.multiprocessors_ = found->multiprocessors;
  cudaStream_t handle = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "making a stream"));
  stream.stream_.reset(handle);
  return stream;
}

absl::Status CudaStream::Wait() const { return CudaStatus(cudaStreamSynchronize(handle()), "waiting for the device"); }

absl::StatusOr<CudaBuffer> CudaBuffer::Allocate(int64_t bytes, const CudaStream& stream) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(stream.device()), "choosing a device"));
  CudaBuffer buffer;
  void* data = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaMalloc(&data, static_cast<size_t>(std::max<int64_t>(1, bytes))),
                             fmt::format("allocating {} bytes on device {}", bytes, stream.device())));
  buffer.data_.reset(data);
  buffer.bytes_ = bytes;
  RETURN_IF_ERROR(
      CudaStatus(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), stream.handle()), "zeroing a buffer"));
  return buffer;
}

absl::Status CudaBuffer::Upload(const void* from, int64_t bytes, const CudaStream& stream) const {
  if (bytes == 0) return absl::OkStatus();
  if (bytes > bytes_) return OutOfRange("CUDA_COPY", "{} bytes do not fit a buffer of {}", bytes, bytes_);
  return CudaStatus(
      cudaMemcpyAsync(data_.get(), from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream.handle()),
      "copying to the device");
}

absl::Status CudaBuffer::Download(void* to, int64_t bytes, const CudaStream& stream) const {
  if (bytes == 0) return absl::OkStatus();
  if (bytes > bytes_) return OutOfRange("CUDA_COPY", "a buffer of {} bytes has no {}", bytes_, bytes);
  return CudaStatus(
      cudaMemcpyAsync(to, data_.get(), static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream.handle()),
      "copying from the device");
}

}  // namespace qamserve
