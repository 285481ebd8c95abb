// An artifact opened for inference: its weights file mapped, every tensor checked against the config.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/file.h"
#include "core/base/status.h"
#include "core/codec/tensor_format.h"
#include "core/format/artifact_format.h"
#include "core/format/file_set.h"
#include "core/format/safetensors.h"
#include "core/model/config.h"
#include "core/model/forward.h"

namespace qamserve {

// Thread-safe after Open. Linear layers made by LoadLayer point into the mapping, so the reader must outlive them.
class ArtifactReader {
 public:
  // TENSOR_MISSING, TENSOR_SHAPE, TENSOR_DTYPE_UNSUPPORTED, ARTIFACT_VERSION, CONFIG_FIELD: each names file and tensor.
  static absl::StatusOr<std::unique_ptr<ArtifactReader>> Open(const FileSet& files);

  const ModelConfig& config() const { return config_; }
  const QuantizationConfig& quantization() const { return quantization_; }
  // Of a quantized tensor, by its name without ".weight".
  TensorFormat FormatOf(const std::string& name) const;
  int64_t file_bytes() const { return static_cast<int64_t>(mapped_.bytes().size()); }

  absl::StatusOr<LayerWeights> LoadLayer(int64_t layer) const;
  // Norm weights come whole.
  absl::StatusOr<std::vector<float>> LoadVector(const std::string& name) const;
  // kInputEmbedding or kOutputHead: dense, in its stored 16-bit or 32-bit type, or in 8 bits where it lies.
  absl::StatusOr<Linear> LoadEmbedding(const std::string& name) const;
  bool Has(std::string_view name) const { return Find(name) != nullptr; }
  // A tensor as it is stored, or null.
  const TensorInfo* Find(std::string_view name) const { return source_->Find(name); }
  // Bytes of a tensor in the mapping; the tensor must have this type and these dimensions.
  absl::StatusOr<const std::byte*> Mapped(const std::string& name, DType dtype, std::vector<int64_t> shape) const;
  // See MappedFile.
  void DropPages() const { mapped_.DropPages(); }
  // The file that messages about a tensor name.
  const std::string& weights_path() const { return mapped_.path(); }

  // What a quantized layer "model.layers.0.self_attn.q_proj" shares with the other layers of its input group.
  // TENSOR_UNKNOWN for a name that is neither a linear layer nor an embedding.
  struct QuantizedShape {
    int64_t rows = 0;
    int64_t cols = 0;
    std::string group;  // "model.layers.0.self_attn.qkv"; empty for embeddings, which have no scale
  };
  absl::StatusOr<QuantizedShape> ShapeOf(std::string_view layer) const;
  // The channel scale of a group, all of it positive; only of an artifact that has channel scales.
  absl::StatusOr<std::vector<float>> LoadChannelScale(const std::string& group, int64_t cols) const;
  absl::StatusOr<std::shared_ptr<const Rotation>> RotationFor(int64_t cols) const;

 private:
  explicit ArtifactReader(MappedFile mapped) : mapped_(std::move(mapped)) {}
  absl::Status PrepareFormats();
  absl::StatusOr<Linear> LoadMatrix(const std::string& name, int64_t rows, int64_t cols) const;
  void CopyOut(const std::byte* from, size_t bytes, void* to) const;
  // A linear layer of a block, as its format says.
  absl::StatusOr<Linear> LoadLinear(const std::string& name) const;
  absl::StatusOr<Linear> LoadPacked(const std::string& name, int64_t rows, int64_t cols) const;

  ModelConfig config_;
  QuantizationConfig quantization_;
  MappedFile mapped_;
  std::unique_ptr<SafetensorsReader> source_;
  TensorFormat format_;
  std::map<std::string, TensorFormat> formats_;                                          // that differ from format_
  std::map<std::pair<Codec, int>, std::shared_ptr<const std::vector<int32_t>>> tables_;  // null: trellis
  std::vector<std::shared_ptr<const Rotation>> rotations_;                               // one for each input dimension
};

}  // namespace qamserve
