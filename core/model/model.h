// A transformer loaded for inference: an artifact (packed codes, multiplied where they lie) or a checkpoint (16- or
// 32-bit weights). Start here for core/model. Const after Load and shared by any number of threads; what changes from
// token to token is in KvCache and Workspace, which belong to the caller.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/format/file_set.h"
#include "core/model/config.h"
#include "core/model/kv_cache.h"

namespace qamserve {

struct ForwardBuffers;
struct LayerWeights;
struct Linear;
struct RopeFrequencies;

// A piece of one sequence in a step: `tokens` go to positions cache->length() onwards.
struct SequenceChunk {
  std::span<const int32_t> tokens;
  KvCache* cache = nullptr;
  // Which logits are wanted: after the last token only, or after every token.
  bool all_logits = false;
};

// INVALID_ARGUMENT (PROMPT_TOKEN) for a token out of range; OUT_OF_RANGE (CONTEXT_FULL) if a cache is too small.
absl::Status CheckChunks(const ModelConfig& config, std::span<const SequenceChunk> chunks);

// What a model is made of, for those that run it elsewhere; references to its own.
struct ModelWeights {
  const Linear& embeddings;  // [vocab_size][hidden_size]
  const Linear& head;        // the embeddings themselves if they are tied
  const std::vector<float>& final_norm;
  const std::vector<LayerWeights>& layers;
  const RopeFrequencies& rope;
};

// Scratch memory that grows to what a step needs and is kept. Not thread-safe.
class Workspace {
 public:
  Workspace();
  Workspace(Workspace&&) noexcept;
  ~Workspace();
  // From now on a step keeps the mapped weights of one block at a time in this process's memory, so that an artifact
  // larger than the memory can be measured. Blocks are read anew in each step.
  void DropWeightsAfterUse() { drop_weights_ = true; }

 private:
  friend class Model;
  bool drop_weights_ = false;
  std::unique_ptr<ForwardBuffers> buffers_;
};

class Model {
 public:
  // Opens an artifact (config.json has quantization_config.quant_method "qamw") or a checkpoint, checks it whole, maps
  // or reads its weights. A checkpoint's weights are kept in its own 16-bit type, or as floats if it has another.
  static absl::StatusOr<std::shared_ptr<const Model>> Load(const FileSet& files);
  ~Model();

  const ModelConfig& config() const;
  const std::string& origin() const;
  bool is_quantized() const;
  // Bytes of weights that stay resident, and those read for each token at batch 1.
  int64_t weight_bytes() const;
  int64_t bytes_per_token() const;
  // Which kernels run: "amx", "avx512", "avx2" or "scalar".
  std::string kernel_name() const;

  // Feeds all chunks in one batch. `logits` gets vocab_size floats for each wanted position, in order of chunks.
  // A row's result does not depend on the other rows of the batch, nor on how a sequence was cut into chunks.
  // The errors of CheckChunks.
  absl::Status Forward(std::span<const SequenceChunk> chunks, Workspace& workspace, ThreadPool& pool,
                       std::vector<float>& logits) const;
  // The same, but the normalized last hidden states [positions][hidden_size] instead of logits.
  absl::Status ForwardHidden(std::span<const SequenceChunk> chunks, Workspace& workspace, ThreadPool& pool,
                             std::vector<float>& hidden) const;
  // Logits [n][vocab_size] of `n` rows of hidden states.
  void Head(const float* hidden, int64_t n, ThreadPool& pool, float* logits) const;
  // The output head [vocab_size][hidden_size], for those who go through it a piece at a time.
  const Linear& head() const;
  ModelWeights weights() const;

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace qamserve
