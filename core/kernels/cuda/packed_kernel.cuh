// The kernel of packed_block.h and what queues it. Included by one source for each half of the codecs, so that they
// compile side by side.
//
// Not measured yet. Counted in sm_90 machine code (nvcc 13.0, one token): instructions a pair of weights from one
// barrier to the next, which is a step and its sums, beside what 80 % of an H200's 4.8 TB/s leaves (1.755 GHz; 128
// issue slots and 64 ALU lanes a clock).
//   bits a pair           6    7    8    9    10   11     8 tokens at 11 bits: 7.3 issued
//   issued               4.6  5.3  4.6  5.2  6.6  7.1
//     there are          5.8  6.8  7.7  8.7  9.7 10.6
//   ALU                  2.3  2.6  1.4  2.1  2.4  3.0
//     there are          2.9  3.4  3.9  4.4  4.8  5.3
// Each pair is one lookup without bank conflicts and a quarter of a matrix instruction for every 4 tokens. As
// cuobjdump --dump-resource-usage has it (sm_80 and sm_90): 123 to 128 registers, the most that 512 threads may have,
// and for 8 and 16 tokens, which have 256, 124 to 255 of 255. Tables do not spill; trellises of 5 to 7 bits have up to
// 32 bytes of local memory (4 tokens and 5 bits; one token 16), those for 16 tokens none. machine_code_test fails where
// there is more. Shared memory: the table (8 to 128 KiB), and a token 16 KiB of activations and 2.5 KiB of sums, half
// as much of 8 and 16 tokens.
#pragma once

#include "core/kernels/cuda/block_threads.cuh"
#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/packed_block.h"
#include "core/kernels/cuda/shared_memory.cuh"

namespace qamserve {

template <typename Decoder, int kTokens>
__global__ void __launch_bounds__(PackedBlock<Decoder, kTokens>::kThreads, 1)
    PackedKernel(const __grid_constant__ PackedMatmulArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  PackedBlock<Decoder, kTokens>::Run(args, blockIdx.x, gridDim.x, shared, BlockThreads());
}

template <typename Decoder, int kTokens>
cudaError_t QueuePacked(const PackedMatmulArgs& args, int blocks, cudaStream_t stream) {
  using Block = PackedBlock<Decoder, kTokens>;
  const cudaError_t error = AllowShared(PackedKernel<Decoder, kTokens>, Block::kSharedBytes);
  if (error != cudaSuccess) return error;
  PackedKernel<Decoder, kTokens>
      <<<static_cast<unsigned>(blocks), Block::kThreads, static_cast<size_t>(Block::kSharedBytes), stream>>>(args);
  return cudaGetLastError();
}

template <typename Decoder, int kTokens>
PackedQueue PackedQueueFor() {
  return {QueuePacked<Decoder, kTokens>, PackedBlock<Decoder, kTokens>::kSharedBytes};
}

template <typename Decoder>
PackedQueue PackedQueueOf(int tokens) {
  switch (tokens) {
    case 1:
      return PackedQueueFor<Decoder, 1>();
    case 2:
      return PackedQueueFor<Decoder, 2>();
    case 4:
      return PackedQueueFor<Decoder, 4>();
    case 8:
      return PackedQueueFor<Decoder, 8>();
    default:
      return PackedQueueFor<Decoder, 16>();
  }
}

}  // namespace qamserve
