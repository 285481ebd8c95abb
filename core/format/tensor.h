// Named tensors, whatever file they come from. Start here for core/format: a TensorSource is what a safetensors
// directory and a GGUF file both become once every offset, shape and size has been checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

// Element types. The block types are GGUF's: rows of blocks of 32 or 256 weights (ggml's block_q4_0 and so on).
enum class DType {
  kF32,
  kF16,
  kBF16,
  kI8,
  kU8,
  kI16,
  kI32,
  kI64,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

const char* DTypeName(DType dtype);       // "F32", "BF16", "Q4_1", ...
int64_t DTypeBlockElements(DType dtype);  // 1 for plain types, 32 or 256 for block types
int64_t DTypeBlockBytes(DType dtype);

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // outermost first, as in safetensors ([out, in] for a linear layer)
  uint64_t offset = 0;         // of the data, from the start of its file
  uint64_t bytes = 0;
  int file = 0;  // index of the file within the source

  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  int64_t elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  // All dimensions but the last, multiplied; 1 for a vector.
  int64_t rows() const { return cols() == 0 ? 0 : elements() / cols(); }
  std::string ShapeString() const;  // "[576, 1536]"
};

// Read access to the tensors of one checkpoint or artifact. Thread-safe after construction.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // In file order.
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  // Null if there is none of that name.
  virtual const TensorInfo* Find(std::string_view name) const = 0;
  // What messages call this source: a file or a folder.
  virtual const std::string& origin() const = 0;
  // `out.size()` bytes of the stored form, from byte `offset` of the tensor.
  virtual absl::Status ReadBytes(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const = 0;
};

// Rows [row_begin, row_end) of `tensor`, converted to float exactly as the format defines; `out` holds
// (row_end - row_begin) * cols values. Integer types are INVALID_ARGUMENT (TENSOR_DTYPE_UNSUPPORTED).
absl::Status ReadRows(const TensorSource& source, const TensorInfo& tensor, int64_t row_begin, int64_t row_end,
                      std::span<float> out);

// `n` elements (a multiple of the block) from their stored form to float.
absl::Status ConvertToFloat(DType dtype, const std::byte* data, int64_t n, float* out);

}  // namespace qamserve
