#include "core/codec/codebook.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "core/base/digest.h"
#include "core/base/rng.h"

namespace qamserve {
namespace {

// Tables are part of the format: a change of one byte makes every stored artifact decode to something else.
TEST(Codebook, TablesAreTheOnesThatWereFrozen) {
  std::string bytes;
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
    const Codebook& c = CodebookFor(bits);
    ASSERT_EQ(c.pair_bits, bits);
    ASSERT_EQ(c.x.size(), size_t{1} << (bits - 2));
    ASSERT_EQ(c.y.size(), c.x.size());
    bytes.append(c.x.begin(), c.x.end());
    bytes.append(c.y.begin(), c.y.end());
    bytes.append(reinterpret_cast<const char*>(&c.step), sizeof(c.step));
  }
  EXPECT_EQ(Sha256Hex(bytes), "01aa4fe4fbca7584ca1b3e17f3aa515c85686d5a8e78cd4cbbdd5e0cc7e0a266");
}

TEST(Codebook, MagnitudesFitTheirMultipliers) {
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
    const int limit = bits <= 9 ? 127 : 255;
    for (uint8_t v : CodebookFor(bits).x) EXPECT_LE(v, limit);
    for (uint8_t v : CodebookFor(bits).y) EXPECT_LE(v, limit);
  }
}

// Box-Muller on the deterministic generator: the tails matter here.
struct Gaussian {
  Rng rng{11};
  void Pair(float* x, float* y) {
    const double radius = std::sqrt(-2 * std::log(1 - rng.NextUniform())),
                 angle = 6.283185307179586 * rng.NextUniform();
    *x = static_cast<float>(radius * std::cos(angle));
    *y = static_cast<float>(radius * std::sin(angle));
  }
};

// Distortions of an optimal two-dimensional quantizer of the unit Gaussian (docs/benchmarks.md), within 3 %: quadrant
// symmetry and the integer grid cost up to 2.7 % at the smallest table and about 1 % elsewhere.
TEST(Codebook, ReachesTheTabulatedDistortionOfAGaussian) {
  const double optimal[] = {5.759e-2, 2.978e-2, 1.536e-2, 7.884e-3, 3.984e-3, 2.012e-3, 1.019e-3};
  for (int bits = 5; bits <= 11; ++bits) {
    const NearestPoint nearest(CodebookFor(bits));
    Gaussian source;
    double error = 0;
    constexpr int kPairs = 200000;
    for (int i = 0; i < kPairs; ++i) {
      float x, y;
      source.Pair(&x, &y);
      const NearestPoint::Point p = nearest.Encode(x, y);
      error += std::pow(static_cast<double>(p.x - x), 2) + std::pow(static_cast<double>(p.y - y), 2);
    }
    const double mse = error / (2 * kPairs), expected = optimal[bits - 5];
    EXPECT_LT(mse, expected * 1.03) << bits;
    EXPECT_GT(mse, expected * 0.95) << bits;
    EXPECT_NEAR(mse, CodebookFor(bits).gaussian_mse, 0.02 * expected) << bits;
  }
}

TEST(NearestPoint, AgreesWithExhaustiveSearchEverywhere) {
  for (int bits : {5, 8, 11, 12}) {
    const Codebook& c = CodebookFor(bits);
    const NearestPoint nearest(c);
    Rng rng(3);
    for (int i = 0; i < 20000; ++i) {
      // Far outside, near the axes, and in the bulk.
      const double spread = i % 3 == 0 ? 20 : i % 3 == 1 ? 0.05 : 2;
      const float x = static_cast<float>(rng.NextGaussian() * spread), y = static_cast<float>(rng.NextGaussian() * 2);
      float best = HUGE_VALF;
      for (size_t k = 0; k < c.x.size(); ++k) {
        const float dx = std::fabs(x) - c.step * static_cast<float>(c.x[k]);
        const float dy = std::fabs(y) - c.step * static_cast<float>(c.y[k]);
        best = std::min(best, dx * dx + dy * dy);
      }
      const NearestPoint::Point p = nearest.Encode(x, y);
      const float dx = std::fabs(x) - std::fabs(p.x), dy = std::fabs(y) - std::fabs(p.y);
      ASSERT_EQ(dx * dx + dy * dy, best) << x << " " << y;
      float decoded_x, decoded_y;
      nearest.Decode(p.code, &decoded_x, &decoded_y);
      ASSERT_EQ(decoded_x, p.x);
      ASSERT_EQ(decoded_y, p.y);
    }
  }
}

TEST(PairBits, AcceptsHalfBitsAndNothingElse) {
  for (double bpw = 2.5; bpw <= 6; bpw += 0.5) EXPECT_EQ(*PairBitsFor(bpw), static_cast<int>(2 * bpw));
  for (double bpw : {2.0, 6.5, 4.25, 0.0, -1.0, std::nan(""), 1e300}) {
    const auto bits = PairBitsFor(bpw);
    ASSERT_FALSE(bits.ok()) << bpw;
    EXPECT_EQ(ReasonOf(bits.status()), "BPW_RANGE");
    EXPECT_NE(MessageOf(bits.status()).find("2.5 to 6"), std::string::npos);
  }
}

}  // namespace
}  // namespace qamserve
