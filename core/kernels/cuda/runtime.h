// What the CUDA runtime returns, as a Status. Internal to core/kernels/cuda: only sources that are built with CUDA
// include it.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

#include "core/base/status.h"

namespace qamserve {

// RESOURCE_EXHAUSTED (CUDA_MEMORY) where device memory ran out, INTERNAL (CUDA_LOST) where no call of this process will
// succeed any more (IsCudaLost), else INTERNAL (CUDA_ERROR), all with the runtime's words after `doing`. An error of an
// earlier launch can come up here: the runtime reports late.
//
// The runtime also keeps an error for whoever asks a thread for its last one, as launches do. Here it is forgotten, so
// that it is told once: else the next launch, which succeeded, would report it again.
absl::Status CudaStatus(cudaError_t error, std::string_view doing);

}  // namespace qamserve
