#include "tests/bench/gpu_measure.h"

namespace qamserve {

absl::StatusOr<double> MeasureGpuRead(int) {
  return Unimplemented("CUDA_NOT_BUILT", "this was built without CUDA (see QAMSERVE_CUDA in cmake/Cuda.cmake)");
}

}  // namespace qamserve
