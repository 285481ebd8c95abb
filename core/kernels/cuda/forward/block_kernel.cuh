// Runs the operations of block.h on a device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/kernels/cuda/shared_memory.cuh"

namespace qamserve {

struct AllThreads {
  template <typename T>
  struct Own {
    T value{};
    __device__ T& operator[](int) { return value; }
  };
  template <typename Phase>
  __host__ __device__ void operator()(const Phase& phase) const {
#if defined(__CUDA_ARCH__)
    phase(static_cast<int>(threadIdx.x));
    __syncthreads();
#endif
  }
};

template <typename Block>
__global__ void __launch_bounds__(Block::kThreads) BlockKernel(const __grid_constant__ typename Block::Args args) {
  extern __shared__ __align__(16) unsigned char shared[];
  Block::Run(args, static_cast<int64_t>(blockIdx.x), shared, AllThreads());
}

template <typename Block>
cudaError_t QueueBlocks(const typename Block::Args& args, cudaStream_t stream) {
  const int64_t blocks = Block::Blocks(args);
  if (blocks == 0) return cudaSuccess;
  const int64_t bytes = Block::SharedBytes(args);
  const cudaError_t error = AllowShared(BlockKernel<Block>, bytes);
  if (error != cudaSuccess) return error;
  BlockKernel<Block><<<static_cast<unsigned>(blocks), Block::kThreads, static_cast<size_t>(bytes), stream>>>(args);
  return cudaGetLastError();
}

}  // namespace qamserve
