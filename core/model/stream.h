// The unquantized model run over whole windows with one block's weights in memory at a time: what calibration, the
// base side of an evaluation and probes need, for models that do not fit.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/model/checkpoint.h"
#include "core/model/forward.h"

namespace qamserve {

// Called after each block and window with the finished fraction; a status that is not OK stops and is returned.
using StreamProgress = absl::FunctionRef<absl::Status(double fraction)>;

// Runs independent windows of tokens. `observer`, if given, sees the input of every linear group, block by block and
// window by window in order. `hidden`, if given, gets the normalized last hidden states, [all tokens][hidden_size].
// Memory: one block, one window's activations and the hidden states of all windows.
absl::Status StreamForward(const Checkpoint& checkpoint, const std::vector<std::vector<int32_t>>& windows,
                           ThreadPool& pool, const InputObserver* observer, StreamProgress progress,
                           std::vector<float>* hidden);

// The same in single steps. States are [all tokens][hidden_size]. Checkpoint, windows and pool must outlive it; used by
// one thread at a time.
class BlockStream {
 public:
  static absl::StatusOr<std::unique_ptr<BlockStream>> Create(const Checkpoint& checkpoint,
                                                             const std::vector<std::vector<int32_t>>& windows,
                                                             ThreadPool& pool, const InputObserver* observer);
  // What goes into the first block.
  absl::StatusOr<std::vector<float>> Embed() const;
  // states <- block(states); `progress` hears of each window with the finished fraction of the block.
  absl::Status Run(const LayerWeights& weights, int64_t layer, std::vector<float>& states, StreamProgress progress);
  // The last norm: what the head multiplies.
  absl::StatusOr<std::vector<float>> Normalized(const std::vector<float>& states) const;

 private:
  BlockStream(const Checkpoint& checkpoint, const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool,
              const InputObserver* observer, size_t longest);

  const Checkpoint& checkpoint_;
  const std::vector<std::vector<int32_t>>& windows_;
  ForwardBuffers buffers_;
  ForwardContext context_;
  KvCache cache_;  // of one layer
  RopeFrequencies rope_;
};

}  // namespace qamserve
