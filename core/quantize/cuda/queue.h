// From the sources that g++ compiles to those that nvcc does. Internal to core/quantize/cuda. Each function queues
// kernels on the calling thread's device and returns what the first that failed said.
#pragma once

#include <driver_types.h>

#include <cstdint>

#include "core/quantize/cuda/encode_sequence.h"
#include "core/quantize/cuda/factor_bodies.h"
#include "core/quantize/cuda/statistics_bodies.h"

namespace qamserve {

cudaError_t QueueEncode(const EncodeTables& tables, const EncodePanel& panel, cudaStream_t stream);
// The two parts of factor_bodies.h.
cudaError_t QueueRotateOuterProducts(const RotationParts& rotation, const float* scale, const FactorMatrices& matrices,
                                     cudaStream_t stream);
cudaError_t QueueFactorOuterProducts(int64_t n, double damping, const FactorMatrices& matrices, cudaStream_t stream);
cudaError_t QueueAddInputs(const InputSumsMemory& memory, const float* x, int64_t tokens, cudaStream_t stream);

}  // namespace qamserve
