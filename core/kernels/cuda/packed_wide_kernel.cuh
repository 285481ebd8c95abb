// What queues packed_wide_block.h on a device. Included by one source for each half of the codecs.
#pragma once

#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/mma.cuh"
#include "core/kernels/cuda/packed_wide_block.h"

namespace qamserve {

struct WideThreads {
  template <typename T>
  struct Own {
    T value;
    __device__ T& operator[](int) { return value; }
  };
  template <typename Phase>
  __host__ __device__ void operator()(const Phase& phase) const {
    Alone(phase);
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }
  template <typename Phase>
  __host__ __device__ void Alone(const Phase& phase) const {
#if defined(__CUDA_ARCH__)
    phase(static_cast<int>(threadIdx.x));
#endif
  }
  template <typename Get>
  __host__ __device__ void Multiply(const Get& get) const {
#if defined(__CUDA_ARCH__)
    uint32_t a[4], b[2];
    float(*c)[4] = get(static_cast<int>(threadIdx.x), a, b);
    MultiplyHalves(*c, a, b[0], b[1]);
#endif
  }
};

// Looked at for 6, 8 and 11 bits and trellises of 5 and 8 (sm_90, nvcc 13.0): 206 to 255 registers of 255, no spills.
// Not measured yet.
template <typename Decoder>
__global__ void __launch_bounds__(32 * kMostWideWarps, 1)
    PackedWideKernel(const __grid_constant__ PackedWideArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  PackedWideBlock<Decoder>::Run(args, static_cast<int64_t>(blockIdx.x), shared, WideThreads());
}

template <typename Decoder>
cudaError_t QueueWide(const PackedWideArgs& args, cudaStream_t stream) {
  using Block = PackedWideBlock<Decoder>;
  const auto bytes = static_cast<int>(Block::SharedBytes(args.warps));
  const cudaError_t error =
      cudaFuncSetAttribute(PackedWideKernel<Decoder>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  PackedWideKernel<Decoder><<<static_cast<unsigned>(Block::Blocks(args)), static_cast<unsigned>(32 * args.warps),
                              static_cast<size_t>(bytes), stream>>>(args);
  return cudaGetLastError();
}

template <typename Decoder>
PackedWideQueue WideQueueOf() {
  using Block = PackedWideBlock<Decoder>;
  return {QueueWide<Decoder>, Block::SharedBytes(kMostWideWarps), Block::SharedBytes(kMostWideWarps / 2)};
}

}  // namespace qamserve
