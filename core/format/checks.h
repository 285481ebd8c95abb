// Checks that both readers share. Internal to core/format.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/tensor.h"

namespace qamserve {

// The longest names that published checkpoints use are about 100 bytes.
inline constexpr size_t kMaxTensorNameBytes = 512;
inline constexpr size_t kMaxTensors = 1'000'000;

// Bytes of a file made fit for a message: in quotes, control and non-ASCII bytes as \xNN, cut after 120 bytes.
std::string Quoted(std::string_view text);

// 1..kMaxTensorNameBytes bytes without control characters; else INVALID_ARGUMENT with `reason`. `where` is the file.
absl::Status CheckTensorName(std::string_view where, std::string_view name, std::string_view reason);

// The stored bytes of `shape`: dimensions are non-negative, the elements (zero dimensions counted as one, so that no
// partial product overflows either) and the bytes fit in int64, and the last dimension is a multiple of the block.
// Else INVALID_ARGUMENT with `reason`; `where` names file and tensor.
absl::StatusOr<uint64_t> CheckedTensorBytes(std::string_view where, DType dtype, const std::vector<int64_t>& shape,
                                            std::string_view reason);

// OUT_OF_RANGE (TENSOR_RANGE) unless `size` bytes from `offset` lie within the tensor.
absl::Status CheckByteRange(std::string_view origin, const TensorInfo& tensor, uint64_t offset, uint64_t size);

}  // namespace qamserve
