// Timing on a GPU, and the bandwidth that other rates are fractions of.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>

#include "core/base/status.h"
#include "core/kernels/cuda/buffer.h"

namespace qamserve {

// Seconds that the device takes for what `queue` queues on the stream: the least of `repetitions`, after one that warms
// up.
absl::StatusOr<double> TimeOnGpu(const CudaStream& stream, int repetitions, absl::FunctionRef<absl::Status()> queue);

// Bytes a second of a kernel that does nothing but read, of 4 GiB: many times a cache. UNIMPLEMENTED (CUDA_NOT_BUILT)
// in a build without a CUDA compiler.
absl::StatusOr<double> MeasureGpuRead(const CudaStream& stream);
absl::StatusOr<double> MeasureGpuRead(int device);

}  // namespace qamserve
