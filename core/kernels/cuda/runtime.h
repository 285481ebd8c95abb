// What the CUDA runtime returns, as a Status. Internal to core/kernels/cuda: only sources that are built with CUDA
// include it.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

#include "core/base/status.h"

namespace qamserve {

// RESOURCE_EXHAUSTED (CUDA_MEMORY) where device memory ran out, else INTERNAL (CUDA_ERROR), both with the runtime's
// words after `doing`. An error of an earlier launch can come up here: the runtime reports late.
absl::Status CudaStatus(cudaError_t error, std::string_view doing);

}  // namespace qamserve
