#include "core/codec/rotation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/base/rng.h"

namespace qamserve {
namespace {

TEST(Paley, EveryOrderItClaimsIsHadamard) {
  int found = 0;
  for (int64_t n = 4; n <= 256; n += 4) {
    const std::vector<float> h = PaleyMatrix(n);
    if (h.empty()) continue;
    ++found;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        float dot = 0;
        for (int64_t k = 0; k < n; ++k) dot += h[static_cast<size_t>(i * n + k)] * h[static_cast<size_t>(j * n + k)];
        ASSERT_EQ(dot, i == j ? static_cast<float>(n) : 0.0f) << "order " << n << " rows " << i << ", " << j;
      }
    }
  }
  EXPECT_GE(found, 30);
}

TEST(Rotation, NoneLeavesARowAsItIsWhateverItsLength) {
  const Rotation none = *Rotation::Create(11008 + 7, RotationKind::kNone, 1);
  std::vector<float> x(11008 + 7, 1.5f), scratch(x.size());
  x[3] = -2;
  const std::vector<float> before = x;
  none.Apply(x.data(), scratch.data());
  EXPECT_EQ(x, before);
  none.ApplyInverse(x.data(), scratch.data());
  EXPECT_EQ(x, before);
  for (RotationKind kind : {RotationKind::kFull, RotationKind::kBlock, RotationKind::kNone}) {
    EXPECT_EQ(*ParseRotationKind(RotationKindName(kind)), kind);
  }
  EXPECT_EQ(ReasonOf(ParseRotationKind("half").status()), "ROTATION");
}

TEST(HadamardFactors, CoversTheDimensionsOfKnownModels) {
  EXPECT_EQ(HadamardFactors(576), (std::vector<int64_t>{12, 12, 4}));
  EXPECT_EQ(HadamardFactors(1536), (std::vector<int64_t>{12, 128}));
  EXPECT_EQ(HadamardFactors(640), (std::vector<int64_t>{20, 32}));
  EXPECT_EQ(HadamardFactors(4096), (std::vector<int64_t>{4096}));
  for (int64_t n :
       {896, 960, 1024, 2048, 2560, 3072, 3584, 4864, 5120, 5632, 8192, 8960, 9728, 13824, 14336, 18944, 28672}) {
    EXPECT_FALSE(HadamardFactors(n).empty()) << n;
  }
  EXPECT_TRUE(HadamardFactors(11008).empty());  // 43 x 256: needs an order-172 matrix, which Paley does not give
  EXPECT_TRUE(HadamardFactors(100 * 7).empty());
}

class RotationOf : public testing::TestWithParam<std::pair<int64_t, RotationKind>> {};

TEST_P(RotationOf, IsOrthogonalAndInvertible) {
  const auto [n, kind] = GetParam();
  const auto rotation = Rotation::Create(n, kind, 7);
  ASSERT_TRUE(rotation.ok()) << rotation.status();
  Rng rng(1);
  std::vector<float> x(static_cast<size_t>(n)), original, scratch(x.size());
  for (float& v : x) v = static_cast<float>(rng.NextGaussian());
  original = x;
  double before = 0, after = 0;
  for (float v : x) before += static_cast<double>(v) * static_cast<double>(v);
  rotation->Apply(x.data(), scratch.data());
  for (float v : x) after += static_cast<double>(v) * static_cast<double>(v);
  EXPECT_NEAR(after / before, 1.0, 1e-5);
  rotation->ApplyInverse(x.data(), scratch.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], original[i], 1e-5) << i;
}

TEST_P(RotationOf, SpreadsASingleSpikeOverItsBlock) {
  const auto [n, kind] = GetParam();
  const auto rotation = Rotation::Create(n, kind, 7);
  ASSERT_TRUE(rotation.ok());
  const int64_t block = kind == RotationKind::kFull ? n : (n & -n);
  std::vector<float> x(static_cast<size_t>(n)), scratch(x.size());
  x[static_cast<size_t>(n / 2)] = 1;
  rotation->Apply(x.data(), scratch.data());
  int64_t touched = 0;
  for (float v : x) {
    if (v == 0) continue;
    ++touched;
    ASSERT_NEAR(std::fabs(v), 1 / std::sqrt(static_cast<double>(block)), 1e-6);
  }
  EXPECT_EQ(touched, block);
}

INSTANTIATE_TEST_SUITE_P(Dimensions, RotationOf,
                         testing::Values(std::pair<int64_t, RotationKind>{576, RotationKind::kFull},
                                         std::pair<int64_t, RotationKind>{1536, RotationKind::kFull},
                                         std::pair<int64_t, RotationKind>{640, RotationKind::kFull},
                                         std::pair<int64_t, RotationKind>{64, RotationKind::kFull},
                                         std::pair<int64_t, RotationKind>{5632, RotationKind::kFull},
                                         std::pair<int64_t, RotationKind>{576, RotationKind::kBlock},
                                         std::pair<int64_t, RotationKind>{11008, RotationKind::kBlock}));

TEST(Rotation, SignsDependOnSeedAndDimensionOnly) {
  std::vector<float> a(64, 1.0f), b(64, 1.0f), c(64, 1.0f), scratch(64);
  Rotation::Create(64, RotationKind::kFull, 1)->Apply(a.data(), scratch.data());
  Rotation::Create(64, RotationKind::kFull, 1)->Apply(b.data(), scratch.data());
  Rotation::Create(64, RotationKind::kFull, 2)->Apply(c.data(), scratch.data());
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
}

TEST(Rotation, NamesADimensionItCannotFactor) {
  const auto rotation = Rotation::Create(11008, RotationKind::kFull, 1);
  ASSERT_FALSE(rotation.ok());
  EXPECT_EQ(ReasonOf(rotation.status()), "ROTATION_DIMENSION");
  EXPECT_NE(MessageOf(rotation.status()).find("11008"), std::string::npos);
  EXPECT_FALSE(Rotation::Create(0, RotationKind::kBlock, 1).ok());
  EXPECT_FALSE(Rotation::Create(int64_t{1} << 40, RotationKind::kFull, 1).ok());
}

}  // namespace
}  // namespace qamserve
