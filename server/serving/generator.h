// What a served model needs of the engine and of a checkpoint or artifact, behind two interfaces, so that the registry
// and the RPC handlers can be tested without weights. core_model_loader.h has the real ones.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/engine/engine.h"
#include "core/format/file_set.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace qamserve {

// Thread-safe. The calls and their errors are those of Engine. The destructor ends every request that is left with
// kCancelled, and must not run inside a call of a sink.
class Generator {
 public:
  virtual ~Generator() = default;
  virtual absl::StatusOr<uint64_t> Submit(std::vector<int32_t> prompt, const SamplingParams& params,
                                          std::shared_ptr<TokenSink> sink, const RequestOptions& request) = 0;
  virtual void Cancel(uint64_t id) = 0;
  virtual absl::StatusOr<TextScores> Score(std::span<const int32_t> tokens, int32_t top) = 0;
  virtual absl::StatusOr<std::vector<float>> Embed(std::span<const int32_t> tokens) = 0;
  // `other` is of the same kind as this.
  virtual absl::StatusOr<std::vector<TokenComparison>> Compare(Generator& other, std::span<const int32_t> tokens,
                                                               int64_t first) = 0;
  virtual EngineStats stats() const = 0;
  virtual int64_t context_tokens() const = 0;
  // What is behind it; null for one that has no weights.
  virtual Engine* engine() { return nullptr; }
};

// What loading will take, known from headers.
struct LoadPlan {
  int64_t context_tokens = 0;
  int64_t weight_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t scratch_bytes = 0;
  bool on_device = false;    // KV cache, scratch and a copy of the weights are in a GPU's memory
  int64_t driver_bytes = 0;  // of the GPU's memory, left free for its driver (CudaModel::DriverBytes)
  // Of this machine's memory, and of the GPU's.
  int64_t total_bytes() const { return weight_bytes + (on_device ? 0 : kv_bytes + scratch_bytes); }
  int64_t device_bytes() const { return on_device ? weight_bytes + kv_bytes + scratch_bytes + driver_bytes : 0; }
};

struct LoadedModel {
  std::unique_ptr<Generator> generator;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null if the model has none, or none that works
  absl::Status chat_error;  // why a template that is there does not: the errors of ChatTemplate
};

// Thread-safe.
class ModelLoader {
 public:
  virtual ~ModelLoader() = default;
  // `context_tokens` 0 = the model's own, at most kMaxContextTokens. INVALID_ARGUMENT (CONTEXT_RANGE) names the limit.
  virtual absl::StatusOr<LoadPlan> Plan(const FileSet& files, int64_t context_tokens) = 0;
  virtual absl::StatusOr<LoadedModel> Load(const FileSet& files, const LoadPlan& plan) = 0;
};

// A context that is not asked for explicitly stays at 8192: with 16 sequences even a small model's KV cache would
// otherwise pass the memory of a small machine.
inline constexpr int64_t kMaxContextTokens = 8192;

}  // namespace qamserve
