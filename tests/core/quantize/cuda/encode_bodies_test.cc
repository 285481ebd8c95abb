// What a GPU does with a panel of rows, its threads run one after the other: the bits of the CPU's strips.
#include <gtest/gtest.h>

#include <vector>

#include "tests/core/quantize/cuda/encode_problem.h"
#include "tests/core/quantize/cuda/host_device.h"

namespace qamserve {
namespace {

EncodeResult OnHostGrid(const EncodeProblem& problem, bool backwards) {
  const DeviceTensor tensor{.format = problem.method().format,
                            .rows = problem.rows(),
                            .rotation = problem.rotation(),
                            .scale = problem.scale(),
                            .mean_square = problem.mean_square()};
  std::span<const float> rows;
  std::vector<double> weights;
  if (problem.feedback() != nullptr) {
    rows = problem.feedback()->rows();
    for (const auto& pair : problem.feedback()->weights()) weights.insert(weights.end(), pair.begin(), pair.end());
  }
  HostCoder coder(tensor, rows, weights, problem.rows(), backwards);
  EncodeResult result(tensor.format, problem.rows(), problem.cols());
  const absl::Status status = coder.Encode(problem.weights(), result.norms, result.packed, result.outcomes);
  EXPECT_TRUE(status.ok()) << status;
  return result;
}

void ExpectTheCpu(const EncodeMethod& method, int64_t rows, int64_t cols) {
  const EncodeProblem problem(method, rows, cols);
  const EncodeResult expected = problem.OnCpu();
  ExpectSame(OnHostGrid(problem, rows % 2 == 0), expected, problem.Describe());
}

TEST(EncodeBodies, GiveTheBitsOfTheCpuAtEveryRate) {
  for (const EncodeMethod& method : EncodeMethods()) {
    // One strip and a row; several blocks of feedback, the last cut short. Trellises are searched by the CPU here.
    ExpectTheCpu(method, method.format.codec == Codec::kTrellis ? 5 : 37, 144);
  }
}

TEST(EncodeBodies, GiveTheBitsOfTheCpuInEveryShape) {
  constexpr EncodeMethod kPlain{{Codec::kJoint, 11}}, kFeedback{{Codec::kJoint, 7}, true, true};
  // Dense factors of both of Paley's kinds, two of them, blocks, Sylvester's of 1, 2 and 3 last stages.
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 2},
                                   {31, 12},
                                   {32, 20},
                                   {33, 64},
                                   {64, 128},
                                   {40, 576},
                                   {65, 1536},
                                   {2, 4096},
                                   {3, 240}}) {
    ExpectTheCpu(kPlain, rows, cols);
    if (cols <= 576) ExpectTheCpu(kFeedback, rows, cols);
  }
  for (RotationKind rotation : {RotationKind::kBlock, RotationKind::kNone}) {
    ExpectTheCpu({{Codec::kJoint, 9}, true, false, rotation}, 33, 176);
    ExpectTheCpu({{Codec::kJoint, 9}, false, false, rotation}, 4, 37);  // an odd last column has a pair of its own
  }
}

// A cell of NearestPoint holds few points, the GPU looks at all: same point, on borders and far outside, too.
TEST(EncodeBodies, NearestPointsAreThoseOfTheCpu) {
  Rng rng(5);
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
    const Codebook& codebook = CodebookFor(bits);
    const NearestPoint nearest(codebook);
    const std::vector<float> points = PointsOf(codebook);
    const PointTable table{points.data(), points.data() + codebook.x.size(), static_cast<int>(codebook.x.size()),
                           codebook.magnitude_bits()};
    for (int i = 0; i < 20000; ++i) {
      float x = static_cast<float>(rng.NextGaussian() * (i % 50 == 0 ? 40 : 1));
      float y = static_cast<float>(rng.NextGaussian());
      if (i % 3 == 0) {  // halfway between points, where ties are
        x = codebook.step * 0.5f * static_cast<float>(static_cast<int>(rng.NextU64() % 500) - 250);
        y = codebook.step * 0.5f * static_cast<float>(static_cast<int>(rng.NextU64() % 500) - 250);
      }
      const NearestPoint::Point expected = nearest.Encode(x, y);
      const uint32_t code = table.Encode(x, y);
      ASSERT_EQ(code, expected.code) << bits;
      ASSERT_EQ(x, expected.x);
      ASSERT_EQ(y, expected.y);
    }
  }
}

TEST(EncodeBodies, ANormThatDoesNotFitNamesItsRow) {
  std::vector<uint16_t> norms(40, 0x3c00);
  norms[35] = 0x7c00;
  std::vector<StripOutcome> outcomes(2);
  const absl::Status status = ToOutcomes(norms, PanelMeasures(40, 2), outcomes);
  EXPECT_EQ(ReasonOf(status), "TENSOR_RANGE");
  EXPECT_NE(MessageOf(status).find("row 35"), std::string::npos) << status;
}

TEST(EncodeBodies, PanelsAreWholeStrips) {
  EXPECT_EQ(PanelRows(11008, 4096), 11008);
  EXPECT_EQ(PanelRows(128256, 4096), 16384);
  EXPECT_EQ(PanelRows(100, 4096), 100);
  EXPECT_EQ(PanelRows(100, int64_t{1} << 26), 32) << "never less than a strip";
}

}  // namespace
}  // namespace qamserve
