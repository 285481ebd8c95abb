// What runs a model's steps: the cores of this machine, or a device (core/model/cuda). All give the same bits.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/model/model.h"

namespace qamserve {

// Used by one thread at a time.
class Forwarder {
 public:
  virtual ~Forwarder() = default;

  // "cpu avx2", "cuda:0 NVIDIA H200".
  virtual std::string name() const = 0;
  // Where the caches' pool must have its memory.
  virtual KvMemory kv_memory() const = 0;
  // As Model::ForwardHidden and Model::Head. After an error no cache has grown.
  virtual absl::Status ForwardHidden(std::span<const SequenceChunk> chunks, std::vector<float>& hidden) = 0;
  virtual absl::Status Head(const float* hidden, int64_t n, float* logits) = 0;
};

// The cores of a pool, which must outlive it.
class CpuForwarder : public Forwarder {
 public:
  CpuForwarder(std::shared_ptr<const Model> model, ThreadPool& pool) : model_(std::move(model)), pool_(pool) {}

  std::string name() const override { return "cpu " + model_->kernel_name(); }
  KvMemory kv_memory() const override { return KvMemory::kOwn; }
  absl::Status ForwardHidden(std::span<const SequenceChunk> chunks, std::vector<float>& hidden) override {
    return model_->ForwardHidden(chunks, workspace_, pool_, hidden);
  }
  absl::Status Head(const float* hidden, int64_t n, float* logits) override {
    model_->Head(hidden, n, pool_, logits);
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<const Model> model_;
  ThreadPool& pool_;
  Workspace workspace_;
};

}  // namespace qamserve
