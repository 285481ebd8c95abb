// A tensor to quantize, and what the CPU makes of it strip by strip.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/codec/half.h"
#include "core/quantize/cuda/encoder.h"
#include "core/quantize/feedback.h"
#include "core/quantize/strip.h"

namespace qamserve {

struct EncodeMethod {
  TensorFormat format;
  bool scale = true;
  bool feedback = false;
  RotationKind rotation = RotationKind::kFull;
};

struct EncodeResult {
  std::vector<uint8_t> packed;
  std::vector<uint16_t> norms;
  std::vector<StripOutcome> outcomes;

  EncodeResult(const TensorFormat& format, int64_t rows, int64_t cols)
      : packed(static_cast<size_t>(CodesBytes(format, rows, cols))),
        norms(static_cast<size_t>(rows)),
        outcomes(static_cast<size_t>(StripsDown(rows))) {}
};

// Gaussian weights of uneven rows and columns, one row of zeros (where there are so many), one too small for binary16;
// inputs of uneven channels that are correlated.
class EncodeProblem {
 public:
  EncodeProblem(const EncodeMethod& method, int64_t rows, int64_t cols)
      : method_(method),
        rows_(rows),
        cols_(cols),
        rotation_(*Rotation::Create(cols, method.rotation, 1)),
        weights_(static_cast<size_t>(rows * cols)),
        mean_square_(static_cast<size_t>(cols)) {
    Rng rng(static_cast<uint64_t>(rows * 1000 + cols));
    const auto n = static_cast<size_t>(cols);
    for (size_t i = 0; i < weights_.size(); ++i) {
      const size_t row = i / n, col = i % n;
      double size = (1 + static_cast<double>(row % 5)) * (1 + static_cast<double>(col % 3)) * 0.02;
      if (row == 3) size = 0;
      if (row == 4) size = 1e-9;
      weights_[i] = static_cast<float>(rng.NextGaussian() * size);
    }
    for (double& v : mean_square_) v = 0.1 + rng.NextUniform();
    if (method.scale) {
      scale_.resize(n);
      for (float& s : scale_) s = HalfToFloat(FloatToHalf(static_cast<float>(0.5 + rng.NextUniform())));
    }
    if (method.feedback) MakeFeedback(rng);
  }

  const EncodeMethod& method() const { return method_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  const Rotation& rotation() const { return rotation_; }
  const std::vector<float>& weights() const { return weights_; }
  std::vector<float>& weights() { return weights_; }
  const std::vector<float>& scale() const { return scale_; }
  std::span<const double> mean_square() const {
    return method_.scale ? std::span<const double>(mean_square_) : std::span<const double>();
  }
  // Mean outer products of the inputs.
  const std::vector<float>& outer() const { return outer_; }
  const ErrorFeedback* feedback() const { return feedback_ ? &*feedback_ : nullptr; }
  std::string Describe() const {
    return std::string(CodecName(method_.format.codec)) + " " + std::to_string(method_.format.pair_bits) + " bits, " +
           std::to_string(rows_) + " x " + std::to_string(cols_) + (method_.scale ? ", scale" : "") +
           (method_.feedback ? ", feedback, " : ", ") + RotationKindName(method_.rotation);
  }

  // By EncodeStrip.
  EncodeResult OnCpu() const {
    EncodeResult out(method_.format, rows_, cols_);
    const CoderTables tables(method_.format);
    const StripContext context{rotation_, tables, scale_, mean_square(), feedback()};
    const auto bytes = static_cast<size_t>(CodesStripBytes(method_.format, cols_));
    for (size_t strip = 0; strip < out.outcomes.size(); ++strip) {
      const size_t first = strip * kTileRows, count = std::min<size_t>(kTileRows, out.norms.size() - first);
      const auto n = static_cast<size_t>(cols_);
      std::vector<float> rows(weights_.begin() + static_cast<std::ptrdiff_t>(first * n),
                              weights_.begin() + static_cast<std::ptrdiff_t>((first + count) * n));
      out.outcomes[strip] = *EncodeStrip(context, rows, std::span(out.norms).subspan(first, count),
                                         std::span(out.packed).subspan(strip * bytes, bytes));
    }
    return out;
  }

 private:
  void MakeFeedback(Rng& rng) {
    const auto n = static_cast<size_t>(cols_);
    outer_.assign(n * n, 0.0f);
    for (int sample = 0; sample < 8; ++sample) {
      std::vector<double> x(n);
      for (double& v : x) v = rng.NextGaussian();
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) outer_[i * n + j] += static_cast<float>(x[i] * x[j] / 8);
      }
    }
    std::vector<float> overwritten = outer_;
    feedback_ = *ErrorFeedback::Create("g", overwritten, scale_, rotation_);
  }

  EncodeMethod method_;
  int64_t rows_, cols_;
  Rotation rotation_;
  std::vector<float> weights_;
  std::vector<double> mean_square_;
  std::vector<float> scale_;
  std::vector<float> outer_;
  std::optional<ErrorFeedback> feedback_;
};

// Everything to the last bit. `what` says of which tensor.
inline void ExpectSame(const EncodeResult& got, const EncodeResult& expected, const std::string& what) {
  EXPECT_EQ(got.norms, expected.norms) << what;
  EXPECT_EQ(got.packed, expected.packed) << what;
  ASSERT_EQ(got.outcomes.size(), expected.outcomes.size()) << what;
  for (size_t i = 0; i < got.outcomes.size(); ++i) {
    const StripOutcome &a = got.outcomes[i], &b = expected.outcomes[i];
    EXPECT_EQ(a.relative, b.relative) << what << ", strip " << i;
    EXPECT_EQ(a.worst_row, b.worst_row) << what << ", strip " << i;
    EXPECT_EQ(a.weighted, b.weighted) << what << ", strip " << i;
    EXPECT_EQ(a.weighted_energy, b.weighted_energy) << what << ", strip " << i;
    EXPECT_EQ(a.feedback_loss, b.feedback_loss) << what << ", strip " << i;
  }
}

// All codecs and rates with and without scale, rotation and feedback, some of each.
inline std::vector<EncodeMethod> EncodeMethods() {
  std::vector<EncodeMethod> methods;
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) {
    methods.push_back({{Codec::kJoint, bits}});
    methods.push_back({{Codec::kJoint, bits}, true, true});
  }
  for (int bits = 5; bits <= 11; ++bits) {
    methods.push_back({{Codec::kTrellis, bits}, false});
    methods.push_back({{Codec::kTrellis, bits}, true, true});
  }
  for (Codec codec : {Codec::kPolar, Codec::kScalar, Codec::kUniform}) {
    methods.push_back({{codec, 8}, false, false, RotationKind::kNone});
    methods.push_back({{codec, 9}, true, true, RotationKind::kBlock});
  }
  return methods;
}

}  // namespace qamserve
