// The unquantized model run over whole windows with one block's weights in memory at a time: what calibration and the
// base side of an evaluation need, for models that do not fit.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
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

}  // namespace qamserve
