// Causal attention over a sequence's cache, with grouped heads and, if asked, a sliding window.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/thread_pool.h"
#include "core/kernels/kernels.h"
#include "core/model/config.h"
#include "core/model/kv_cache.h"

namespace qamserve {

struct BatchSpan;

// Puts `tokens` rows of keys and values [kv_heads][head_dim] at `position` onwards.
void AppendKeysAndValues(const ModelConfig& config, const float* k, const float* v, int64_t tokens, int64_t position,
                         LayerKv& cache);

// out[row][head] = softmax(scale q k') v over the keys at or before each query, at most `window` of them if window > 0.
// q and out are [rows][q_size]. A query's result does not depend on the other queries: keys are summed in the lanes of
// their absolute position, and masked ones add exact zeros.
void Attend(const ModelConfig& config, int64_t window, std::span<const BatchSpan> spans,
            std::span<LayerKv* const> caches, const float* q, float* out, const Kernels& kernels, ThreadPool& pool);

}  // namespace qamserve
