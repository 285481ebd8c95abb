// The tensors of an export, made a few rows at a time. Internal to core/export.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/progress.h"
#include "core/base/thread_pool.h"
#include "core/format/tensor.h"
#include "core/model/artifact.h"
#include "core/model/dequantize.h"

namespace qamserve {

struct ExportTensor {
  std::string name;  // in Hugging Face's form: "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;
  DType dtype = DType::kF32;
  // The rows of each head [2][head_dim / 2] are stored as [head_dim / 2][2], so that the pairs that rotate together lie
  // side by side: llama in GGUF. 0: rows stay where they are.
  int64_t interleaved_head_dim = 0;
  float add = 0;  // to every value: 1 for Gemma's norms in GGUF

  uint64_t bytes() const;
};

// Every tensor of the model, in the order of their names.
std::vector<ExportTensor> TensorsOf(const ModelConfig& config, DType matrices);

// Reads tensors of one artifact in their stored form for the export. Not thread-safe; uses the pool for each piece.
class WeightReader {
 public:
  // `total_bytes` of all tensors that will be read: what progress counts against.
  WeightReader(const ArtifactReader& artifact, ThreadPool& pool, ProgressFn progress, uint64_t total_bytes)
      : artifact_(artifact), dequantizer_(artifact), pool_(pool), progress_(progress), total_bytes_(total_bytes) {}

  // Hands the tensor's bytes to `sink`, in order.
  absl::Status Read(const ExportTensor& tensor, absl::FunctionRef<absl::Status(std::span<const std::byte>)> sink);

 private:
  // Rows [begin, end) of the export to `out`; the first row with a value that the type cannot hold, or -1.
  int64_t ReadPiece(const ExportTensor& tensor, const DequantizedRows& rows, int64_t begin, int64_t end,
                    std::span<std::byte> out);

  const ArtifactReader& artifact_;
  Dequantizer dequantizer_;
  ThreadPool& pool_;
  ProgressFn progress_;
  uint64_t total_bytes_ = 0;
  uint64_t done_bytes_ = 0;
  std::vector<std::byte> piece_;
};

}  // namespace qamserve
