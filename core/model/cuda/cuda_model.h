// A Model on a GPU: its weights in the device's memory, keys and values of its sequences in blocks there, a step of
// several sequences run on it. Start here for core/model/cuda.
//
// Logits have the bits of Model's: all sums run in the same order (core/kernels/cuda/forward/block.h), and the sines
// and cosines come from this side. So what a sequence says depends neither on the device nor, as on the CPU, on the
// batch and on how its prompt was cut. Tests run whole models so, thread by thread on this machine; on a GPU none of it
// has been run or measured yet.
//
// What limits it so far, counted and not measured: an operation is one to three kernels, 21 launches a layer of a
// quantized Llama, which for steps of up to 64 rows that come again are one graph; products of long prompts take 64
// tokens at a time, others 16 (8-bit and dense ones 8), and read the weights as often.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/kernels/cuda/forward/forward_device.h"
#include "core/model/cuda/device_weights.h"
#include "core/model/cuda/step_plan.h"
#include "core/model/forwarder.h"
#include "core/model/model.h"

namespace qamserve {

// Used by one thread at a time.
class CudaModel : public Forwarder {
 public:
  // Copies the weights of `model` and takes memory for `blocks` blocks of keys and values, of which a KvPool without
  // memory of its own keeps the books. RESOURCE_EXHAUSTED (CUDA_MEMORY) says what did not fit; what was taken is free
  // again then.
  static absl::StatusOr<std::unique_ptr<CudaModel>> Create(std::shared_ptr<const Model> model,
                                                           std::unique_ptr<ForwardDevice> device,
                                                           const KvLayout& layout, int64_t blocks);

  // What Reserve takes for steps within `limits` of a model of this shape, to the byte: `widest_input` are the padded
  // columns of its widest packed layer, 0 if it has none, and `packed_scratch` is what the device wants for them.
  static int64_t StepBytes(const ModelConfig& config, const KvLayout& layout, const StepLimits& limits,
                           int64_t widest_input, int64_t packed_scratch);
  // Memory of the device to leave to its driver beside all that is asked for here, which it takes as it goes: for the
  // graphs of steps that come again, for the code of kernels when each is first queued, for what these keep outside
  // registers. An estimate that errs on the large side, not measured yet, and no promise: the driver may need more, and
  // others may take what is left. A graph that lacks memory costs time, not answers (ForwardDevice::graphs_refused).
  static int64_t DriverBytes(const ModelConfig& config);
  // Rows of a step that memory is taken for, of which `packed_scratch` depends, where `rows` are asked for.
  static int64_t ReservedRows(int64_t rows);

  const Model& model() const { return *model_; }
  std::string name() const override { return device_->name(); }
  KvMemory kv_memory() const override { return KvMemory::kElsewhere; }
  // Of the device: weights, blocks, and what steps have needed so far.
  int64_t memory_bytes() const;

  // Calls beyond what was reserved take more memory. Where the device itself is lost (INTERNAL, CUDA_LOST), every
  // later call fails as well.
  absl::Status Reserve(const StepLimits& limits) override;
  absl::Status ForwardHidden(std::span<const SequenceChunk> chunks, std::vector<float>& hidden) override;
  absl::Status Head(const float* hidden, int64_t n, float* logits) override;
  absl::Status KeepLogits(const float* hidden, int64_t n) override;
  absl::Status Forward(std::span<const SequenceChunk> chunks) override;
  absl::Status KeepLogitsOf(std::span<const int32_t> rows) override;
  absl::Status Sample(std::span<const SampleRow> rows, std::span<SampleResult> results) override;
  int64_t graphs_refused() const override { return device_->graphs_refused(); }

 private:
  // Memory of the device that grows to what is asked; contents are lost then.
  struct Buffer {
    ForwardDevice::Memory memory;
    int64_t bytes = 0;
    template <typename T>
    T* as() const {
      return static_cast<T*>(memory.get());
    }
  };
  // What a step's arrays have become on the device.
  struct OnDevice;
  struct Output {
    float* data;
    int64_t stride;
  };
  // Rows of x or, of a packed group only, what becomes of them on the way in.
  struct Source {
    float* x = nullptr;
    const float* norm = nullptr;
    const float* up = nullptr;
  };

  CudaModel(std::shared_ptr<const Model> model, std::unique_ptr<ForwardDevice> device, const KvLayout& layout);

  absl::Status Grow(Buffer& buffer, int64_t bytes);
  absl::Status GrowAmply(Buffer& buffer, int64_t bytes);
  absl::Status TakeMemory(const StepLimits& limits);
  absl::Status ReserveRows(int64_t rows);
  absl::Status ReserveRope(int64_t positions);
  absl::StatusOr<OnDevice> UploadStep(const StepPlan& plan);
  absl::Status RunLayers(const StepPlan& plan, const OnDevice& step);
  absl::Status Embed(const OnDevice& step);
  absl::Status RunLayer(size_t layer, const StepPlan& plan, const OnDevice& step);
  absl::Status Attend(size_t layer, const StepPlan& plan, const OnDevice& step);
  absl::Status Apply(const DeviceGroup& group, const Source& source, int64_t rows, std::span<float* const> outputs);
  absl::Status ApplyDense(const DeviceGroup& group, const Source& source, int64_t rows,
                          std::span<float* const> outputs);
  absl::Status ApplyPacked(const DeviceGroup& group, const Source& source, int64_t rows,
                           std::span<float* const> outputs);
  KvView LayerOf(size_t layer) const;
  absl::Status QueueStep(std::span<const SequenceChunk> chunks);
  absl::Status RunHead(const float* hidden, int64_t rows);
  absl::Status ChooseHidden(std::span<const int32_t> rows);
  absl::Status PutLogits(const float* hidden, int64_t n);
  absl::Status SampleHere(const SampleRow& row, const LogitAdjustment* on_device, SampleResult& result);

  const std::shared_ptr<const Model> model_;
  // Before all memory, which goes first.
  const std::unique_ptr<ForwardDevice> device_;
  const KvLayout layout_;
  DeviceWeights weights_;
  Buffer kv_;

  int64_t generation_ = 0;  // of buffers: counts up when one of them moves
  int64_t reserved_rows_ = 0;
  int64_t widest_input_ = 0;  // columns of the widest packed layer, padded
  Buffer x_, normed_, q_, k_, v_, attention_, projected_, gate_, up_;
  Buffer quantized_, scales_;  // rotated inputs of a packed group
  Buffer scratch_;             // of packed products
  Buffer hidden_, logits_;
  std::vector<int32_t> held_;  // rows of x_ whose hidden states the last Forward has left in hidden_
  Buffer step_, scores_;
  Buffer sample_, sampled_;     // what is chosen by (before that, of which rows), and results
  SampleScratch host_scratch_;  // of choices that the device leaves to the host
  int64_t rope_positions_ = 0;
  Buffer cosines_, sines_, local_cosines_, local_sines_;  // [rope_positions_][head_dim / 2]
};

}  // namespace qamserve
