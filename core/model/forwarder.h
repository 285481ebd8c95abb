// What runs a model's steps: the cores of this machine, or a device (core/model/cuda). All give the same bits.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/kernels/sampling.h"
#include "core/model/model.h"

namespace qamserve {

// What steps have at most.
struct StepLimits {
  int64_t rows = 0;       // tokens of all chunks
  int64_t logits = 0;     // rows of kept logits; no step has more chunks
  int64_t positions = 0;  // of a sequence
};

// Used by one thread at a time.
class Forwarder {
 public:
  virtual ~Forwarder() = default;

  // "cpu avx2", "cuda:0 NVIDIA H200".
  virtual std::string name() const = 0;
  // Where the caches' pool must have its memory.
  virtual KvMemory kv_memory() const = 0;
  // Takes the memory of a device that steps within `limits` need, so that none of them lacks it later.
  // RESOURCE_EXHAUSTED (CUDA_MEMORY) if there is too little.
  virtual absl::Status Reserve(const StepLimits& limits) = 0;
  // As Model::ForwardHidden and Model::Head. After an error no cache has grown.
  virtual absl::Status ForwardHidden(std::span<const SequenceChunk> chunks, std::vector<float>& hidden) = 0;
  virtual absl::Status Head(const float* hidden, int64_t n, float* logits) = 0;
  // Logits of `n` rows that stay where the model runs, until the next call of this, KeepLogitsOf or Head.
  virtual absl::Status KeepLogits(const float* hidden, int64_t n) = 0;
  // ForwardHidden whose hidden states stay where the model runs. A failure there may come up only at the next call.
  virtual absl::Status Forward(std::span<const SequenceChunk> chunks) = 0;
  // KeepLogits of some of the hidden states that the last Forward has left, by their numbers. FAILED_PRECONDITION
  // (NO_HIDDEN_STATES) if there are fewer, as after any call since then but this and Sample.
  virtual absl::Status KeepLogitsOf(std::span<const int32_t> rows) = 0;
  // Chooses a token from each of `rows` of the kept logits, no two of the same row: results are those of SampleLogits,
  // never kUndecided. kNoMemory ends one row alone; an error means that no result is one.
  virtual absl::Status Sample(std::span<const SampleRow> rows, std::span<SampleResult> results) = 0;
  // ForwardDevice::graphs_refused of a device.
  virtual int64_t graphs_refused() const { return 0; }
};

// Whether `rows` are among `held` hidden states (KeepLogitsOf), and whether they are the first ones in order.
absl::Status CheckHiddenRows(std::span<const int32_t> rows, int64_t held);
bool AreFirst(std::span<const int32_t> rows);

// The cores of a pool, which must outlive it.
class CpuForwarder : public Forwarder {
 public:
  CpuForwarder(std::shared_ptr<const Model> model, ThreadPool& pool) : model_(std::move(model)), pool_(pool) {}

  std::string name() const override { return "cpu " + model_->kernel_name(); }
  KvMemory kv_memory() const override { return KvMemory::kOwn; }
  absl::Status Reserve(const StepLimits&) override { return absl::OkStatus(); }  // the system's is taken as needed
  absl::Status ForwardHidden(std::span<const SequenceChunk> chunks, std::vector<float>& hidden) override {
    hidden_.clear();
    return model_->ForwardHidden(chunks, workspace_, pool_, hidden);
  }
  absl::Status Head(const float* hidden, int64_t n, float* logits) override {
    hidden_.clear();
    model_->Head(hidden, n, pool_, logits);
    return absl::OkStatus();
  }
  absl::Status KeepLogits(const float* hidden, int64_t n) override;
  absl::Status Forward(std::span<const SequenceChunk> chunks) override;
  absl::Status KeepLogitsOf(std::span<const int32_t> rows) override;
  absl::Status Sample(std::span<const SampleRow> rows, std::span<SampleResult> results) override;

 private:
  const std::shared_ptr<const Model> model_;
  ThreadPool& pool_;
  Workspace workspace_;
  // Kept from step to step, as memory of this size is asked of the system anew each time.
  std::vector<float> logits_;
  std::vector<float> hidden_, chosen_;  // that Forward has left, and some of them
  std::vector<SampleScratch> scratch_;
};

}  // namespace qamserve
