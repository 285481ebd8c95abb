#include "core/model/dequantize.h"

#include <cmath>
#include <cstring>

#include "core/codec/half.h"
#include "core/codec/joint.h"
#include "core/codec/packing.h"

namespace qamserve {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

uint16_t HalfAt(const std::byte* data, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, data + index * 2, sizeof(bits));
  return bits;
}

bool IsPlainFloat(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

}  // namespace

void DequantizedRows::Read(int64_t begin, int64_t end, std::span<float> out) const {
  if (!quantized()) {
    const int64_t row_bytes = cols_ * DTypeBlockBytes(kept_dtype_);
    // Cannot fail: the type was checked when the tensor was opened.
    ConvertToFloat(kept_dtype_, kept_ + begin * row_bytes, (end - begin) * cols_, out.data()).IgnoreError();
    return;
  }
  const auto n = static_cast<size_t>(cols_);
  std::vector<float> scratch(n);
  for (int64_t row = begin; row < end; ++row) {
    const uint8_t* strip = codes_ + (row / kTileRows) * CodesStripBytes(decoder_->format(), cols_);
    DecodeRow(*rotation_, *decoder_, scale_, HalfAt(norms_, row), strip, static_cast<int>(row % kTileRows),
              out.subspan(static_cast<size_t>(row - begin) * n, n), scratch);
  }
}

absl::StatusOr<DequantizedRows> Dequantizer::Open(std::string_view name) const {
  if (const TensorInfo* info = artifact_.Find(name); info != nullptr) return OpenKept(std::string(name), *info);
  if (name.ends_with(kWeightSuffix)) {
    const std::string layer(name.substr(0, name.size() - kWeightSuffix.size()));
    if (artifact_.Has(layer + kCodesSuffix)) return OpenQuantized(layer);
  }
  return NotFound("TENSOR_MISSING", "{}: tensor {} is missing", artifact_.weights_path(), name);
}

absl::StatusOr<DequantizedRows> Dequantizer::OpenKept(const std::string& name, const TensorInfo& info) const {
  if (!IsPlainFloat(info.dtype)) {
    return InvalidArgument("TENSOR_DTYPE_UNSUPPORTED", "{}: tensor {} is {}; F32, F16 or BF16 is expected",
                           artifact_.weights_path(), name, DTypeName(info.dtype));
  }
  DequantizedRows out;
  out.shape_ = info.shape;
  out.rows_ = info.rows();
  out.cols_ = info.cols();
  out.kept_dtype_ = info.dtype;
  ASSIGN_OR_RETURN(out.kept_, artifact_.Mapped(name, info.dtype, info.shape));
  return out;
}

absl::StatusOr<DequantizedRows> Dequantizer::OpenQuantized(const std::string& layer) const {
  ASSIGN_OR_RETURN(const ArtifactReader::QuantizedShape shape, artifact_.ShapeOf(layer));
  DequantizedRows out;
  out.shape_ = {shape.rows, shape.cols};
  out.rows_ = shape.rows;
  out.cols_ = shape.cols;
  out.decoder_ = std::make_shared<const RowDecoder>(artifact_.FormatOf(layer));
  const int64_t bytes = CodesBytes(out.decoder_->format(), shape.rows, shape.cols);
  ASSIGN_OR_RETURN(const std::byte* codes, artifact_.Mapped(layer + kCodesSuffix, DType::kU8, {bytes}));
  out.codes_ = reinterpret_cast<const uint8_t*>(codes);
  ASSIGN_OR_RETURN(out.norms_, artifact_.Mapped(layer + kRowNormSuffix, DType::kF16, {shape.rows}));
  for (int64_t row = 0; row < shape.rows; ++row) {
    if (std::isfinite(HalfToFloat(HalfAt(out.norms_, row)))) continue;
    return InvalidArgument("TENSOR_NOT_FINITE", "{}: tensor {}{} has a value that is not finite at row {}",
                           artifact_.weights_path(), layer, kRowNormSuffix, row);
  }
  ASSIGN_OR_RETURN(out.rotation_, artifact_.RotationFor(shape.cols));
  if (artifact_.quantization().channel_scale && !shape.group.empty()) {
    ASSIGN_OR_RETURN(out.scale_, artifact_.LoadChannelScale(shape.group, shape.cols));
  }
  return out;
}

}  // namespace qamserve
