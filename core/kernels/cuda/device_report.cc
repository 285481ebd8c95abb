// The part of device.h that needs neither a device nor a CUDA compiler.
#include <algorithm>

#include "core/kernels/cuda/device.h"

namespace qamserve {
namespace {

std::string Version(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

std::string MemoryOf(const CudaDevice& device) {
  return fmt::format("{:.1f} GiB", static_cast<double>(device.memory_bytes) / static_cast<double>(int64_t{1} << 30));
}

std::string Describe(const CudaDevice& device) {
  return fmt::format("{} ({}.{}, {})", device.name, device.capability / 10, device.capability % 10, MemoryOf(device));
}

std::string Describe(const std::vector<CudaDevice>& devices) {
  std::string text;
  for (const CudaDevice& device : devices) text += (text.empty() ? "" : ", ") + Describe(device);
  return text;
}

absl::Status OldDriver(const CudaProbe& probe) {
  if (probe.driver_version == 0) {
    return FailedPrecondition("NO_CUDA_DRIVER",
                              "there is no NVIDIA driver; it is installed with the GPU's own packages");
  }
  return FailedPrecondition("CUDA_DRIVER_OLD",
                            "the NVIDIA driver runs CUDA up to {}, this was built with {}; update it",
                            Version(probe.driver_version), Version(probe.runtime_version));
}

}  // namespace

absl::StatusOr<CudaPlatform> JudgeCudaProbe(const CudaProbe& probe) {
  switch (probe.outcome) {
    case CudaProbe::Outcome::kInsufficientDriver:
      return OldDriver(probe);
    case CudaProbe::Outcome::kNoDevice:
      return FailedPrecondition("NO_CUDA_DEVICE", "the NVIDIA driver finds no GPU (or CUDA_VISIBLE_DEVICES hides it)");
    case CudaProbe::Outcome::kOther:
      return Internal("CUDA_ERROR", "the CUDA runtime does not list its devices: {}", probe.error);
    case CudaProbe::Outcome::kDevices:
      break;
  }
  CudaPlatform platform;
  platform.driver_version = probe.driver_version;
  platform.runtime_version = probe.runtime_version;
  std::copy_if(probe.devices.begin(), probe.devices.end(), std::back_inserter(platform.devices),
               [](const CudaDevice& device) { return device.capability >= kMinCudaCapability; });
  if (!platform.devices.empty()) return platform;
  if (probe.devices.empty()) return FailedPrecondition("NO_CUDA_DEVICE", "the NVIDIA driver finds no GPU");
  return FailedPrecondition("CUDA_DEVICE_OLD", "{}: the kernels need compute capability {}.{}", Describe(probe.devices),
                            kMinCudaCapability / 10, kMinCudaCapability % 10);
}

bool IsCudaLost(const absl::Status& status) { return ReasonOf(status) == "CUDA_LOST"; }

std::string DescribeCuda(const absl::StatusOr<CudaPlatform>& platform) {
  if (!platform.ok()) return "none: " + MessageOf(platform.status());
  return fmt::format("{}; driver runs CUDA {}, built with {}", Describe(platform->devices),
                     Version(platform->driver_version), Version(platform->runtime_version));
}

std::string DescribeCudaDevice(const absl::StatusOr<CudaPlatform>& platform, int ordinal) {
  if (!platform.ok()) return "";
  const auto device = std::find_if(platform->devices.begin(), platform->devices.end(),
                                   [&](const CudaDevice& one) { return one.ordinal == ordinal; });
  return device == platform->devices.end() ? "" : fmt::format("{}, {}", device->name, MemoryOf(*device));
}

}  // namespace qamserve
