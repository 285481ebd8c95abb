// safetensors: 8-byte little-endian header length, JSON header, data.
// Format: https://github.com/huggingface/safetensors (format section). A header may have 100 MB at most; offsets must
// cover the data exactly, without holes or overlaps, in order of offset.
// Errors: DATA_LOSS or INVALID_ARGUMENT with reasons SAFETENSORS_HEADER, SAFETENSORS_OFFSETS, TENSOR_DTYPE_UNSUPPORTED,
// TENSOR_SHAPE; each names file and tensor.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/format/file_set.h"
#include "core/format/tensor.h"

namespace qamserve {

// One or more shards read as one source. Thread-safe.
class SafetensorsReader : public TensorSource {
 public:
  // Every "*.safetensors" of `files`; but if "model.safetensors.index.json" is there, only the shards that it names (a
  // published folder may hold the weights in a second layout too), and its weight_map must agree with them both ways.
  // A tensor that two shards hold is an error, and so is no shard at all.
  static absl::StatusOr<std::unique_ptr<SafetensorsReader>> Open(const FileSet& files);

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* Find(std::string_view name) const override;
  const std::string& origin() const override { return origin_; }
  absl::Status ReadBytes(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const override;
  // "__metadata__" of all shards; a later shard wins.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // The file that TensorInfo::file points to.
  const File& file(int index) const { return files_[static_cast<size_t>(index)]; }

 private:
  SafetensorsReader() = default;
  std::string origin_;
  std::vector<File> files_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

// Writes one file in a single pass. All tensors are declared first, so the header is known before any data.
// REQUIRES: Append is called with exactly the declared bytes of each tensor, in declared order, then Commit.
class SafetensorsWriter {
 public:
  struct Declaration {
    std::string name;
    DType dtype = DType::kU8;
    std::vector<int64_t> shape;
    // The data must start at a multiple of the file's alignment: INVALID_ARGUMENT (SAFETENSORS_OFFSETS) if the tensors
    // before it do not add up to one.
    bool aligned = false;
  };
  // The data begins at a multiple of `alignment` (a power of two, up to 4096): the header is padded with spaces, and
  // further ones if the file would have less than `at_least_bytes`.
  static absl::StatusOr<SafetensorsWriter> Create(const std::string& path, const std::vector<Declaration>& tensors,
                                                  const std::map<std::string, std::string>& metadata,
                                                  uint64_t alignment = 128, uint64_t at_least_bytes = 0);
  // The size that the file will have.
  static absl::StatusOr<uint64_t> TotalBytes(const std::vector<Declaration>& tensors,
                                             const std::map<std::string, std::string>& metadata,
                                             uint64_t alignment = 128);
  SafetensorsWriter(SafetensorsWriter&&) noexcept = default;

  absl::Status Append(std::span<const std::byte> bytes);
  // FAILED_PRECONDITION if fewer bytes than declared were appended; nothing appears at the path then.
  absl::Status Commit();
  // Of the finished file, header included.
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  SafetensorsWriter(std::string path, AtomicFile file, uint64_t total)
      : path_(std::move(path)), file_(std::move(file)), total_bytes_(total) {}
  std::string path_;
  AtomicFile file_;
  uint64_t total_bytes_ = 0;
  absl::Status status_;  // the first error sticks
};

}  // namespace qamserve
