// Writes GGUF version 3, little-endian, in one pass: metadata and the table of tensors first, then the data, each
// tensor at a multiple of 32 bytes. Format: ggml's docs/gguf.md; the reader is gguf.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/file.h"
#include "core/base/status.h"
#include "core/format/tensor.h"

namespace qamserve {

// Keys and values in the order in which they were added. A key is added once.
class GgufMetadata {
 public:
  void AddString(std::string_view key, std::string_view value);
  void AddUint32(std::string_view key, uint32_t value);
  void AddFloat32(std::string_view key, float value);
  void AddBool(std::string_view key, bool value);
  void AddStrings(std::string_view key, std::span<const std::string> values);
  void AddInt32s(std::string_view key, std::span<const int32_t> values);
  void AddFloat32s(std::string_view key, std::span<const float> values);

  uint64_t keys() const { return keys_; }
  const std::string& bytes() const { return bytes_; }  // as the file holds them

 private:
  void AddKey(std::string_view key, uint32_t type);
  void AddArray(std::string_view key, uint32_t type, uint64_t size);
  std::string bytes_;
  uint64_t keys_ = 0;
};

// REQUIRES: Append is called with exactly the declared bytes of each tensor, in declared order, no call reaching into
// the next tensor; then Commit. The first error sticks. Destroyed before Commit, nothing appears at the path.
class GgufFileWriter {
 public:
  struct Declaration {
    std::string name;
    DType dtype = DType::kF32;   // F32, F16 or BF16: TENSOR_DTYPE_UNSUPPORTED else
    std::vector<int64_t> shape;  // outermost first, at most 4 dimensions
  };
  static absl::StatusOr<GgufFileWriter> Create(const std::string& path, const GgufMetadata& metadata,
                                               std::span<const Declaration> tensors);
  // The size that the file will have.
  static absl::StatusOr<uint64_t> TotalBytes(const GgufMetadata& metadata, std::span<const Declaration> tensors);
  GgufFileWriter(GgufFileWriter&&) noexcept = default;

  absl::Status Append(std::span<const std::byte> bytes);
  // FAILED_PRECONDITION (GGUF_TENSOR) if fewer bytes than declared were appended.
  absl::Status Commit();

 private:
  GgufFileWriter(AtomicFile file, std::vector<uint64_t> sizes) : file_(std::move(file)), sizes_(std::move(sizes)) {}
  AtomicFile file_;
  std::vector<uint64_t> sizes_;  // of each tensor's data
  size_t tensor_ = 0;            // being written
  uint64_t written_ = 0;         // of that tensor
  absl::Status status_;
};

}  // namespace qamserve
