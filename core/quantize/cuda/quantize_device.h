// A GPU as a device of core/quantize/device.h. Never run on a GPU yet.
#pragma once

#include <memory>

#include "core/base/status.h"
#include "core/quantize/device.h"

namespace qamserve {

// The GPU of this number (core/kernels/cuda/device.h; errors as CudaStream::Create). Device memory is bounded by one
// tensor: its factor, 20 bytes for each pair of input channels while it is made and 4 after, then a panel of
// kPanelWeights; and by one block's sums of inputs.
absl::StatusOr<std::shared_ptr<QuantizeDevice>> OpenCudaQuantizeDevice(int device);

}  // namespace qamserve
