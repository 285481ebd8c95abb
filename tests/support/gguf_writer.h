// Writes small GGUF version 3 files for tests, all of it in memory.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/tensor.h"

namespace qamserve {

class GgufWriter {
 public:
  void AddString(std::string_view key, std::string_view value);
  void AddUint32(std::string_view key, uint32_t value);
  void AddFloat32(std::string_view key, float value);
  void AddBool(std::string_view key, bool value);
  void AddStrings(std::string_view key, const std::vector<std::string>& values);
  void AddInt32s(std::string_view key, const std::vector<int32_t>& values);

  // Row-major `values`; `shape` is outermost first. `type` is kF32, kF16, kQ8_0 or kQ4_1; rows of the last two are
  // whole blocks of 32.
  void AddTensor(std::string_view name, const std::vector<int64_t>& shape, DType type, std::span<const float> values);

  absl::Status Write(const std::string& path) const;

 private:
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    DType type;
    std::string data;
  };
  std::string metadata_;
  uint64_t keys_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace qamserve
