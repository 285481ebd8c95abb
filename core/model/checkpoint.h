// A checkpoint opened for reading: its config and its tensors under Hugging Face names, whatever the file format.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/file_set.h"
#include "core/format/tensor.h"
#include "core/model/config.h"

namespace qamserve {

// Where a tensor lies in a file.
struct StoredTensor {
  std::string path;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// Thread-safe after Open. Open checks that every tensor the architecture needs is there with the right shape, and that
// there is none it does not know: INVALID_ARGUMENT or NOT_FOUND with TENSOR_MISSING, TENSOR_SHAPE, TENSOR_UNKNOWN,
// TENSOR_DTYPE_UNSUPPORTED; each names file, tensor, what was found and what was expected.
class Checkpoint {
 public:
  static absl::StatusOr<std::shared_ptr<const Checkpoint>> Open(const FileSet& files);

  const ModelConfig& config() const { return config_; }
  const FileSet& files() const { return files_; }
  const std::string& origin() const { return files_.origin(); }
  // config.json as it was, or as made from GGUF metadata.
  const std::string& config_json() const { return config_json_; }
  int64_t parameters() const;

  bool Has(std::string_view name) const { return Lookup(name) != nullptr; }
  // Shape and stored type of "model.layers.0.self_attn.q_proj.weight" and the like. The tensor must exist.
  const TensorInfo& Info(std::string_view name) const;
  // Rows as floats, in Hugging Face order (rows of q and k in a llama GGUF are put back). Norm weights come whole
  // (see ModelConfig::stored_norms_less_one). NaN or infinity is INVALID_ARGUMENT (TENSOR_NOT_FINITE).
  absl::Status ReadRows(std::string_view name, int64_t row_begin, int64_t row_end, std::span<float> out) const;

  // Where the rows lie just as kernels take them, for those who map the file: in 16 or 32 bits, in our order and
  // aligned. Nothing for a tensor that has to be converted, as those of most GGUF files; nor for norms.
  std::optional<StoredTensor> Stored(std::string_view name) const;

  // The linear layers of one block, in the order q, k, v, o, gate, up, down, without ".weight".
  std::vector<std::string> LinearNames(int64_t layer) const;

 private:
  struct Entry;
  explicit Checkpoint(FileSet files) : files_(std::move(files)) {}
  const Entry* Lookup(std::string_view name) const;
  // Checks the tensors of source_ against config_ and fills entries_.
  absl::Status Index(bool gguf);

  FileSet files_;
  std::string config_json_;
  ModelConfig config_;
  std::unique_ptr<TensorSource> source_;
  std::vector<std::string> paths_;                     // of the source's files
  std::shared_ptr<const std::vector<Entry>> entries_;  // sorted by name
};

}  // namespace qamserve
