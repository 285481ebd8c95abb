// Inputs of a group in a few calls, and what the CPU adds up of them.
#pragma once

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "core/base/rng.h"
#include "core/quantize/input_sums.h"

namespace qamserve {

// Columns, and whether there are outer products: tiles and blocks cut short, several of each.
inline std::vector<std::pair<int64_t, bool>> InputShapes() {
  return {{1, true}, {7, true}, {33, true}, {64, false}, {70, true}, {130, true}};
}

struct InputProblem {
  int64_t cols;
  std::vector<std::vector<float>> calls;  // [tokens][cols]

  explicit InputProblem(int64_t n) : cols(n) {
    Rng rng(static_cast<uint64_t>(n));
    for (int64_t tokens : {16, 1, 37}) {
      std::vector<float>& x = calls.emplace_back(static_cast<size_t>(tokens * n));
      for (float& v : x) v = static_cast<float>(rng.NextGaussian());
    }
  }

  InputSums OnCpu(bool outer) const {
    ThreadPool pool(1);
    InputSums sums;
    for (const std::vector<float>& x : calls) {
      AddInputs(x.data(), static_cast<int64_t>(x.size()) / cols, cols, outer, pool, sums);
    }
    return sums;
  }
};

inline void ExpectSameSums(const InputSums& got, const InputSums& expected, int64_t cols) {
  EXPECT_EQ(got.squares, expected.squares) << cols;
  EXPECT_EQ(got.max_abs, expected.max_abs) << cols;
  EXPECT_EQ(got.outer, expected.outer) << cols;
}

}  // namespace qamserve
