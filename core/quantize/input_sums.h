// What calibration adds up of one group's inputs. Shared by the parts of core/quantize.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/thread_pool.h"

namespace qamserve {

// Entries of the lower triangle of [n][n].
inline constexpr int64_t TriangleSize(int64_t n) { return n * (n + 1) / 2; }

struct InputSums {
  std::vector<double> squares;  // [cols]
  std::vector<float> max_abs;   // [cols]
  std::vector<float> outer;     // TriangleSize(cols): the lower triangle of x x', row by row; empty if not asked for
};

// Adds `tokens` inputs x [tokens][cols]. Tokens are added in order for every column, and every entry of `outer` gets
// one dot product over the tokens, so that sums do not depend on how the work is split; they do on how tokens are cut
// into calls.
void AddInputs(const float* x, int64_t tokens, int64_t cols, bool outer, ThreadPool& pool, InputSums& sums);

}  // namespace qamserve
