// A system that has no large pieces of memory left, for programs that are linked with limited_memory.cc.
#pragma once

#include <cstddef>
#include <limits>

namespace qamserve {

inline constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();
// From now on operator new throws for more than `bytes`, in all threads.
void LimitPieces(size_t bytes);

}  // namespace qamserve
