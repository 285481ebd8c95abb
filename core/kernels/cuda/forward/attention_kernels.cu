#include "core/kernels/cuda/forward/attention_blocks.h"
#include "core/kernels/cuda/forward/block_kernel.cuh"
#include "core/kernels/cuda/forward/launch.h"

namespace qamserve {

// 31 to 64 registers, no spills (sm_90, nvcc 13.0); not measured yet.

cudaError_t QueueHeads(const HeadsArgs& args, cudaStream_t stream) { return QueueBlocks<HeadsBlock>(args, stream); }

cudaError_t QueueAttend(const AttendArgs& args, cudaStream_t stream) {
  cudaError_t error = QueueBlocks<ScoresBlock>(args, stream);
  if (error == cudaSuccess) error = QueueBlocks<SoftmaxBlock>(args, stream);
  return error == cudaSuccess ? QueueBlocks<ValuesBlock>(args, stream) : error;
}

}  // namespace qamserve
