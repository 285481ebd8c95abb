// Tables of rotations and formats in a GPU's memory, as encode_sequence.h takes them.
#pragma once

#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/codec/rotation.h"
#include "core/codec/tensor_format.h"
#include "core/kernels/cuda/buffer.h"
#include "core/quantize/cuda/encode_sequence.h"

namespace qamserve {

// What encode_sequence.h wants of a rotation and a format, but for the pointers to tables.
RotationParts PartsOf(const Rotation& rotation);
EncodeTables TablesOf(const TensorFormat& format);
// The magnitudes of a codebook in units of sigma, first those of the even column.
std::vector<float> PointsOf(const Codebook& codebook);

// Buffers that the parts of tables point to. Freed together.
class CudaTables {
 public:
  explicit CudaTables(const CudaStream& stream) : stream_(stream) {}
  // A copy of `values` in device memory; null for none. The values may go when the call returns.
  template <typename T>
  absl::StatusOr<const T*> Add(std::span<const T> values) {
    if (values.empty()) return nullptr;
    ASSIGN_OR_RETURN(const CudaBuffer* buffer, Copy(values.data(), static_cast<int64_t>(values.size_bytes())));
    return buffer->as<T>();
  }
  absl::StatusOr<RotationParts> Add(const Rotation& rotation);
  absl::StatusOr<EncodeTables> Add(const TensorFormat& format);

 private:
  absl::StatusOr<const CudaBuffer*> Copy(const void* data, int64_t bytes);

  const CudaStream& stream_;
  std::vector<CudaBuffer> buffers_;
};

}  // namespace qamserve
