// How fast this machine reads memory: the bound that batch-1 decoding runs into.
#pragma once

#include <cstdint>

#include "core/base/thread_pool.h"

namespace qamserve {

// Bytes a second when all threads of `pool` sum `bytes` of memory together; the best of `repetitions` passes. `bytes`
// should be many times the last-level cache.
double MeasureReadBandwidth(int64_t bytes, int repetitions, ThreadPool& pool);

}  // namespace qamserve
