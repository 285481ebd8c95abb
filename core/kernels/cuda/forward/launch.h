// From the sources that g++ compiles to those that nvcc does. Internal to this folder. Each function queues the kernels
// of one operation on the calling thread's device; arguments were checked.
#pragma once

#include <driver_types.h>

#include <cstdint>

#include "core/kernels/cuda/forward/args.h"

namespace qamserve {

cudaError_t QueueEmbed(const EmbedArgs& args, cudaStream_t stream);
cudaError_t QueueNorm(const NormArgs& args, cudaStream_t stream);
cudaError_t QueueResidual(const ResidualArgs& args, cudaStream_t stream);
cudaError_t QueueBias(const BiasArgs& args, cudaStream_t stream);
cudaError_t QueueGate(const GateArgs& args, cudaStream_t stream);
cudaError_t QueueInput(const InputArgs& args, cudaStream_t stream);
cudaError_t QueueHeads(const HeadsArgs& args, cudaStream_t stream);
cudaError_t QueueAttend(const AttendArgs& args, cudaStream_t stream);
cudaError_t QueueSample(const SampleArgs& args, cudaStream_t stream);
cudaError_t QueueDense(const DenseMatmulArgs& args, cudaStream_t stream);

}  // namespace qamserve
