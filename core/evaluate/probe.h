// How much of a model's KL each tensor is answerable for: one tensor at a time takes the weights of an artifact, all
// others stay as the checkpoint has them. Bit allocation and predictions of KL start from these figures.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/progress.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/model/artifact.h"
#include "core/model/checkpoint.h"

namespace qamserve {

// Mean KL in nats a token over all positions of `windows` for each linear layer of block `layer`, in the order of
// QuantizePlan::tensors. Small figures are noisy: two windows of 256 tokens give 10 to 20 %. Cost: the blocks before
// `layer` once and those from it on once for each of its tensors. Memory: two blocks' weights, and the states of
// all windows for each of its tensors. Deterministic for any number of threads.
absl::StatusOr<std::vector<double>> ProbeBlock(const Checkpoint& base, const ArtifactReader& artifact, int64_t layer,
                                               const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool,
                                               ProgressFn progress);

}  // namespace qamserve
