#include "core/format/checks.h"

#include <algorithm>

namespace qamserve {

std::string Quoted(std::string_view text) {
  constexpr size_t kMaxShown = 120;
  std::string out = "\"";
  for (char c : text.substr(0, kMaxShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte > 0x7e) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out + (text.size() > kMaxShown ? "...\"" : "\"");
}

absl::Status CheckTensorName(std::string_view where, std::string_view name, std::string_view reason) {
  if (name.empty() || name.size() > kMaxTensorNameBytes) {
    return InvalidArgument(reason, "{}: tensor name {} has {} bytes; allowed are 1 to {}", where, Quoted(name),
                           name.size(), kMaxTensorNameBytes);
  }
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (std::any_of(name.begin(), name.end(), is_control)) {
    return InvalidArgument(reason, "{}: tensor name {} has a control character", where, Quoted(name));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> CheckedTensorBytes(std::string_view where, DType dtype, const std::vector<int64_t>& shape,
                                            std::string_view reason) {
  int64_t bound = 1;
  int64_t elements = 1;
  for (int64_t dimension : shape) {
    if (dimension < 0) {
      return InvalidArgument(reason, "{}: shape has the negative dimension {}", where, dimension);
    }
    if (__builtin_mul_overflow(bound, std::max<int64_t>(dimension, 1), &bound)) {
      return InvalidArgument(reason, "{}: shape has more than 2^63 elements", where);
    }
    elements *= dimension;
  }
  const int64_t block = DTypeBlockElements(dtype);
  const int64_t cols = shape.empty() ? 1 : shape.back();
  if (cols % block != 0) {
    return InvalidArgument(reason, "{}: rows of {} elements are not whole {} blocks of {}", where, cols,
                           DTypeName(dtype), block);
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(elements / block, DTypeBlockBytes(dtype), &bytes)) {
    return InvalidArgument(reason, "{}: shape has more than 2^63 bytes", where);
  }
  return static_cast<uint64_t>(bytes);
}

absl::Status CheckByteRange(std::string_view origin, const TensorInfo& tensor, uint64_t offset, uint64_t size) {
  if (offset <= tensor.bytes && size <= tensor.bytes - offset) return absl::OkStatus();
  return OutOfRange("TENSOR_RANGE", "{}: tensor {} has {} bytes; {} at {} were asked for", origin, Quoted(tensor.name),
                    tensor.bytes, size, offset);
}

}  // namespace qamserve
