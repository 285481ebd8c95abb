// Room for the shared memory of blocks. Internal to core/kernels/cuda.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qamserve {

// Lets blocks of `kernel`, which has no static shared memory, have as much as the calling thread's device gives one.
// `bytes` is what the coming launch wants: up to 48 KiB need no permission.
//
// Not that number itself is what is permitted: it is a property of the kernel and the device, and two threads with
// launches of different sizes would take the room from each other between permission and launch. All write the same.
template <typename Kernel>
cudaError_t AllowShared(Kernel* kernel, int64_t bytes) {
  constexpr int64_t kAlwaysAllowed = 48 * 1024;
  if (bytes <= kAlwaysAllowed) return cudaSuccess;
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

}  // namespace qamserve
