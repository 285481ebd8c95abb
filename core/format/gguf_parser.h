// The header of a GGUF file: metadata and tensor table. Internal to core/format.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/file.h"
#include "core/base/status.h"
#include "core/format/gguf.h"
#include "core/format/tensor.h"

namespace qamserve {

struct GgufHeader {
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::vector<TensorInfo> tensors;  // by offset; offsets count from the start of the file
};

// `where` names the file in messages.
absl::StatusOr<GgufHeader> ParseGgufHeader(std::string_view where, const File& file);

}  // namespace qamserve
