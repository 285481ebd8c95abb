// Devices by their names, as options have them: "cpu", "cuda:0", "cuda:1", ...
#pragma once

#include <memory>
#include <string_view>

#include "core/base/status.h"
#include "core/model/forwarder.h"

namespace qamserve {

// The number of a GPU, or -1 for "cpu". INVALID_ARGUMENT (DEVICE_NAME) for other names.
absl::StatusOr<int> ParseDevice(std::string_view name);

// Runs `model` on the device of this name, with blocks of keys and values for `blocks` blocks of `layout` on it if it
// is a GPU. The errors of ParseDevice, OpenCudaForwardDevice and CudaModel::Create. `pool` must outlive what is
// returned.
absl::StatusOr<std::unique_ptr<Forwarder>> OpenForwarder(std::string_view device, std::shared_ptr<const Model> model,
                                                         const KvLayout& layout, int64_t blocks, ThreadPool& pool);

}  // namespace qamserve
