#include "core/quantize/cuda/device_grid.cuh"
#include "core/quantize/cuda/queue.h"

namespace qamserve {

cudaError_t QueueRotateOuterProducts(const RotationParts& rotation, const float* scale, const FactorMatrices& matrices,
                                     cudaStream_t stream) {
  DeviceGrid grid(stream);
  RotateOuterProducts(grid, rotation, scale, matrices);
  return grid.error();
}

cudaError_t QueueFactorOuterProducts(int64_t n, double damping, const FactorMatrices& matrices, cudaStream_t stream) {
  DeviceGrid grid(stream);
  FactorOuterProducts(grid, n, damping, matrices);
  return grid.error();
}

}  // namespace qamserve
