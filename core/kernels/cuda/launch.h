// From the sources that g++ compiles to those that nvcc does, which are kept free of everything but kernels. Internal
// to core/kernels/cuda. Each function queues one kernel on the calling thread's device; arguments were checked.
#pragma once

#include <driver_types.h>

#include <cstdint>

#include "core/kernels/cuda/args.h"

namespace qamserve {

// Shared memory of one block of the search.
int64_t TrellisBlockBytes(int pair_bits);
cudaError_t QueueTrellisSearch(const CudaTrellisArgs& args, cudaStream_t stream);

}  // namespace qamserve
