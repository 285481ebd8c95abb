#include "core/format/tensor.h"

#include <algorithm>

#include "core/format/checks.h"

namespace qamserve {
namespace {

struct DTypeTraits {
  const char* name;
  int64_t block_elements;
  int64_t block_bytes;
};

// In the order of DType.
constexpr DTypeTraits kTraits[] = {
    {"F32", 1, 4},    {"F16", 1, 2},     {"BF16", 1, 2},     {"I8", 1, 1},       {"U8", 1, 1},       {"I16", 1, 2},
    {"I32", 1, 4},    {"I64", 1, 8},     {"Q4_0", 32, 18},   {"Q4_1", 32, 20},   {"Q5_0", 32, 22},   {"Q5_1", 32, 24},
    {"Q8_0", 32, 34}, {"Q2_K", 256, 84}, {"Q3_K", 256, 110}, {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
};
static_assert(std::size(kTraits) == static_cast<size_t>(DType::kQ6_K) + 1);

const DTypeTraits& TraitsOf(DType dtype) { return kTraits[static_cast<size_t>(dtype)]; }

// A whole number of blocks of every type, and at most 256 KiB of stored bytes: the conversion stays in cache and
// ReadRows needs no memory that grows with the tensor.
constexpr int64_t kChunkElements = 1 << 16;

}  // namespace

const char* DTypeName(DType dtype) { return TraitsOf(dtype).name; }
int64_t DTypeBlockElements(DType dtype) { return TraitsOf(dtype).block_elements; }
int64_t DTypeBlockBytes(DType dtype) { return TraitsOf(dtype).block_bytes; }

std::string TensorInfo::ShapeString() const { return fmt::format("[{}]", fmt::join(shape, ", ")); }

absl::Status ReadRows(const TensorSource& source, const TensorInfo& tensor, int64_t row_begin, int64_t row_end,
                      std::span<float> out) {
  const int64_t cols = tensor.cols();
  if (row_begin < 0 || row_end < row_begin || row_end > tensor.rows()) {
    return OutOfRange("TENSOR_RANGE", "{}: tensor {} has {} rows; rows {} to {} were asked for", source.origin(),
                      Quoted(tensor.name), tensor.rows(), row_begin, row_end);
  }
  const int64_t count = (row_end - row_begin) * cols;
  if (out.size() != static_cast<size_t>(count)) {
    return InvalidArgument("TENSOR_RANGE", "{}: {} rows of tensor {} are {} values, but the output holds {}",
                           source.origin(), row_end - row_begin, Quoted(tensor.name), count, out.size());
  }
  const DTypeTraits& traits = TraitsOf(tensor.dtype);
  const auto stored_bytes = [&](int64_t elements) {
    return static_cast<uint64_t>(elements / traits.block_elements * traits.block_bytes);
  };
  const uint64_t start = stored_bytes(row_begin * cols);
  if (tensor.dtype == DType::kF32) return source.ReadBytes(tensor, start, std::as_writable_bytes(out));

  // Rows follow each other without gaps, so a chunk may begin and end inside one.
  std::vector<std::byte> chunk(stored_bytes(std::min(count, kChunkElements)));
  for (int64_t done = 0; done < count;) {
    const int64_t n = std::min(count - done, kChunkElements);
    const auto part = std::span(chunk).first(stored_bytes(n));
    RETURN_IF_ERROR(source.ReadBytes(tensor, start + stored_bytes(done), part));
    if (absl::Status status = ConvertToFloat(tensor.dtype, part.data(), n, out.data() + done); !status.ok()) {
      return Annotate(status, fmt::format("{}: tensor {}", source.origin(), Quoted(tensor.name)));
    }
    done += n;
  }
  return absl::OkStatus();
}

}  // namespace qamserve
