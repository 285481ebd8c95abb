#include "core/codec/joint.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "core/base/rng.h"
#include "core/codec/half.h"

namespace qamserve {
namespace {

struct RoundTrip {
  EncodedRow encoded;
  std::vector<float> original, decoded;
};

RoundTrip RoundTripOf(std::vector<float> row, int bits, const std::vector<float>& scale = {}) {
  const auto rotation = *Rotation::Create(static_cast<int64_t>(row.size()), RotationKind::kFull, 1);
  const NearestPoint nearest(CodebookFor(bits));
  RoundTrip out;
  out.original = row;
  std::vector<float> scratch(row.size());
  std::vector<std::vector<uint16_t>> codes(1, std::vector<uint16_t>((row.size() + 1) / 2));
  out.encoded = EncodeRow({Codec::kJoint, bits}, rotation, nearest, scale, row, scratch, codes[0]);
  std::vector<uint8_t> strip(static_cast<size_t>(StripBytes(static_cast<int64_t>(row.size()), bits)));
  PackStrip(codes, bits, strip);
  out.decoded.resize(row.size());
  DecodeRow(rotation, RowDecoder({Codec::kJoint, bits}), scale, out.encoded.norm, strip.data(), 0, out.decoded,
            scratch);
  return out;
}

double RelativeError(const RoundTrip& r) {
  double error = 0, energy = 0;
  for (size_t i = 0; i < r.original.size(); ++i) {
    const double d = static_cast<double>(r.decoded[i]) - static_cast<double>(r.original[i]);
    error += d * d;
    energy += static_cast<double>(r.original[i]) * static_cast<double>(r.original[i]);
  }
  return error / energy;
}

std::vector<float> GaussianRow(size_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> row(n);
  for (float& w : row) w = static_cast<float>(0.02 * rng.NextGaussian());
  return row;
}

// Whatever the row looks like, the rotation makes it Gaussian: its error is the codebook's.
TEST(JointCodec, ErrorOfAnyRowIsTheCodebooks) {
  std::vector<float> flat(1536, 0.5f), ramp(1536), spike(1536, 1e-6f);
  for (size_t i = 0; i < ramp.size(); ++i) ramp[i] = static_cast<float>(i);
  spike[100] = 3;
  spike[700] = -2;
  for (int bits : {5, 7, 8, 9, 10, 11, 12}) {
    const double expected = CodebookFor(bits).gaussian_mse;
    EXPECT_NEAR(RelativeError(RoundTripOf(GaussianRow(1536, 5), bits)), expected, 0.25 * expected) << bits;
    for (const auto* row : {&flat, &ramp}) EXPECT_LT(RelativeError(RoundTripOf(*row, bits)), 1.6 * expected) << bits;
    // A single spike becomes +-1 everywhere: not Gaussian at all, but inside the codebook's reach.
    EXPECT_LT(RelativeError(RoundTripOf(spike, bits)), 4 * expected) << bits;
  }
}

TEST(JointCodec, ReportsTheErrorThatReadingBackShows) {
  const RoundTrip r = RoundTripOf(GaussianRow(576, 9), 11);
  EXPECT_NEAR(r.encoded.squared_error / r.encoded.energy, RelativeError(r), 1e-6);
}

TEST(JointCodec, ScalesCancel) {
  std::vector<float> scale(576);
  Rng rng(4);
  for (float& s : scale) s = HalfToFloat(FloatToHalf(static_cast<float>(0.5 + rng.NextUniform())));
  const RoundTrip r = RoundTripOf(GaussianRow(576, 3), 11, scale);
  EXPECT_LT(RelativeError(r), 3e-3);
}

TEST(JointCodec, AZeroRowComesBackAsZero) {
  const RoundTrip r = RoundTripOf(std::vector<float>(64, 0.0f), 11);
  EXPECT_EQ(r.encoded.norm, 0);
  for (float w : r.decoded) EXPECT_EQ(w, 0.0f);
}

// With h and c known, no other scale gives a smaller product of the two sums (Cauchy-Schwarz).
TEST(ChannelScale, MinimizesTheExpectedError) {
  Rng rng(2);
  std::vector<double> h(64), c(64);
  for (size_t j = 0; j < h.size(); ++j) h[j] = 0.1 + rng.NextUniform() * 10, c[j] = 0.1 + rng.NextUniform();
  const auto loss = [&](auto s) {
    double a = 0, b = 0;
    for (size_t j = 0; j < h.size(); ++j) a += h[j] / (s(j) * s(j)), b += c[j] * s(j) * s(j);
    return a * b;
  };
  const std::vector<float> best = ChannelScale(h, c);
  const double at_best = loss([&](size_t j) { return static_cast<double>(best[j]); });
  EXPECT_LT(at_best, loss([](size_t) { return 1.0; }));
  for (double power : {0.1, 0.2, 0.3, 0.4}) {
    EXPECT_LE(at_best, 1.0001 * loss([&](size_t j) { return std::pow(h[j] / c[j], power); })) << power;
  }
}

TEST(EqualEnergyScale, GivesEveryColumnTheSameEnergy) {
  Rng rng(4);
  std::vector<double> energy(64);
  for (double& e : energy) e = 0.01 + rng.NextUniform() * 10;
  const std::vector<float> scale = EqualEnergyScale(energy);
  double mean = 0;
  for (size_t j = 0; j < energy.size(); ++j) {
    const auto s = static_cast<double>(scale[j]);
    const auto first = static_cast<double>(scale[0]);
    // Binary16 has 11 bits.
    EXPECT_NEAR(energy[j] * s * s / (energy[0] * first * first), 1, 0.004) << j;
    EXPECT_EQ(HalfToFloat(FloatToHalf(scale[j])), scale[j]);
    mean += s / 64;
  }
  EXPECT_NEAR(mean, 1, 0.001);
  for (float s : EqualEnergyScale(std::vector<double>{0, 1, 1e-30, 1e30})) {
    EXPECT_GT(s, 0);
    EXPECT_LE(s, 1024);
  }
  for (float s : EqualEnergyScale(std::vector<double>(4, 0.0))) EXPECT_EQ(s, 1.0f);
}

TEST(ChannelScale, SurvivesDeadChannelsAndExtremes) {
  for (float s : ChannelScale(std::vector<double>{0, 1, 1e30, 1}, std::vector<double>{1, 0, 1e-30, 1})) {
    EXPECT_GT(s, 0);
    EXPECT_LE(s, 1024);
  }
  for (float s : ChannelScale(std::vector<double>(4, 0.0), std::vector<double>(4, 1.0))) EXPECT_EQ(s, 1.0f);
}

TEST(Half, RoundTripsEveryBinary16) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if ((half & 0x7c00) == 0x7c00 && (half & 0x3ff) != 0) continue;  // NaN
    ASSERT_EQ(FloatToHalf(HalfToFloat(half)), half) << bits;
  }
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0);  // tie to even
  EXPECT_EQ(FloatToHalf(0x1.8p-25f), 1);
}

TEST(Half, RoundTripsEveryBFloat16AndRoundsToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if ((half & 0x7f80) == 0x7f80 && (half & 0x7f) != 0) continue;  // NaN
    ASSERT_EQ(FloatToBFloat16(BFloat16ToFloat(half)), half) << bits;
  }
  EXPECT_EQ(FloatToBFloat16(0x1.01p0f), 0x3f80) << "halfway to an even one below";
  EXPECT_EQ(FloatToBFloat16(0x1.03p0f), 0x3f82) << "and above";
  EXPECT_EQ(FloatToBFloat16(0x1.010002p0f), 0x3f81);
  EXPECT_EQ(FloatToBFloat16(-0x1.fefffep127f), 0xff7f);
  EXPECT_EQ(FloatToBFloat16(0x1.ffp127f), 0x7f80) << "infinity";
  // The bits of a NaN that lie in its lower half must not vanish.
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(TensorFormat, NamesComeBackAndRatesAreChecked) {
  for (Codec codec : kCodecs) {
    EXPECT_EQ(*ParseCodec(CodecName(codec)), codec);
    const int pair_bits = codec == Codec::kInt8 ? 16 : codec == Codec::kFull ? 32 : 8;
    EXPECT_EQ(CheckTensorFormat({codec, pair_bits}), absl::OkStatus());
    EXPECT_EQ(HasCodes({codec, pair_bits}), codec != Codec::kFull);
    EXPECT_EQ(ReasonOf(CheckTensorFormat({codec, 4})), "BPW_RANGE");
    EXPECT_EQ(ReasonOf(CheckTensorFormat({codec, 13})), "BPW_RANGE");
  }
  EXPECT_EQ(ReasonOf(CheckTensorFormat({Codec::kTrellis, 12})), "BPW_RANGE");
  EXPECT_EQ(CheckTensorFormat({Codec::kJoint, 12}), absl::OkStatus());
  EXPECT_EQ(ReasonOf(CheckTensorFormat({Codec::kFull, 16})), "BPW_RANGE");
  EXPECT_EQ(CodesBytes({Codec::kFull, 32}, 33, 40), 33 * 40 * 2) << "no padding";
  EXPECT_EQ(ReasonOf(ParseCodec("gptq").status()), "CODEC");
}

TEST(RowNorm, PutsTheLargestWeightOnTheOutermostLevelWhenRoundingToNearest) {
  const std::vector<float> row = {0.1f, -0.7f, 0.35f, 0.0f};
  const TensorFormat format{Codec::kUniform, 8};
  const Codebook& codebook = *CodebookOf(format);
  const float norm = HalfToFloat(RowNorm(format, row, 1));
  EXPECT_NEAR(norm * codebook.step * static_cast<float>(codebook.outermost), 0.7, 1e-3);
  EXPECT_NEAR(HalfToFloat(RowNorm({Codec::kJoint, 8}, row, 1)), 0.5, 1e-3) << "root mean square";
}

}  // namespace
}  // namespace qamserve
