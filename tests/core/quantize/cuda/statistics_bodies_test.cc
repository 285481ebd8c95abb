// What a GPU does to add up inputs, its threads run one after the other: the bits of the CPU's sums.
#include <gtest/gtest.h>

#include "tests/core/quantize/cuda/host_device.h"
#include "tests/core/quantize/cuda/input_problem.h"

namespace qamserve {
namespace {

TEST(StatisticsBodies, GiveTheBitsOfTheCpu) {
  for (const auto& [cols, outer] : InputShapes()) {
    const InputProblem problem(cols);
    HostInputSums sums(cols, outer);
    for (const std::vector<float>& x : problem.calls) {
      ASSERT_TRUE(sums.Add(x.data(), static_cast<int64_t>(x.size()) / cols).ok());
    }
    ExpectSameSums(*sums.Read(), problem.OnCpu(outer), cols);
  }
}

}  // namespace
}  // namespace qamserve
