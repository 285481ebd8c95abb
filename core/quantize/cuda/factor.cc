#include "core/quantize/cuda/factor.h"

#include <cuda_runtime_api.h>

#include "core/kernels/cuda/runtime.h"
#include "core/quantize/cuda/queue.h"
#include "core/quantize/cuda/tables.h"
#include "core/quantize/feedback.h"

namespace qamserve {

absl::StatusOr<CudaFactor> CudaFactor::Create(std::string_view group, std::span<const float> hessian,
                                              std::span<const float> scale, const Rotation& rotation,
                                              const CudaStream& stream) {
  const int64_t n = rotation.size(), entries = n * n;
  if (static_cast<int64_t>(hessian.size()) != entries) {
    return InvalidArgument("CUDA_FACTOR", "{} products of {} inputs of {}", hessian.size(), n, group);
  }
  CudaTables tables(stream);
  ASSIGN_OR_RETURN(const RotationParts parts, tables.Add(rotation));
  ASSIGN_OR_RETURN(const float* const device_scale, tables.Add(scale));
  const auto floats = [&](int64_t count) { return CudaBuffer::Allocate(count * int64_t{sizeof(float)}, stream); };
  const auto doubles = [&](int64_t count) { return CudaBuffer::Allocate(count * int64_t{sizeof(double)}, stream); };
  ASSIGN_OR_RETURN(const CudaBuffer h, floats(entries));
  ASSIGN_OR_RETURN(const CudaBuffer scratch, floats(entries));
  ASSIGN_OR_RETURN(const CudaBuffer a, doubles(entries));
  ASSIGN_OR_RETURN(const CudaBuffer device_trace, doubles(1));
  ASSIGN_OR_RETURN(const CudaBuffer device_failed, CudaBuffer::Allocate(sizeof(int), stream));
  ASSIGN_OR_RETURN(CudaBuffer rows, floats(entries));
  ASSIGN_OR_RETURN(CudaBuffer weights, doubles(n / 2 * 3));
  const FactorMatrices matrices{
      h.as<float>(),           scratch.as<float>(), a.as<double>(),      device_trace.as<double>(),
      device_failed.as<int>(), rows.as<float>(),    weights.as<double>()};
  double trace = 0;
  int failed = 0;
  // Waited for after each part in any case, since copies may be under way.
  const auto part = [&](auto queue) {
    const absl::Status queued = queue(), done = stream.Wait();
    return queued.ok() ? done : queued;
  };
  RETURN_IF_ERROR(part([&]() -> absl::Status {
    RETURN_IF_ERROR(CudaStatus(cudaSetDevice(stream.device()), "choosing a device"));
    RETURN_IF_ERROR(h.Upload(hessian.data(), h.bytes(), stream));
    RETURN_IF_ERROR(CudaStatus(QueueRotateOuterProducts(parts, device_scale, matrices, stream.handle()),
                               "queueing a change of basis"));
    return device_trace.Download(&trace, sizeof(trace), stream);
  }));
  RETURN_IF_ERROR(CheckTrace(group, trace, n));
  RETURN_IF_ERROR(part([&]() -> absl::Status {
    const double damping = kFeedbackDamping * trace / static_cast<double>(n);
    RETURN_IF_ERROR(
        CudaStatus(QueueFactorOuterProducts(n, damping, matrices, stream.handle()), "queueing a factorization"));
    return device_failed.Download(&failed, sizeof(failed), stream);
  }));
  if (failed != 0) return NotPositiveDefinite(group);
  return CudaFactor(n, std::move(rows), std::move(weights));
}

}  // namespace qamserve
