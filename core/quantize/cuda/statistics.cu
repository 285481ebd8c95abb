#include "core/quantize/cuda/device_grid.cuh"
#include "core/quantize/cuda/queue.h"

namespace qamserve {

cudaError_t QueueAddInputs(const InputSumsMemory& memory, const float* x, int64_t tokens, cudaStream_t stream) {
  DeviceGrid grid(stream);
  AddInputsOn(grid, memory, x, tokens);
  return grid.error();
}

}  // namespace qamserve
