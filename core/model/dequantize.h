// The weights of an artifact as floats in the basis of its checkpoint, whatever codec holds them: codes to points, out
// of the rotation, divided by the channel scale. Beside the kernels this is the only reader of quantized tensors; a
// codec is added to RowDecoder and nowhere else for those who want its rows (export, the reconstruction gate).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/codec/rotation.h"
#include "core/codec/tensor_format.h"
#include "core/format/tensor.h"
#include "core/model/artifact.h"

namespace qamserve {

// One tensor, opened and checked: its sizes, its norms and scales. Thread-safe; points into the artifact's mapping,
// which must outlive it.
class DequantizedRows {
 public:
  int64_t rows() const { return rows_; }  // 1 for a vector
  int64_t cols() const { return cols_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  bool quantized() const { return codes_ != nullptr; }
  // What the columns were multiplied by before they were quantized; empty if by nothing.
  std::span<const float> channel_scale() const { return scale_; }

  // Rows [begin, end) as the kernels compute with them, but for the rounding of float products; `out` holds
  // (end - begin) * cols() values. Gemma's norms come as stored, less one.
  // REQUIRES: 0 <= begin <= end <= rows().
  void Read(int64_t begin, int64_t end, std::span<float> out) const;

 private:
  friend class Dequantizer;
  DequantizedRows() = default;

  std::vector<int64_t> shape_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  // A tensor that is kept as it was.
  const std::byte* kept_ = nullptr;
  DType kept_dtype_ = DType::kF32;
  // A quantized one.
  const uint8_t* codes_ = nullptr;
  const std::byte* norms_ = nullptr;  // binary16 [rows], not aligned
  std::shared_ptr<const RowDecoder> decoder_;
  std::shared_ptr<const Rotation> rotation_;
  std::vector<float> scale_;
};

// Opens tensors of one artifact, which must outlive it. Thread-safe.
class Dequantizer {
 public:
  explicit Dequantizer(const ArtifactReader& artifact) : artifact_(artifact) {}

  // `name` is a tensor of the checkpoint: "model.layers.0.self_attn.q_proj.weight", "model.norm.weight".
  // TENSOR_MISSING, TENSOR_SHAPE, TENSOR_DTYPE_UNSUPPORTED, TENSOR_NOT_FINITE: each names file and tensor.
  absl::StatusOr<DequantizedRows> Open(std::string_view name) const;

 private:
  absl::StatusOr<DequantizedRows> OpenKept(const std::string& name, const TensorInfo& info) const;
  absl::StatusOr<DequantizedRows> OpenQuantized(const std::string& layer) const;

  const ArtifactReader& artifact_;
};

}  // namespace qamserve
