#include "core/kernels/cuda/forward/block_kernel.cuh"
#include "core/kernels/cuda/forward/launch.h"
#include "core/kernels/cuda/forward/row_blocks.h"

namespace qamserve {

// 22 (bias) to 99 registers (input of a packed layer), no spills (sm_90, nvcc 13.0); not measured yet.

cudaError_t QueueEmbed(const EmbedArgs& args, cudaStream_t stream) { return QueueBlocks<EmbedBlock>(args, stream); }
cudaError_t QueueNorm(const NormArgs& args, cudaStream_t stream) { return QueueBlocks<NormBlock>(args, stream); }
cudaError_t QueueResidual(const ResidualArgs& args, cudaStream_t stream) {
  return QueueBlocks<ResidualBlock>(args, stream);
}
cudaError_t QueueBias(const BiasArgs& args, cudaStream_t stream) { return QueueBlocks<BiasBlock>(args, stream); }
cudaError_t QueueGate(const GateArgs& args, cudaStream_t stream) { return QueueBlocks<GateBlock>(args, stream); }
cudaError_t QueueInput(const InputArgs& args, cudaStream_t stream) { return QueueBlocks<InputBlock>(args, stream); }

}  // namespace qamserve
