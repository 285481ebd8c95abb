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
  // where the engine's device is a GPU, which `open` opens.
  explicit CoreModelLoader(const EngineOptions& engine, DeviceMemory device_memory = CudaMemoryOf,
                           Engine::ForwarderFactory open = OpenForwarder)
      : engine_(engine), device_memory_(std::move(device_memory)), open_(std::move(open)) {}
  // Weights: the tensor files of an artifact as they are (they are mapped) and what is made of their vectors, those of
  // a checkpoint in their 16-bit type, or as float if they are stored otherwise. A GPU has as many bytes of them again.
  // KV cache: what max_running sequences of the context take, at most EngineOptions::kv_bytes.
  // Scratch: an estimate on the CPU; on a GPU all that it takes for steps when the model is loaded. A GPU's driver
  // takes more as it goes, for which a margin is planned.
  //
  // RESOURCE_EXHAUSTED (DEVICE_MEMORY) if a GPU has less memory free than the model and the margin take.
  absl::StatusOr<LoadPlan> Plan(const FileSet& files, int64_t context_tokens) override;
  absl::StatusOr<LoadedModel> Load(const FileSet& files, const LoadPlan& plan) override;

 private:
  EngineOptions OptionsFor(const LoadPlan& plan) const;

  const EngineOptions engine_;
  const DeviceMemory device_memory_;
  const Engine::ForwarderFactory open_;
};

}  // namespace qamserve
