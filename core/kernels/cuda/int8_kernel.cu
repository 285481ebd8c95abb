// The kernels of int8_block.h and what queues them.
//
// Not measured yet. Counted in sm_90 machine code (nvcc 13.0): instructions a weight, and byte products among them, at
// 1 and 8 tokens: 1.1, 0.25 and 3.9, 2.0; of 14-bit activations 1.4, 0.5 and 6.8, 4.0. 80 % of an H200's 4.8 TB/s
// leaves 7.7 and 3.9 at 1.755 GHz. 78 to 128 registers, no spills (machine_code_test); 4 to 48 KiB of shared memory.
#include "core/kernels/cuda/int8_block.h"

#include "core/kernels/cuda/block_threads.cuh"
#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/shared_memory.cuh"

namespace qamserve {
namespace {

template <typename Block>
__global__ void __launch_bounds__(Block::kThreads, 1) Int8Kernel(const __grid_constant__ typename Block::Args args) {
  extern __shared__ __align__(16) unsigned char shared[];
  Block::Run(args, blockIdx.x, gridDim.x, shared, BlockThreads());
}

template <typename Block>
cudaError_t QueueBlock(const typename Block::Args& args, int blocks, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(typename Block::Shared);
  const cudaError_t error = AllowShared(Int8Kernel<Block>, kBytes);
  if (error != cudaSuccess) return error;
  Int8Kernel<Block><<<static_cast<unsigned>(blocks), Block::kThreads, kBytes, stream>>>(args);
  return cudaGetLastError();
}

template <typename Args>
cudaError_t Queue(const Args& args, int blocks, cudaStream_t stream) {
  if (args.x.tokens == 1) return QueueBlock<Int8Block<Args, 1>>(args, blocks, stream);
  if (args.x.tokens == 2) return QueueBlock<Int8Block<Args, 2>>(args, blocks, stream);
  if (args.x.tokens <= 4) return QueueBlock<Int8Block<Args, 4>>(args, blocks, stream);
  return QueueBlock<Int8Block<Args, 8>>(args, blocks, stream);
}

}  // namespace

cudaError_t QueueInt8(const Int8MatmulArgs& args, int blocks, cudaStream_t stream) {
  return Queue(args, blocks, stream);
}
cudaError_t QueueInt8Wide(const Int8WideMatmulArgs& args, int blocks, cudaStream_t stream) {
  return Queue(args, blocks, stream);
}

}  // namespace qamserve
