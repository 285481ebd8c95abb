#include "core/kernels/cuda/forward/block_kernel.cuh"
#include "core/kernels/cuda/forward/launch.h"
#include "core/kernels/cuda/forward/sample_block.h"

namespace qamserve {

// 64 registers, no spills (sm_90, nvcc 13.0); not measured yet.
cudaError_t QueueSample(const SampleArgs& args, cudaStream_t stream) { return QueueBlocks<SampleBlock>(args, stream); }

}  // namespace qamserve
