#include "core/codec/codebook.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "core/base/digest.h"
#include "core/base/rng.h"

namespace qamserve {
namespace {

// Tables are part of the format: a change of one byte makes every stored artifact decode to something else.
TEST(Codebook, TablesAreTheOnesThatWereFrozen) {
  const std::map<CodebookKind, std::string> digests = {
      {CodebookKind::kJoint, "01aa4fe4fbca7584ca1b3e17f3aa515c85686d5a8e78cd4cbbdd5e0cc7e0a266"},
      {CodebookKind::kPolar, "8ca9a1dffe7b7b2d703fe281d4235a101225ce84ad29bde4edd6e995cd0e7096"},
      {CodebookKind::kScalar, "4f09a89eb54ccdeff11ed4d0edc2585402c43c6d4862b206d02d7c59af5d46f6"},
      {CodebookKind::kUniform, "7318f71051feaa499a26a52201b2624a79dddcc0935664faa1274925134a1b57"},
  };
  for (CodebookKind kind : kCodebookKinds) {
    std::string bytes;
    for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
      const Codebook& c = CodebookFor(kind, bits);
      ASSERT_EQ(c.kind, kind);
      ASSERT_EQ(c.pair_bits, bits);
      ASSERT_EQ(c.x.size(), size_t{1} << (bits - 2));
      ASSERT_EQ(c.y.size(), c.x.size());
      bytes.append(c.x.begin(), c.x.end());
      bytes.append(c.y.begin(), c.y.end());
      bytes.append(reinterpret_cast<const char*>(&c.step), sizeof(c.step));
    }
    EXPECT_EQ(Sha256Hex(bytes), digests.at(kind)) << CodebookKindName(kind);
    EXPECT_EQ(&CodebookFor(9), &CodebookFor(CodebookKind::kJoint, 9));
  }
}

TEST(Codebook, MagnitudesFitTheirMultipliers) {
  for (CodebookKind kind : kCodebookKinds) {
    for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
      const Codebook& c = CodebookFor(kind, bits);
      const int largest =
          std::max(*std::max_element(c.x.begin(), c.x.end()), *std::max_element(c.y.begin(), c.y.end()));
      EXPECT_EQ(c.outermost, largest);
      EXPECT_LE(c.outermost, bits <= 9 ? 127 : 255);
    }
  }
}

TEST(Codebook, NamesGoBothWays) {
  for (CodebookKind kind : kCodebookKinds) EXPECT_EQ(*ParseCodebookKind(CodebookKindName(kind)), kind);
  EXPECT_EQ(CodebookKindName(CodebookKind::kJoint), "joint");
  for (const char* name : {"", "Joint", "joint ", "trellis"}) {
    const auto kind = ParseCodebookKind(name);
    ASSERT_FALSE(kind.ok()) << name;
    EXPECT_EQ(ReasonOf(kind.status()), "CODEBOOK_UNKNOWN");
  }
}

// Rings of equal phases: every point has the phase of one at the same place of another ring, up to the lattice.
TEST(Codebook, PolarIsRingsOfEvenPhases) {
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
    const Codebook& c = CodebookFor(CodebookKind::kPolar, bits);
    const size_t outer = static_cast<size_t>(std::max_element(c.x.begin(), c.x.end()) - c.x.begin());
    const size_t phases = c.x.size() - outer;  // of a quadrant; the last ring's first point reaches farthest
    ASSERT_EQ(c.x.size() % phases, 0u);
    for (size_t ring = 0; ring < c.x.size(); ring += phases) {
      double radius = 0;
      for (size_t j = 0; j < phases; ++j)
        radius += std::hypot(c.x[ring + j], c.y[ring + j]) / static_cast<double>(phases);
      for (size_t j = 0; j < phases; ++j) {
        const double angle = (static_cast<double>(j) + 0.5) / static_cast<double>(phases) * 1.5707963267948966;
        ASSERT_NEAR(c.x[ring + j], radius * std::cos(angle), 1) << bits;
        ASSERT_NEAR(c.y[ring + j], radius * std::sin(angle), 1) << bits;
      }
    }
  }
}

TEST(Codebook, UniformLevelsAreEvenlySpacedAndCoverTheSameRange) {
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
    const Codebook& c = CodebookFor(CodebookKind::kUniform, bits);
    const int wide = bits % 2 == 0 ? 1 : 2;
    const size_t odd_levels = size_t{1} << (bits / 2 - 1);
    for (size_t i = 0; i < c.x.size(); ++i) {
      ASSERT_EQ(c.x[i], 2 * (i / odd_levels) + 1);
      ASSERT_EQ(c.y[i], static_cast<size_t>(wide) * (2 * (i % odd_levels) + 1));
    }
    EXPECT_EQ(c.outermost, (1 << (bits + 1) / 2) - 1);
    EXPECT_EQ(c.outermost - *std::max_element(c.y.begin(), c.y.end()), wide - 1);
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

double MeasureGaussianMse(const Codebook& codebook) {
  const NearestPoint nearest(codebook);
  Gaussian source;
  double error = 0;
  constexpr int kPairs = 200000;
  for (int i = 0; i < kPairs; ++i) {
    float x, y;
    source.Pair(&x, &y);
    const NearestPoint::Point p = nearest.Encode(x, y);
    error += std::pow(static_cast<double>(p.x - x), 2) + std::pow(static_cast<double>(p.y - y), 2);
  }
  return error / (2 * kPairs);
}

TEST(Codebook, MeasuresOnAGaussianAsTheGeneratorSays) {
  for (CodebookKind kind : kCodebookKinds) {
    for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
      const Codebook& c = CodebookFor(kind, bits);
      EXPECT_NEAR(MeasureGaussianMse(c) / c.gaussian_mse, 1, 0.02) << CodebookKindName(kind) << " " << bits;
    }
  }
}

// Of an optimal two-dimensional quantizer of the unit Gaussian, 5 to 11 bits a pair.
constexpr double kOptimalPairMse[] = {5.759e-2, 2.978e-2, 1.536e-2, 7.884e-3, 3.984e-3, 2.012e-3, 1.019e-3};

// Within 3 %: quadrant symmetry and the integer grid cost up to 2.7 % at the smallest table and about 1 % elsewhere.
TEST(Codebook, JointReachesTheTabulatedDistortionOfAGaussian) {
  for (int bits = 5; bits <= 11; ++bits) {
    const double ratio = CodebookFor(bits).gaussian_mse / kOptimalPairMse[bits - 5];
    EXPECT_LT(ratio, 1.03) << bits;
    EXPECT_GT(ratio, 0.97) << bits;
  }
}

// The best polar quantizers as multiples of the optimal ones, measured by an independent program to about 1 %.
TEST(Codebook, PolarReachesTheTabulatedDistortionOfAGaussian) {
  const double best[] = {1.24, 1.17, 1.24, 1.20, 1.23, 1.24, 1.24};
  for (int bits = 5; bits <= 11; ++bits) {
    const double mse = CodebookFor(CodebookKind::kPolar, bits).gaussian_mse;
    EXPECT_NEAR(mse / kOptimalPairMse[bits - 5], best[bits - 5], 0.025) << bits;
  }
}

// Max (1960), tables 1 and 2; 6 bits, which he does not have, from a separate program.
constexpr double kLloydMaxMse[] = {0, 0.3634, 0.1175, 0.03454, 0.009497, 0.002499, 6.442e-4};
constexpr double kUniformMse[] = {0, 0.3634, 0.1188, 0.03744, 0.01154, 0.00349, 1.04e-3};

TEST(Codebook, ScalarReachesTheTabulatedDistortionOfAGaussian) {
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
    const double expected = (kLloydMaxMse[(bits + 1) / 2] + kLloydMaxMse[bits / 2]) / 2;
    EXPECT_NEAR(CodebookFor(CodebookKind::kScalar, bits).gaussian_mse / expected, 1, 0.008) << bits;
  }
}

// Odd rates bind the two columns' spacings to each other, which costs 2 to 3 %.
TEST(Codebook, UniformReachesTheTabulatedDistortionOfAGaussian) {
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
    const double expected = (kUniformMse[(bits + 1) / 2] + kUniformMse[bits / 2]) / 2;
    const double ratio = CodebookFor(CodebookKind::kUniform, bits).gaussian_mse / expected;
    EXPECT_GT(ratio, 0.998) << bits;
    EXPECT_LT(ratio, bits % 2 == 0 ? 1.002 : 1.03) << bits;
  }
}

void ExpectExactSearch(const Codebook& c) {
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

TEST(NearestPoint, AgreesWithExhaustiveSearchEverywhere) {
  for (CodebookKind kind : kCodebookKinds) {
    for (int bits : {5, 8, 11, 12}) {
      SCOPED_TRACE(std::string(CodebookKindName(kind)) + " " + std::to_string(bits));
      ExpectExactSearch(CodebookFor(kind, bits));
    }
  }
}

// A row that is scaled by its largest weight has it on the outermost level, and rounds everything else by at most half
// a level's width: half of the odd column's if that is the wider one.
TEST(NearestPoint, RoundsToNearestLevelOfAUniformRow) {
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
    const Codebook& c = CodebookFor(CodebookKind::kUniform, bits);
    const NearestPoint nearest(c);
    const float edge = c.step * static_cast<float>(c.outermost);
    EXPECT_EQ(nearest.Encode(edge, -edge).x, edge);
    Rng rng(4);
    for (int i = 0; i < 2000; ++i) {
      const auto x = static_cast<float>(2 * rng.NextUniform() - 1) * edge;
      const auto y = static_cast<float>(2 * rng.NextUniform() - 1) * edge;
      const NearestPoint::Point p = nearest.Encode(x, y);
      ASSERT_LE(std::fabs(p.x - x), c.step * 1.0001f);
      ASSERT_LE(std::fabs(p.y - y), c.step * (bits % 2 == 0 ? 1.0001f : 2.0001f));
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
