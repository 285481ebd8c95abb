// ModelLoader on core/model and core/engine. Thread-safe.
#pragma once

#include <functional>

#include "core/kernels/cuda/device.h"
#include "server/serving/generator.h"

namespace qamserve {

class CoreModelLoader final : public ModelLoader {
 public:
  using DeviceMemory = std::function<absl::StatusOr<CudaMemory>(int device)>;
  // context_tokens of `engine` is replaced by that of each plan, kv_bytes by no more than it. `device_memory` is asked
  // where the engine's device is a GPU.
  explicit CoreModelLoader(const EngineOptions& engine, DeviceMemory device_memory = CudaMemoryOf)
      : engine_(engine), device_memory_(std::move(device_memory)) {}
  // Weights: the tensor files of an artifact as they are (they are mapped), those of a checkpoint in their
  // 16-bit type, or as float if they are stored otherwise.
  // KV cache: what max_running sequences of the context take, at most EngineOptions::kv_bytes.
  // RESOURCE_EXHAUSTED (DEVICE_MEMORY) if a GPU has less memory free than the model takes there.
  absl::StatusOr<LoadPlan> Plan(const FileSet& files, int64_t context_tokens) override;
  absl::StatusOr<LoadedModel> Load(const FileSet& files, const LoadPlan& plan) override;

 private:
  const EngineOptions engine_;
  const DeviceMemory device_memory_;
};

}  // namespace qamserve
