// The JSON parts of a safetensors directory: the header of one file and the shard index. Internal to core/format.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/tensor.h"

namespace qamserve {

// The format's own limit; also what the writer keeps to.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;
// More dimensions than any tensor of a language model has.
inline constexpr size_t kMaxSafetensorsDimensions = 8;

// The safetensors name of a type ("BF16"), or null for block types, which the format does not have.
const char* SafetensorsDTypeName(DType dtype);

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // by offset; offsets count from the start of the file
  std::map<std::string, std::string> metadata;
};

// `where` names the file in messages. The data is `data_bytes` bytes from `data_start`; the tensors must cover it
// exactly.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view where, std::string_view json,
                                                         uint64_t data_start, uint64_t data_bytes);

// The weight_map of model.safetensors.index.json: tensor name -> file name. Other members are skipped.
absl::StatusOr<std::map<std::string, std::string, std::less<>>> ParseSafetensorsIndex(std::string_view where,
                                                                                      std::string_view json);

}  // namespace qamserve
