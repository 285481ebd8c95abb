// Memory of a GPU and the stream that work on it is queued in. Both are owned by one thread at a time and free what
// they hold; neither can be made where there is no device (the errors are those of device.h).
#pragma once

#include <cstdint>
#include <memory>

#include "core/base/status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace qamserve {

class CudaStream {
 public:
  // NOT_FOUND (CUDA_DEVICE) if there is no device of this number among those of FindCudaDevices.
  static absl::StatusOr<CudaStream> Create(int device);
  int device() const { return device_; }
  int64_t shared_bytes() const { return shared_bytes_; }
  int multiprocessors() const { return multiprocessors_; }
  CUstream_st* handle() const { return stream_.get(); }
  // Waits for all that was queued; INTERNAL (CUDA_ERROR, CUDA_LOST) if any of it failed.
  absl::Status Wait() const;

 private:
  struct Destroy {
    void operator()(CUstream_st* stream) const;
  };
  CudaStream() = default;
  int device_ = 0;
  int64_t shared_bytes_ = 0;
  int multiprocessors_ = 0;
  std::unique_ptr<CUstream_st, Destroy> stream_;
};

class CudaBuffer {
 public:
  // Zeroed. RESOURCE_EXHAUSTED (CUDA_MEMORY) if the device has no `bytes` left. 256-byte alignment.
  static absl::StatusOr<CudaBuffer> Allocate(int64_t bytes, const CudaStream& stream);
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  // The first `bytes` of the buffer, in the stream's order; the host's memory must stay until the stream was waited
  // for. OUT_OF_RANGE (CUDA_COPY) if the buffer is smaller.
  absl::Status Upload(const void* from, int64_t bytes, const CudaStream& stream) const;
  absl::Status Download(void* to, int64_t bytes, const CudaStream& stream) const;

 private:
  struct Free {
    void operator()(void* data) const;
  };
  CudaBuffer() = default;
  int64_t bytes_ = 0;
  std::unique_ptr<void, Free> data_;
};

}  // namespace qamserve
