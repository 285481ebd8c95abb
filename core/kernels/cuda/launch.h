// From the sources that g++ compiles to those that nvcc does, which are kept free of everything but kernels. Internal
// to core/kernels/cuda. Each function queues one kernel on the calling thread's device; arguments were checked.
#pragma once

#include <driver_types.h>

#include <cstdint>

#include "core/kernels/cuda/args.h"
#include "core/kernels/kernels.h"

namespace qamserve {

// Shared memory of one block of the search.
int64_t TrellisBlockBytes(int pair_bits);
cudaError_t QueueTrellisSearch(const CudaTrellisArgs& args, cudaStream_t stream);

// The kernel for 1, 2, 4, 8 or 16 tokens, and the shared memory of one of its blocks. Its scratch holds the fragments
// of that many tokens; absent ones are zeros.
struct PackedQueue {
  cudaError_t (*queue)(const PackedMatmulArgs& args, int blocks, cudaStream_t stream);
  int64_t shared_bytes;
};
PackedQueue TablePackedQueue(int pair_bits, int tokens);
PackedQueue TrellisPackedQueue(int pair_bits, int tokens);
struct PackedWideArgs;  // packed_wide_block.h
// The kernel for 64 tokens, and the shared memory of one of its blocks with kMostWideWarps warps and with half of them.
struct PackedWideQueue {
  cudaError_t (*queue)(const PackedWideArgs& args, cudaStream_t stream);
  int64_t shared_bytes;
  int64_t shared_bytes_of_half;
};
PackedWideQueue TablePackedWideQueue(int pair_bits);
PackedWideQueue TrellisPackedWideQueue(int pair_bits);
// Activations as fragments of `tokens` tokens, of which x may have fewer.
cudaError_t QueueFragments(const PackedInput& x, int64_t cols, int tokens, void* scratch, cudaStream_t stream);

// 1 to 8 tokens.
cudaError_t QueueInt8(const Int8MatmulArgs& args, int blocks, cudaStream_t stream);
cudaError_t QueueInt8Wide(const Int8WideMatmulArgs& args, int blocks, cudaStream_t stream);

}  // namespace qamserve
