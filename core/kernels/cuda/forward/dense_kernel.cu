#include "core/kernels/cuda/forward/block_kernel.cuh"
#include "core/kernels/cuda/forward/dense_block.h"
#include "core/kernels/cuda/forward/launch.h"

namespace qamserve {

// 34 registers, no spills (sm_90, nvcc 13.0); not measured yet.

cudaError_t QueueDense(const DenseMatmulArgs& args, cudaStream_t stream) {
  return QueueBlocks<DenseBlock>(args, stream);
}

}  // namespace qamserve
