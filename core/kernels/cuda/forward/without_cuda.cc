// Stands in for the sources of this folder that need a CUDA compiler, where there is none.
#include "core/kernels/cuda/forward/forward_device.h"

namespace qamserve {

absl::StatusOr<std::unique_ptr<ForwardDevice>> OpenCudaForwardDevice(int) {
  return Unimplemented("CUDA_NOT_BUILT", "this was built without CUDA (see QAMSERVE_CUDA in cmake/Cuda.cmake)");
}

}  // namespace qamserve
