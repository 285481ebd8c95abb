// The part of tables.h that needs neither a device nor a CUDA compiler, and what encoder.h says of formats.
#include "core/codec/codebook.h"
#include "core/codec/trellis.h"
#include "core/quantize/cuda/encoder.h"
#include "core/quantize/cuda/tables.h"

namespace qamserve {

bool CudaEncodes(const TensorFormat& format) {
  return format.codec == Codec::kTrellis || CodebookOf(format) != nullptr;
}

RotationParts PartsOf(const Rotation& rotation) {
  RotationParts parts;
  parts.cols = rotation.size();
  parts.blocks = rotation.blocks();
  parts.scale = rotation.scale();
  for (const Rotation::Factor& factor : rotation.factors()) parts.order[parts.factors++] = factor.order;
  return parts;
}

EncodeTables TablesOf(const TensorFormat& format) {
  EncodeTables tables;
  tables.pair_bits = format.pair_bits;
  if (const Codebook* codebook = CodebookOf(format)) {
    tables.points.count = static_cast<int>(codebook->x.size());
    tables.points.magnitude_bits = codebook->magnitude_bits();
    if (format.codec == Codec::kUniform) tables.outermost = static_cast<float>(codebook->outermost) * codebook->step;
  } else {
    tables.trellis_step = TrellisStep(format.pair_bits);
  }
  return tables;
}

std::vector<float> PointsOf(const Codebook& codebook) {
  std::vector<float> points;
  points.reserve(2 * codebook.x.size());
  for (const std::span<const uint8_t> column : {codebook.x, codebook.y}) {
    for (uint8_t v : column) points.push_back(codebook.step * static_cast<float>(v));
  }
  return points;
}

}  // namespace qamserve
