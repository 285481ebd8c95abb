#include "core/quantize/cuda/tables.h"

#include "core/codec/codebook.h"

namespace qamserve {

absl::StatusOr<const CudaBuffer*> CudaTables::Copy(const void* data, int64_t bytes) {
  ASSIGN_OR_RETURN(CudaBuffer buffer, CudaBuffer::Allocate(bytes, stream_));
  RETURN_IF_ERROR(buffer.Upload(data, bytes, stream_));
  RETURN_IF_ERROR(stream_.Wait());
  buffers_.push_back(std::move(buffer));
  return &buffers_.back();
}

absl::StatusOr<RotationParts> CudaTables::Add(const Rotation& rotation) {
  RotationParts parts = PartsOf(rotation);
  ASSIGN_OR_RETURN(parts.signs, Add(std::span<const float>(rotation.signs())));
  for (int f = 0; f < parts.factors; ++f) {
    const std::vector<float>& entries = rotation.factors()[static_cast<size_t>(f)].entries;
    ASSIGN_OR_RETURN(parts.entries[f], Add(std::span<const float>(entries)));
  }
  return parts;
}

absl::StatusOr<EncodeTables> CudaTables::Add(const TensorFormat& format) {
  EncodeTables tables = TablesOf(format);
  if (const Codebook* codebook = CodebookOf(format)) {
    const std::vector<float> points = PointsOf(*codebook);
    ASSIGN_OR_RETURN(tables.points.x, Add(std::span<const float>(points)));
    tables.points.y = tables.points.x + tables.points.count;
  }
  return tables;
}

}  // namespace qamserve
