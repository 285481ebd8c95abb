// GGUF version 2 and 3, little-endian. Format: ggml's docs/gguf.md. Limits: 1 M tensors, 1 M keys, 4 dimensions,
// strings of 16 MiB, 16 Mi array elements in all, a header of 256 MiB; all counted against the file's size before
// anything is allocated. Tensors may leave gaps but not overlap; arrays of arrays are refused.
// Errors: DATA_LOSS or INVALID_ARGUMENT with reasons GGUF_HEADER, GGUF_METADATA, GGUF_TENSOR, TENSOR_DTYPE_UNSUPPORTED;
// each names the file and the key or tensor.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/base/file.h"
#include "core/format/file_set.h"
#include "core/format/tensor.h"

namespace qamserve {

// Integers widen to int64/uint64, floats to double.
using GgufValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>, std::vector<int64_t>,
                               std::vector<uint64_t>, std::vector<double>, std::vector<std::string>>;

// Thread-safe after Open. Tensor names are the file's own ("blk.0.attn_q.weight"); shapes are turned to outermost
// first, so that a linear layer is [out, in].
class GgufReader : public TensorSource {
 public:
  static absl::StatusOr<std::unique_ptr<GgufReader>> Open(const FileEntry& file);

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* Find(std::string_view name) const override;
  const std::string& origin() const override { return origin_; }
  absl::Status ReadBytes(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const override;

  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  // Typed look-ups: NOT_FOUND (GGUF_KEY_MISSING) or INVALID_ARGUMENT (GGUF_KEY_TYPE) name the file and the key.
  // Integers of either sign and any width convert where the value fits.
  absl::StatusOr<std::string> GetString(std::string_view key) const;
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;
  absl::StatusOr<double> GetFloat(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::vector<std::string>> GetStrings(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const;
  absl::StatusOr<std::vector<double>> GetFloats(std::string_view key) const;
  bool Has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }

 private:
  explicit GgufReader(File file) : file_(std::move(file)) {}
  File file_;
  std::string origin_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
};

}  // namespace qamserve
