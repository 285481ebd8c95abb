// The most that a kernel can read from a GPU's memory: what other kernels' rates are fractions of.
#pragma once

#include <driver_types.h>

#include <cstdint>

namespace qamserve {

// Queues a read of `bytes` (a multiple of 16) at `data`. `sink`: a word that is all but never written.
cudaError_t QueueRead(const void* data, int64_t bytes, int blocks, uint32_t* sink, cudaStream_t stream);

}  // namespace qamserve
