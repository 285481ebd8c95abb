// What a GPU does to factor outer products, its threads run one after the other: the bits of the CPU's factor.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "tests/core/quantize/cuda/encode_problem.h"
#include "tests/core/quantize/cuda/host_device.h"

namespace qamserve {
namespace {

void ExpectTheCpu(int64_t n, bool scaled, RotationKind rotation) {
  const EncodeProblem problem({{Codec::kJoint, 8}, scaled, true, rotation}, 1, n);
  const HostFactor got(problem.outer(), problem.scale(), problem.rotation(), n % 8 == 0);
  ASSERT_EQ(got.failed, 0);
  const ErrorFeedback& expected = *problem.feedback();
  for (int64_t p = 0; p < n / 2; ++p) {
    for (int k : {0, 1, 2}) {
      ASSERT_EQ(got.weights[static_cast<size_t>(3 * p + k)],
                expected.weights()[static_cast<size_t>(p)][static_cast<size_t>(k)])
          << n << ", pair " << p;
    }
    for (int64_t row : {2 * p, 2 * p + 1}) {
      for (int64_t i = 0; i < 2 * p; ++i) {
        const auto at = static_cast<size_t>(row * n + i);
        ASSERT_EQ(got.rows[at], expected.rows()[at]) << n << ", entry " << row << ", " << i;
      }
    }
  }
}

// A pair; less than a block; blocks and tiles cut short; several blocks.
TEST(FactorBodies, GiveTheBitsOfTheCpu) {
  for (int64_t n : {2, 4, 12, 36, 64, 128, 144, 240, 320}) {
    ExpectTheCpu(n, true, RotationKind::kFull);
    ExpectTheCpu(n, false, RotationKind::kBlock);
  }
  ExpectTheCpu(202, true, RotationKind::kNone);
}

TEST(FactorBodies, APivotThatIsNotPositiveFails) {
  const Rotation rotation = *Rotation::Create(144, RotationKind::kNone, 1);
  std::vector<float> outer(144 * 144, 0.0f);
  for (size_t i = 0; i < 144; ++i) outer[i * 144 + i] = 1;
  outer[10 * 144 + 100] = outer[100 * 144 + 10] = 3;
  EXPECT_EQ(HostFactor(outer, {}, rotation, false).failed, 1);
  outer[10 * 144 + 100] = outer[100 * 144 + 10] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(HostFactor(outer, {}, rotation, false).failed, 1);
  outer[10 * 144 + 100] = outer[100 * 144 + 10] = 0.5f;
  EXPECT_EQ(HostFactor(outer, {}, rotation, false).failed, 0);
}

}  // namespace
}  // namespace qamserve
