#include "core/model/cuda/open.h"

#include <charconv>
#include <utility>

#include "core/kernels/cuda/forward/forward_device.h"
#include "core/model/cuda/cuda_model.h"

namespace qamserve {

absl::StatusOr<int> ParseDevice(std::string_view name) {
  constexpr std::string_view kCuda = "cuda:";
  if (name == "cpu") return -1;
  int number = -1;
  if (name.starts_with(kCuda)) {
    const char* const end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + kCuda.size(), end, number);
    if (error == std::errc() && stop == end && number >= 0) return number;
  }
  return InvalidArgument("DEVICE_NAME", "there is no device \"{}\"; it must be cpu, or cuda: and a number", name);
}

absl::StatusOr<std::unique_ptr<Forwarder>> OpenForwarder(std::string_view device, std::shared_ptr<const Model> model,
                                                         const KvLayout& layout, int64_t blocks, ThreadPool& pool) {
  ASSIGN_OR_RETURN(const int number, ParseDevice(device));
  if (number < 0) return std::make_unique<CpuForwarder>(std::move(model), pool);
  ASSIGN_OR_RETURN(std::unique_ptr<ForwardDevice> gpu, OpenCudaForwardDevice(number));
  return CudaModel::Create(std::move(model), std::move(gpu), layout, blocks);
}

}  // namespace qamserve
