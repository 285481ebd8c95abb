// What a warp of the GPU does with 8-bit weights, its 32 lanes run one after the other: the integers of the reference.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "core/kernels/cuda/int8_warp.h"
#include "core/kernels/cuda/packed_warp.h"
#include "tests/core/kernels/matmul_problems.h"

namespace qamserve {
namespace {

uint32_t Word(const void* at) {
  uint32_t word;
  std::memcpy(&word, at, 4);
  return word;
}

// Sums of the rows of a strip over one step, by lanes, with the activations that x(column) says.
template <typename X>
std::vector<int32_t> StepSums(const Int8Problem& p, int64_t strip, int64_t col, const X& x) {
  std::vector<int32_t> sums(kTileRows);
  const int8_t* base = p.data.data() + strip * Int8StripBytes(p.cols);
  for (int lane = 0; lane < 32; ++lane) {
    const int first_row = 4 * (lane / 4);
    for (int i = 0; i < kInt8LaneLines; ++i) {
      const int64_t first = col + Int8LaneCol(lane) + 4 * i;
      const uint32_t four = FourBytes(x(first), x(first + 1), x(first + 2), x(first + 3));
      for (int row = 0; row < 4; ++row) {
        const int at = first_row + row;
        int32_t& sum = sums[static_cast<size_t>(at)];
        sum = DotBytes(Word(base + Int8LaneOffset(col, lane, i) + 4 * row), four, sum);
      }
    }
  }
  return sums;
}

TEST(Int8Warp, StepsAddUpToTheReference) {
  const Int8Problem p(70, 300, 2);
  const std::vector<float> expected = p.Reference(), wide = p.WideReference();
  for (int64_t strip = 0; strip < 3; ++strip) {
    for (int64_t token = 0; token < 2; ++token) {
      std::vector<int32_t> sums(kTileRows), parts[2] = {sums, sums};
      const auto at = [&](int64_t col) { return static_cast<size_t>(token * p.x.stride + col); };
      for (int64_t col = 0; col < PaddedCols(300); col += kInt8StepCols) {
        const auto add = [&](std::vector<int32_t>& to, const auto& x) {
          const std::vector<int32_t> step = StepSums(p, strip, col, x);
          for (size_t i = 0; i < step.size(); ++i) to[i] += step[i];
        };
        add(sums, [&](int64_t c) { return static_cast<int>(p.q[at(c)]); });
        for (int part : {0, 1}) add(parts[part], [&](int64_t c) { return ActivationPart(p.wide[at(c)], part); });
      }
      for (int64_t row = strip * 32; row < std::min<int64_t>(70, strip * 32 + 32); ++row) {
        const auto i = static_cast<size_t>(row % 32), to = static_cast<size_t>(token * 70 + row);
        const float factor = p.row_scale[static_cast<size_t>(row)] * p.scale[static_cast<size_t>(token)];
        EXPECT_EQ(static_cast<float>(sums[i]) * factor, expected[to]);
        EXPECT_EQ(static_cast<float>(128 * parts[0][i] + parts[1][i]) * factor, wide[to]);
      }
    }
  }
}

}  // namespace
}  // namespace qamserve
