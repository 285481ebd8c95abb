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

// Puts `tokens` rows of keys and values [kv_heads][head_dim] at `position` onwards. An 8-bit cache keeps each head's
// key and value of a token as integers up to 127 and one scale.
void AppendKeysAndValues(const ModelConfig& config, const float* k, const float* v, int64_t tokens, int64_t position,
                         LayerKv cache, const Kernels& kernels);

// out[row][head] = softmax(scale q k') v over the keys at or before each query, at most `window` of them if window > 0.
// q and out are [rows][q_size]. A query's result does not depend on the other queries: keys are summed in the lanes of
// their absolute position, and masked ones add exact zeros. Nor does it depend on the size of blocks: scores of all
// blocks stand in one row, and values are put in rows as long before they are multiplied.
void Attend(const ModelConfig& config, int64_t window, std::span<const BatchSpan> spans,
            std::span<const LayerKv> caches, const float* q, float* out, const Kernels& kernels, ThreadPool& pool);

}  // namespace qamserve
