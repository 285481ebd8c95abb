#include "core/base/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace qamserve {
namespace {

// From the published algorithm, xoshiro256** seeded by SplitMix64. These numbers may never change: quantized artifacts
// are named by digest, and rotations are drawn from here.
TEST(RngTest, KnownNumbers) {
  struct Case {
    uint64_t seed;
    std::array<uint64_t, 4> numbers;
  };
  const Case cases[] = {
      {0, {0x99ec5f36cb75f2b4, 0xbf6e1f784956452a, 0x1a5f849d4933e6e0, 0x6aa594f1262d2d2c}},
      {42, {0x15780b2e0c2ec716, 0x6104d9866d113a7e, 0xae17533239e499a1, 0xecb8ad4703b360a1}},
      {UINT64_MAX, {0x8f5520d52a7ead08, 0xc476a018caa1802d, 0x81de31c0d260469e, 0xbf658d7e065f3c2f}},
  };
  for (const Case& c : cases) {
    Rng rng(c.seed);
    for (uint64_t number : c.numbers) EXPECT_EQ(rng.NextU64(), number) << c.seed;
  }
}

TEST(RngTest, UniformIsTheTop53Bits) {
  Rng rng(0);
  EXPECT_EQ(rng.NextUniform(), static_cast<double>(0x99ec5f36cb75f2b4u >> 11) / 9007199254740992.0);
}

// Bounds: 5 standard errors of the moment over 1e6 draws.
TEST(RngTest, UniformMoments) {
  Rng rng(7);
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 1'000'000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.NextUniform();
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * 0.2887e-3);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 5 * 0.2982e-3);
}

TEST(RngTest, GaussianMoments) {
  Rng rng(7);
  double sum = 0;
  double squares = 0;
  double fourth = 0;
  constexpr int kDraws = 200'000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.NextGaussian();
    ASSERT_LT(std::abs(x), 6);
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0, 5 / std::sqrt(kDraws));
  EXPECT_NEAR(squares / kDraws, 1, 5 * std::sqrt(1.9 / kDraws));
  // Irwin-Hall of 12 has excess kurtosis -0.1.
  EXPECT_NEAR(fourth / kDraws, 2.9, 5 * std::sqrt(90.0 / kDraws));
}

}  // namespace
}  // namespace qamserve
