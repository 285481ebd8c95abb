#include "core/quantize/cuda/device_grid.cuh"
#include "core/quantize/cuda/queue.h"

namespace qamserve {

cudaError_t QueueEncode(const EncodeTables& tables, const EncodePanel& panel, cudaStream_t stream) {
  DeviceGrid grid(stream);
  EncodePanelOn(grid, tables, panel);
  return grid.error();
}

}  // namespace qamserve
