// Which GPUs this machine has for the CUDA kernels, or plainly why none. Start here for core/kernels/cuda.
//
// The folder is built with or without a CUDA compiler (cmake/Cuda.cmake); without one every function that needs a
// device answers UNIMPLEMENTED (CUDA_NOT_BUILT). The runtime is linked statically and finds the driver when first
// called, so a program with CUDA kernels starts on a machine without a driver. No kernel has been measured yet.
//
// Thread-safe. Functions that take a device make it the calling thread's current one and leave it so.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

// Compute capability 8.0: 16-byte asynchronous loads, integer products of bytes, 163 KB of shared memory a block.
inline constexpr int kMinCudaCapability = 80;

struct CudaDevice {
  int ordinal = 0;
  std::string name;
  int capability = 0;  // 10 x major + minor: 90 for H100 and H200
  int64_t memory_bytes = 0;
  int multiprocessors = 0;
  int64_t shared_bytes = 0;  // that one block can be given
  int64_t l2_bytes = 0;
};

struct CudaPlatform {
  std::vector<CudaDevice> devices;  // usable ones, at least one
  int driver_version = 0;           // 1000 x major + 10 x minor, the newest CUDA that the driver runs
  int runtime_version = 0;          // that this was built with
};

// What the runtime said, before it is judged.
struct CudaProbe {
  enum class Outcome : uint8_t { kDevices, kInsufficientDriver, kNoDevice, kOther };
  Outcome outcome = Outcome::kDevices;
  std::string error;       // of kOther, in the runtime's words
  int driver_version = 0;  // 0: no driver
  int runtime_version = 0;
  std::vector<CudaDevice> devices;
};

// The devices that the kernels run on. FAILED_PRECONDITION, with what to do about it: NO_CUDA_DRIVER, CUDA_DRIVER_OLD,
// NO_CUDA_DEVICE, CUDA_DEVICE_OLD (none reaches kMinCudaCapability); INTERNAL (CUDA_ERROR) for what else the runtime
// reports.
absl::StatusOr<CudaPlatform> JudgeCudaProbe(const CudaProbe& probe);

// JudgeCudaProbe of this machine.
absl::StatusOr<CudaPlatform> FindCudaDevices();

// Memory of a device and what of it is taken, by this program or another. Makes a context on a device that has none yet.
struct CudaMemory {
  int64_t bytes = 0;
  int64_t used_bytes = 0;
};
absl::StatusOr<CudaMemory> CudaMemoryOf(int ordinal);

// Whether an error says that a device is lost to this process (INTERNAL, CUDA_LOST): every call fails from then on,
// until the process is started again.
bool IsCudaLost(const absl::Status& status);

// "NVIDIA H200 (9.0, 139.8 GiB); driver runs CUDA 13.0, built with 13.0" or "none: there is no NVIDIA driver": one line
// for a log.
std::string DescribeCuda(const absl::StatusOr<CudaPlatform>& platform);
// "NVIDIA H200, 139.8 GiB": the device of this number; empty if it is not among them.
std::string DescribeCudaDevice(const absl::StatusOr<CudaPlatform>& platform, int ordinal);

}  // namespace qamserve
