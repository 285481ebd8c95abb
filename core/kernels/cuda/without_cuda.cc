// Stands in for all sources of this folder that need a CUDA compiler, where there is none.
#include "core/kernels/cuda/device.h"

namespace qamserve {
namespace {

absl::Status NotBuilt() {
  return Unimplemented("CUDA_NOT_BUILT", "this was built without CUDA (see QAMSERVE_CUDA in cmake/Cuda.cmake)");
}

}  // namespace

absl::StatusOr<CudaPlatform> FindCudaDevices() { return NotBuilt(); }

}  // namespace qamserve
