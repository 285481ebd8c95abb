// What queues packed_wide_block.h on a device. Included by one source for each half of the codecs.
#pragma once

#include "core/kernels/cuda/block_threads.cuh"
#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/packed_wide_block.h"
#include "core/kernels/cuda/shared_memory.cuh"

namespace qamserve {

// 206 to 255 registers of 255 (nvcc 13.0); none spills but trellises of 9 and 10 bits on sm_90, by 8 and 16 bytes
// (machine_code_test). Not measured yet.
template <typename Decoder>
__global__ void __launch_bounds__(32 * kMostWideWarps, 1)
    PackedWideKernel(const __grid_constant__ PackedWideArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  PackedWideBlock<Decoder>::Run(args, static_cast<int64_t>(blockIdx.x), shared, BlockThreads());
}

template <typename Decoder>
cudaError_t QueueWide(const PackedWideArgs& args, cudaStream_t stream) {
  using Block = PackedWideBlock<Decoder>;
  const int64_t bytes = Block::SharedBytes(args.warps);
  const cudaError_t error = AllowShared(PackedWideKernel<Decoder>, bytes);
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
