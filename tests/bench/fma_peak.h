// How many float multiply-adds a second this machine's cores do: what a product of floats could reach at most.
#pragma once

#include "core/base/thread_pool.h"

namespace qamserve {

// Multiply-adds a second of all threads of `pool` together on registers alone, by the widest instructions that this
// processor has: the best of `repetitions` runs of some hundredths of a second.
double MeasureFmaPeak(int repetitions, ThreadPool& pool);

}  // namespace qamserve
