// ErrorFeedback (core/quantize/feedback.h) in a GPU's memory.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "core/base/status.h"
#include "core/codec/rotation.h"
#include "core/kernels/cuda/buffer.h"

namespace qamserve {

// Immutable; belongs to the device that it was made on.
class CudaFactor {
 public:
  // What ErrorFeedback::Create makes of the same arguments, bit for bit, but that `hessian` is left as it is. Takes 20
  // bytes of device memory for each entry of the matrix, of which 4 are kept. Returns when it is there. Errors as
  // ErrorFeedback::Create; RESOURCE_EXHAUSTED (CUDA_MEMORY), INTERNAL (CUDA_ERROR).
  static absl::StatusOr<CudaFactor> Create(std::string_view group, std::span<const float> hessian,
                                           std::span<const float> scale, const Rotation& rotation,
                                           const CudaStream& stream);

  int64_t size() const { return n_; }
  // ErrorFeedback::rows and weights.
  const CudaBuffer& rows() const { return rows_; }
  const CudaBuffer& weights() const { return weights_; }

 private:
  CudaFactor(int64_t n, CudaBuffer rows, CudaBuffer weights)
      : n_(n), rows_(std::move(rows)), weights_(std::move(weights)) {}
  int64_t n_;
  CudaBuffer rows_;
  CudaBuffer weights_;
};

}  // namespace qamserve
