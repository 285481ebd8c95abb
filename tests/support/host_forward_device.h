// A ForwardDevice without a GPU: memory of this machine, and the threads of every block run one after the other, every
// other time the last one first, so that what they do can be compared with the CPU's kernels anywhere. Fresh memory,
// and what threads share, is full of NaN.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/kernels/cuda/forward/attention_blocks.h"
#include "core/kernels/cuda/forward/dense_block.h"
#include "core/kernels/cuda/forward/forward_device.h"
#include "core/kernels/cuda/forward/graph_cache.h"
#include "core/kernels/cuda/forward/row_blocks.h"
#include "core/kernels/cuda/forward/sample_block.h"

namespace qamserve {

// The threads of a block in turn: a phase in which their order matters is wrong.
template <int kThreads>
struct ThreadsInTurn {
  template <typename T>
  struct Own {
    std::vector<T> values = std::vector<T>(kThreads);
    T& operator[](int thread) { return values[static_cast<size_t>(thread)]; }
  };
  bool backwards = false;

  template <typename Phase>
  void operator()(const Phase& phase) const {
    for (int i = 0; i < kThreads; ++i) phase(backwards ? kThreads - 1 - i : i);
  }
};

template <typename Block>
void RunBlocks(const typename Block::Args& args, bool backwards) {
  constexpr size_t kGuard = 64;
  const auto bytes = static_cast<size_t>(Block::SharedBytes(args));
  std::vector<unsigned char> shared(bytes + kGuard);
  const int64_t blocks = Block::Blocks(args);
  for (int64_t i = 0; i < blocks; ++i) {
    std::fill(shared.begin(), shared.end(), 0xff);
    Block::Run(args, backwards ? blocks - 1 - i : i, shared.data(), ThreadsInTurn<Block::kThreads>{backwards});
    for (size_t g = 0; g < kGuard; ++g) ASSERT_EQ(shared[bytes + g], 0xff) << "beyond a block's shared memory";
  }
}

class HostForwardDevice : public ForwardDevice {
 public:
  // Calls after which every one fails, as on a device that is lost; and bytes that can be allocated from now on, those
  // that are freed again not counted.
  void FailAfter(int64_t calls) { calls_left_ = calls; }
  void LimitMemory(int64_t bytes) { *bytes_left_ = bytes; }
  // The one call after so many that has no memory, whatever it does.
  void LackMemoryAfter(int64_t calls) { lacks_after_ = calls; }
  // Keeps no step that comes again from now on.
  void RefuseGraphs() { refuses_graphs_ = true; }
  int64_t calls() const { return calls_; }
  int64_t repeats() const { return repeats_; }

  std::string name() const override { return "host"; }
  absl::StatusOr<Memory> Allocate(int64_t bytes) override {
    RETURN_IF_ERROR(Count());
    if (bytes > *bytes_left_) return ResourceExhausted("CUDA_MEMORY", "allocating {} bytes", bytes);
    *bytes_left_ -= bytes;
    const auto rounded = static_cast<size_t>((bytes + 256) / 256 * 256);
    Memory memory(std::aligned_alloc(256, rounded), [left = bytes_left_, bytes](void* p) {
      *left += bytes;
      std::free(p);
    });
    std::memset(memory.get(), 0xff, rounded);
    return memory;
  }
  absl::Status Upload(void* to, const void* from, int64_t bytes) override {
    RETURN_IF_ERROR(Count());
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
  absl::Status Download(void* to, const void* from, int64_t bytes) override { return Upload(to, from, bytes); }

  absl::Status Embed(const EmbedArgs& args) override { return Run<EmbedBlock>(args); }
  absl::Status Norm(const NormArgs& args) override { return Run<NormBlock>(args); }
  absl::Status Residual(const ResidualArgs& args) override { return Run<ResidualBlock>(args); }
  absl::Status Bias(const BiasArgs& args) override { return Run<BiasBlock>(args); }
  absl::Status Gate(const GateArgs& args) override { return Run<GateBlock>(args); }
  absl::Status Input(const InputArgs& args) override { return Run<InputBlock>(args); }
  absl::Status Heads(const HeadsArgs& args) override { return Run<HeadsBlock>(args); }
  absl::Status Attend(const AttendArgs& args) override {
    RETURN_IF_ERROR(Run<ScoresBlock>(args));
    RETURN_IF_ERROR(Run<SoftmaxBlock>(args));
    return Run<ValuesBlock>(args);
  }
  absl::Status Sample(const SampleArgs& args) override { return Run<SampleBlock>(args); }
  absl::Status DenseMatmul(const DenseMatmulArgs& args) override { return Run<DenseBlock>(args); }

  // Products of packed weights have tests of their own (cuda_packed_block_test, cuda_int8_block_test).
  int64_t PackedScratchBytes(int64_t, int64_t) const override { return kPackedScratchBytes; }
  absl::Status PackedMatmul(const PackedMatmulArgs& args) override {
    return Do([args] { BestKernels().packed_matmul(args); });
  }
  absl::Status Int8Matmul(const Int8MatmulArgs& args) override {
    return Do([args] { BestKernels().int8_matmul(args); });
  }
  absl::Status Int8WideMatmul(const Int8WideMatmulArgs& args) override {
    return Do([args] { BestKernels().int8_wide_matmul(args); });
  }

  // As a GPU does it: from the second time on what was recorded then is done, whatever `queue` would do now: a key that
  // promises too much is found out.
  absl::Status Repeat(const std::vector<int64_t>& key, absl::FunctionRef<absl::Status()> queue) override {
    return graphs_.Repeat(
        key, queue, [this](const auto& step, Graph& graph) { return Record(step, graph); },
        [this](const Graph& graph) { return Launch(graph); });
  }
  int64_t graphs_refused() const override { return graphs_.refused(); }

 private:
  using Graph = std::unique_ptr<std::vector<std::function<void()>>>;

  // Nothing is done while it is recorded.
  absl::Status Record(absl::FunctionRef<absl::Status()> queue, Graph& graph) {
    if (refuses_graphs_) return ResourceExhausted("CUDA_MEMORY", "there is no memory for a graph, as a test wanted");
    graph = std::make_unique<std::vector<std::function<void()>>>();
    recording_ = graph.get();
    const absl::Status status = queue();
    recording_ = nullptr;
    return status;
  }
  absl::Status Launch(const Graph& graph) {
    RETURN_IF_ERROR(Count());
    ++repeats_;
    for (const auto& operation : *graph) operation();
    return absl::OkStatus();
  }
  absl::Status Count() {
    ++calls_;
    if (lacks_after_-- == 0) return ResourceExhausted("CUDA_MEMORY", "there is no memory, as a test wanted");
    if (calls_left_ == 0) return Internal("CUDA_LOST", "the device is lost, as a test wanted");
    --calls_left_;
    return absl::OkStatus();
  }
  template <typename Block>
  absl::Status Run(const typename Block::Args& args) {
    return Do([args, backwards = calls_ % 2 == 0] { RunBlocks<Block>(args, backwards); });
  }
  absl::Status Do(std::function<void()> operation) {
    RETURN_IF_ERROR(Count());
    if (recording_ != nullptr) {
      recording_->push_back(std::move(operation));
    } else {
      operation();
    }
    return absl::OkStatus();
  }

  int64_t calls_ = 0;
  int64_t repeats_ = 0;
  GraphCache<Graph> graphs_;
  bool refuses_graphs_ = false;
  std::vector<std::function<void()>>* recording_ = nullptr;
  int64_t calls_left_ = INT64_MAX;
  int64_t lacks_after_ = -1;
  std::shared_ptr<int64_t> bytes_left_ = std::make_shared<int64_t>(INT64_MAX / 2);
};

}  // namespace qamserve
