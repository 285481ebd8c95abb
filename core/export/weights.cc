#include "core/export/weights.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/codec/half.h"
#include "core/model/parameters.h"

namespace qamserve {
namespace {

// Values of one piece: with their floats 6 MiB in BF16, many strips of the widest published layers.
constexpr int64_t kPieceValues = int64_t{1} << 20;

bool IsInfinite16(DType dtype, uint16_t bits) {
  const uint16_t exponent = dtype == DType::kF16 ? 0x7c00 : 0x7f80;
  return (bits & exponent) == exponent;
}

// False if a value does not fit the type.
bool StoreRow(DType dtype, std::span<const float> row, std::byte* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, row.data(), row.size_bytes());
    return std::all_of(row.begin(), row.end(), [](float v) { return std::isfinite(v); });
  }
  bool fits = true;
  for (size_t i = 0; i < row.size(); ++i) {
    const uint16_t bits = dtype == DType::kF16 ? FloatToHalf(row[i]) : FloatToBFloat16(row[i]);
    fits = fits && std::isfinite(row[i]) && !IsInfinite16(dtype, bits);
    std::memcpy(out + 2 * i, &bits, sizeof(bits));
  }
  return fits;
}

// The row of the artifact that is row `row` of the export.
int64_t SourceRow(const ExportTensor& tensor, int64_t row) {
  const int64_t head_dim = tensor.interleaved_head_dim;
  if (head_dim == 0) return row;
  const int64_t within = row % head_dim;
  return row - within + (within % 2) * (head_dim / 2) + within / 2;
}

}  // namespace

uint64_t ExportTensor::bytes() const {
  int64_t elements = 1;
  for (const int64_t dim : shape) elements *= dim;
  return static_cast<uint64_t>(elements * DTypeBlockBytes(dtype));
}

std::vector<ExportTensor> TensorsOf(const ModelConfig& config, DType matrices) {
  std::vector<ExportTensor> out;
  for (const ParameterSpec& spec : ParametersOf(config)) {
    out.push_back({spec.name, spec.shape, spec.shape.size() > 1 ? matrices : DType::kF32});
  }
  return out;
}

int64_t WeightReader::ReadPiece(const ExportTensor& tensor, const DequantizedRows& rows, int64_t begin, int64_t end,
                                std::span<std::byte> out) {
  const int64_t cols = rows.cols(), row_bytes = cols * DTypeBlockBytes(tensor.dtype);
  std::atomic<int64_t> first_bad = end;
  const int64_t grain = std::max<int64_t>(1, (end - begin) / (pool_.threads() * 4));
  pool_.ParallelFor(end - begin, grain, [&](int64_t from, int64_t to) {
    // Whole ranges where the order allows: a codec may decode many rows faster than one.
    const int64_t at_once = tensor.interleaved_head_dim > 0 ? 1 : to - from;
    std::vector<float> values(static_cast<size_t>(at_once * cols));
    for (int64_t r = begin + from; r < begin + to; ++r) {
      const int64_t within = (r - begin - from) % at_once;
      const int64_t source = SourceRow(tensor, r);
      if (within == 0) rows.Read(source, source + at_once, values);
      const auto row = std::span(values).subspan(static_cast<size_t>(within * cols), static_cast<size_t>(cols));
      for (float& value : row) value += tensor.add;
      if (StoreRow(tensor.dtype, row, out.data() + (r - begin) * row_bytes)) continue;
      int64_t seen = first_bad.load();
      while (r < seen && !first_bad.compare_exchange_weak(seen, r)) {
      }
    }
  });
  return first_bad.load() < end ? first_bad.load() : -1;
}

absl::Status WeightReader::Read(const ExportTensor& tensor,
                                absl::FunctionRef<absl::Status(std::span<const std::byte>)> sink) {
  ASSIGN_OR_RETURN(const DequantizedRows rows, dequantizer_.Open(tensor.name));
  if (rows.shape() != tensor.shape) {
    TensorInfo found, expected;
    found.shape = rows.shape();
    expected.shape = tensor.shape;
    return InvalidArgument("TENSOR_SHAPE", "{}: tensor {} has shape {}, expected {}", artifact_.weights_path(),
                           tensor.name, found.ShapeString(), expected.ShapeString());
  }
  const int64_t row_bytes = rows.cols() * DTypeBlockBytes(tensor.dtype);
  const int64_t rows_at_once = std::max<int64_t>(1, kPieceValues / std::max<int64_t>(1, rows.cols()));
  for (int64_t begin = 0; begin < rows.rows(); begin += rows_at_once) {
    const int64_t end = std::min(rows.rows(), begin + rows_at_once);
    piece_.resize(static_cast<size_t>((end - begin) * row_bytes));
    if (const int64_t bad = ReadPiece(tensor, rows, begin, end, piece_); bad >= 0) {
      return InvalidArgument("EXPORT_RANGE", "{}: tensor {}, row {}, has a value that {} cannot hold",
                             artifact_.weights_path(), tensor.name, SourceRow(tensor, bad), DTypeName(tensor.dtype));
    }
    RETURN_IF_ERROR(sink(piece_));
    done_bytes_ += piece_.size();
    RETURN_IF_ERROR(progress_(static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_)));
  }
  return absl::OkStatus();
}

}  // namespace qamserve
