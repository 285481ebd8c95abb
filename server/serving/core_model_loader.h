// ModelLoader on core/model and core/engine. Thread-safe.
#pragma once

#include "server/serving/generator.h"

namespace qamserve {

class CoreModelLoader final : public ModelLoader {
 public:
  // context_tokens of `engine` is replaced by that of each plan, kv_bytes by no more than it.
  explicit CoreModelLoader(const EngineOptions& engine) : engine_(engine) {}
  // Weights: the tensor files of an artifact as they are (they are mapped), those of a checkpoint in their
  // 16-bit type, or as float if they are stored otherwise.
  // KV cache: what max_running sequences of the context take, at most EngineOptions::kv_bytes.
  absl::StatusOr<LoadPlan> Plan(const FileSet& files, int64_t context_tokens) override;
  absl::StatusOr<LoadedModel> Load(const FileSet& files, const LoadPlan& plan) override;

 private:
  const EngineOptions engine_;
};

}  // namespace qamserve
