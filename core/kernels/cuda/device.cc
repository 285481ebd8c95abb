#include "core/kernels/cuda/device.h"

#include <cuda_runtime_api.h>

#include "core/kernels/cuda/runtime.h"

namespace qamserve {
namespace {

absl::StatusOr<CudaDevice> DeviceAt(int ordinal) {
  cudaDeviceProp properties;
  RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, ordinal), "reading a device's properties"));
  CudaDevice device;
  device.ordinal = ordinal;
  device.name = properties.name;
  device.capability = 10 * properties.major + properties.minor;
  device.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  device.multiprocessors = properties.multiProcessorCount;
  device.shared_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  device.l2_bytes = properties.l2CacheSize;
  return device;
}

// Errors of which the runtime's documentation says that the process must be started again; broken memory and links; and
// the unknown one, as which a GPU that has fallen off the bus is reported. Numbers are those that not every runtime
// from 12.0 on has a name for.
bool IsLost(cudaError_t error) {
  constexpr int kContained = 226, kTensorMemoryLeak = 721;
  switch (static_cast<int>(error)) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case kContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case kTensorMemoryLeak:
    case cudaErrorMpsClientTerminated:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

absl::Status CudaStatus(cudaError_t error, std::string_view doing) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();
  const std::string message = fmt::format("{}: {} ({})", doing, cudaGetErrorString(error), cudaGetErrorName(error));
  if (error == cudaErrorMemoryAllocation) return ResourceExhausted("CUDA_MEMORY", "{}", message);
  // No code that says to try again: what one request has done to a device it may do to the next.
  return Internal(IsLost(error) ? "CUDA_LOST" : "CUDA_ERROR", "{}", message);
}

absl::StatusOr<CudaPlatform> FindCudaDevices() {
  CudaProbe probe;
  // Neither fails for want of a driver; the version is then 0.
  RETURN_IF_ERROR(CudaStatus(cudaDriverGetVersion(&probe.driver_version), "asking for the driver"));
  RETURN_IF_ERROR(CudaStatus(cudaRuntimeGetVersion(&probe.runtime_version), "asking for the runtime"));
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  const absl::Status counted = CudaStatus(error, "counting devices");
  if (error == cudaErrorInsufficientDriver) {
    probe.outcome = CudaProbe::Outcome::kInsufficientDriver;
  } else if (error == cudaErrorNoDevice) {
    probe.outcome = CudaProbe::Outcome::kNoDevice;
  } else if (!counted.ok()) {
    probe.outcome = CudaProbe::Outcome::kOther;
    probe.error = MessageOf(counted);
  }
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    ASSIGN_OR_RETURN(CudaDevice device, DeviceAt(ordinal));
    probe.devices.push_back(std::move(device));
  }
  return JudgeCudaProbe(probe);
}

absl::StatusOr<CudaMemory> CudaMemoryOf(int ordinal) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal), "choosing a device"));
  size_t free_bytes = 0, bytes = 0;
  RETURN_IF_ERROR(CudaStatus(cudaMemGetInfo(&free_bytes, &bytes), "asking for a device's memory"));
  return CudaMemory{.bytes = static_cast<int64_t>(bytes), .used_bytes = static_cast<int64_t>(bytes - free_bytes)};
}

}  // namespace qamserve
