// 8-bit products: the reference against double arithmetic, every instruction set against the reference bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/rng.h"
#include "core/codec/int8_packing.h"
#include "core/kernels/kernels.h"
#include "tests/core/kernels/tables.h"

namespace qamserve {
namespace {

struct Weights {
  std::vector<int8_t> data;
  std::vector<float> row_scale;
  Int8Matrix matrix;

  // Random bytes, with -128, 0 and 127 more often than chance.
  Weights(int64_t rows, int64_t cols, uint64_t seed) : data(static_cast<size_t>(Int8Bytes(rows, cols)), 0) {
    Rng rng(seed);
    row_scale.assign(static_cast<size_t>(StripsDown(rows) * kTileRows), 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      row_scale[static_cast<size_t>(r)] = static_cast<float>(0.001 + rng.NextUniform());
      for (int64_t c = 0; c < cols; ++c) {
        const uint64_t pick = rng.NextU64() % 64;
        const int value = pick == 0   ? -128
                          : pick == 1 ? 127
                          : pick == 2 ? 0
                                      : static_cast<int>(rng.NextU64() % 255) - 127;
        data[static_cast<size_t>(Int8Offset(cols, r, c))] = static_cast<int8_t>(value);
      }
    }
    matrix = {data.data(), row_scale.data(), rows, cols};
  }
  Weights(const Weights&) = delete;
};

struct Activations {
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scale;
  Int8Input input;

  Activations(const Kernels& kernels, int64_t tokens, int64_t cols, uint64_t seed) {
    Rng rng(seed);
    for (int64_t i = 0; i < tokens * cols; ++i) x.push_back(static_cast<float>(rng.NextGaussian()));
    const int64_t padded = PaddedCols(cols);
    q.assign(static_cast<size_t>(tokens * padded), 99);
    for (int64_t t = 0; t < tokens; ++t) {
      scale.push_back(kernels.quantize_input8(x.data() + t * cols, cols, padded, q.data() + t * padded));
    }
    input = {q.data(), padded, scale.data(), tokens};
  }
  Activations(const Activations&) = delete;
};

std::vector<float> Multiply(const Kernels& kernels, const Int8Matrix& w, const Int8Input& x) {
  // One more a token than rows: nothing may be written there.
  std::vector<float> y(static_cast<size_t>(x.tokens * (w.rows + 1)), -1);
  kernels.int8_matmul({w, x, y.data(), w.rows + 1, 0, StripsDown(w.rows)});
  return y;
}

TEST(Int8Packing, EveryWeightHasItsPlace) {
  const int64_t rows = 33, cols = 70;
  EXPECT_EQ(Int8Bytes(rows, cols), 64 * 128);
  EXPECT_EQ(Int8Offset(cols, 0, 5), 128 + 1);
  EXPECT_EQ(Int8Offset(cols, 3, 2), 14);
  EXPECT_EQ(Int8Offset(cols, 32, 0), 32 * 128);
  std::vector<int> seen(static_cast<size_t>(Int8Bytes(rows, cols)), 0);
  for (int64_t r = 0; r < 64; ++r) {
    for (int64_t c = 0; c < 128; ++c) ++seen[static_cast<size_t>(Int8Offset(cols, r, c))];
  }
  EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
}

// Sums are exact; what rounds is the sum's conversion and two products with scales, each by 2^-24 at most.
TEST(ScalarInt8, IsTheProductToThreeRoundings) {
  for (int64_t cols : {1, 3, 64, 100, 1100}) {
    const int64_t rows = 37, tokens = 2;
    const Weights w(rows, cols, 1);
    const Activations x(ScalarKernels(), tokens, cols, 2);
    const std::vector<float> y = Multiply(ScalarKernels(), w.matrix, x.input);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        double expected = 0;
        for (int64_t c = 0; c < cols; ++c) {
          expected += w.data[static_cast<size_t>(Int8Offset(cols, r, c))] *
                      static_cast<double>(x.q[static_cast<size_t>(t * x.input.stride + c)]);
        }
        expected *= static_cast<double>(w.row_scale[static_cast<size_t>(r)]) *
                    static_cast<double>(x.scale[static_cast<size_t>(t)]);
        ASSERT_NEAR(y[static_cast<size_t>(t * (rows + 1) + r)], expected, 3.001 * 0x1p-24 * std::fabs(expected));
      }
      ASSERT_EQ(y[static_cast<size_t>(t * (rows + 1) + rows)], -1);
    }
  }
}

TEST(FastInt8, ProductsEqualTheReferenceBitForBit) {
  if (FastKernels().empty()) GTEST_SKIP() << "this CPU runs the reference only";
  const int64_t ragged[] = {1, 2, 3, 8, 16, 17, 31, 32, 33};
  for (int64_t rows : ragged) {
    for (int64_t cols : {1, 2, 3, 8, 16, 17, 31, 32, 33, 63, 64, 65, 576}) {
      const Weights w(rows, cols, static_cast<uint64_t>(1000 * rows + cols));
      const Activations x(ScalarKernels(), 33, cols, 3);
      for (int64_t tokens : ragged) {
        Int8Input some = x.input;
        some.tokens = tokens;
        const std::vector<float> reference = Multiply(ScalarKernels(), w.matrix, some);
        for (const Kernels* fast : FastKernels()) {
          ASSERT_EQ(Multiply(*fast, w.matrix, some), reference)
              << fast->name << ", " << rows << " x " << cols << ", " << tokens << " tokens";
        }
      }
    }
  }
}

TEST(Int8, ATokenDoesNotDependOnItsBatchNorARowOnTheSplit) {
  const Kernels& kernels = BestKernels();
  const int64_t rows = 96, cols = 1536, tokens = 11;
  const Weights w(rows, cols, 5);
  const Activations x(kernels, tokens, cols, 6);
  std::vector<float> all(static_cast<size_t>(tokens * rows));
  kernels.int8_matmul({w.matrix, x.input, all.data(), rows, 0, 3});
  for (int64_t t = 0; t < tokens; ++t) {
    const Int8Input one{x.q.data() + t * x.input.stride, x.input.stride, x.scale.data() + t, 1};
    std::vector<float> y(static_cast<size_t>(rows));
    for (int64_t strip = 0; strip < 3; ++strip) kernels.int8_matmul({w.matrix, one, y.data(), rows, strip, strip + 1});
    EXPECT_EQ(y, std::vector<float>(all.begin() + t * rows, all.begin() + (t + 1) * rows)) << t;
  }
}

// More columns than a block has, all at their largest.
TEST(Int8, TheLargestValuesNeitherOverflowNorSaturate) {
  const int64_t cols = kInt8BlockCols + 64;
  for (int weight : {-128, -127, 127}) {
    const std::vector<int8_t> data(static_cast<size_t>(Int8Bytes(1, cols)), static_cast<int8_t>(weight));
    const std::vector<float> row_scale(32, 1.0f);
    for (int activation : {-127, 127}) {
      const std::vector<int8_t> q(static_cast<size_t>(cols), static_cast<int8_t>(activation));
      const float scale = 1;
      const float expected = static_cast<float>(weight * activation * static_cast<int32_t>(kInt8BlockCols)) +
                             static_cast<float>(weight * activation * 64);
      for (const Kernels* kernels : AllKernels()) {
        float y = 0;
        kernels->int8_matmul({{data.data(), row_scale.data(), 1, cols}, {q.data(), cols, &scale, 1}, &y, 1, 0, 1});
        EXPECT_EQ(y, expected) << kernels->name << " " << weight << " " << activation;
      }
    }
  }
}

// 8-bit weights with 14-bit activations.
struct WideActivations {
  std::vector<float> x;
  std::vector<int16_t> q;
  std::vector<float> scale;
  PackedInput input;

  WideActivations(const Kernels& kernels, int64_t tokens, int64_t cols, uint64_t seed) {
    Rng rng(seed);
    for (int64_t i = 0; i < tokens * cols; ++i) x.push_back(static_cast<float>(rng.NextGaussian()));
    const int64_t padded = PaddedCols(cols);
    q.assign(static_cast<size_t>(tokens * padded), 99);
    for (int64_t t = 0; t < tokens; ++t) {
      scale.push_back(kernels.quantize_input(x.data() + t * cols, cols, padded, q.data() + t * padded));
    }
    input = {q.data(), padded, scale.data(), tokens};
  }
  WideActivations(const WideActivations&) = delete;
};

std::vector<float> Multiply(const Kernels& kernels, const Int8Matrix& w, const PackedInput& x) {
  std::vector<float> y(static_cast<size_t>(x.tokens * (w.rows + 1)), -1);
  kernels.int8_wide_matmul({w, x, y.data(), w.rows + 1, 0, StripsDown(w.rows)});
  return y;
}

// Rounding an activation costs half its scale for each unit of weight; the rest is a conversion a block of columns, a
// sum and two products, each by 2^-24 of what it rounds.
TEST(ScalarInt8Wide, IsTheFloatProductButForTheActivationsRounding) {
  for (int64_t cols : {1, 3, 64, 100, 576, 2049, 5000}) {
    const int64_t rows = 37, tokens = 2;
    const Weights w(rows, cols, 1);
    const WideActivations x(ScalarKernels(), tokens, cols, 2);
    const std::vector<float> y = Multiply(ScalarKernels(), w.matrix, x.input);
    for (int64_t t = 0; t < tokens; ++t) {
      const double x_scale = static_cast<double>(x.scale[static_cast<size_t>(t)]);
      for (int64_t r = 0; r < rows; ++r) {
        const double row_scale = static_cast<double>(w.row_scale[static_cast<size_t>(r)]);
        double exact = 0, rounded = 0, magnitude = 0;
        for (int64_t c = 0; c < cols; ++c) {
          const double weight = row_scale * w.data[static_cast<size_t>(Int8Offset(cols, r, c))];
          exact += weight * static_cast<double>(x.x[static_cast<size_t>(t * cols + c)]);
          rounded += weight * x_scale * x.q[static_cast<size_t>(t * x.input.stride + c)];
          magnitude += std::fabs(weight);
        }
        const double actual = static_cast<double>(y[static_cast<size_t>(t * (rows + 1) + r)]);
        ASSERT_NEAR(actual, rounded, 0x1p-22 * magnitude * x_scale * kMaxActivation) << cols;
        ASSERT_NEAR(actual, exact, 0.501 * x_scale * magnitude) << cols;
      }
      ASSERT_EQ(y[static_cast<size_t>(t * (rows + 1) + rows)], -1);
    }
  }
}

TEST(FastInt8Wide, ProductsEqualTheReferenceBitForBit) {
  if (FastKernels().empty()) GTEST_SKIP() << "this CPU runs the reference only";
  const int64_t ragged[] = {1, 2, 3, 8, 17, 31, 32, 33};
  for (int64_t rows : ragged) {
    for (int64_t cols : {1, 2, 3, 8, 16, 17, 31, 32, 33, 63, 64, 65, 576, 2047, 2048, 2049, 4200}) {
      if (cols > 576 && rows != 1 && rows != 33) continue;
      const Weights w(rows, cols, static_cast<uint64_t>(1000 * rows + cols));
      const WideActivations x(ScalarKernels(), 33, cols, 3);
      for (int64_t tokens : ragged) {
        PackedInput some = x.input;
        some.tokens = tokens;
        const std::vector<float> reference = Multiply(ScalarKernels(), w.matrix, some);
        for (const Kernels* fast : FastKernels()) {
          ASSERT_EQ(Multiply(*fast, w.matrix, some), reference)
              << fast->name << ", " << rows << " x " << cols << ", " << tokens << " tokens";
        }
      }
    }
  }
}

TEST(Int8Wide, ATokenDoesNotDependOnItsBatchNorARowOnTheSplit) {
  const Kernels& kernels = BestKernels();
  const int64_t rows = 96, cols = 2500, tokens = 7;
  const Weights w(rows, cols, 5);
  const WideActivations x(kernels, tokens, cols, 6);
  std::vector<float> all(static_cast<size_t>(tokens * rows));
  kernels.int8_wide_matmul({w.matrix, x.input, all.data(), rows, 0, 3});
  for (int64_t t = 0; t < tokens; ++t) {
    const PackedInput one{x.q.data() + t * x.input.stride, x.input.stride, x.scale.data() + t, 1};
    std::vector<float> y(static_cast<size_t>(rows));
    for (int64_t strip = 0; strip < 3; ++strip) {
      kernels.int8_wide_matmul({w.matrix, one, y.data(), rows, strip, strip + 1});
    }
    EXPECT_EQ(y, std::vector<float>(all.begin() + t * rows, all.begin() + (t + 1) * rows)) << t;
  }
}

// Two whole blocks and more, all at their largest.
TEST(Int8Wide, TheLargestValuesDoNotOverflow) {
  const int64_t cols = 2 * kInt8WideBlockCols + 64;
  for (int weight : {-128, -127, 127}) {
    const std::vector<int8_t> data(static_cast<size_t>(Int8Bytes(1, cols)), static_cast<int8_t>(weight));
    const std::vector<float> row_scale(32, 1.0f);
    for (int activation : {-kMaxActivation, kMaxActivation}) {
      const std::vector<int16_t> q(static_cast<size_t>(cols), static_cast<int16_t>(activation));
      const float scale = 1;
      const auto block = static_cast<float>(int64_t{weight} * activation * kInt8WideBlockCols);
      const float expected = block + block + static_cast<float>(weight * activation * 64);
      for (const Kernels* kernels : AllKernels()) {
        float y = 0;
        kernels->int8_wide_matmul({{data.data(), row_scale.data(), 1, cols}, {q.data(), cols, &scale, 1}, &y, 1, 0, 1});
        EXPECT_EQ(y, expected) << kernels->name << " " << weight << " " << activation;
      }
    }
  }
}

TEST(Activations8, QuantizeWithinHalfAStepAndPadWithZeros) {
  for (int64_t cols : {1, 7, 8, 9, 63, 64, 577}) {
    const Activations x(ScalarKernels(), 2, cols, 9);
    for (const Kernels* kernels : FastKernels()) {
      const Activations fast(*kernels, 2, cols, 9);
      ASSERT_EQ(fast.q, x.q) << kernels->name;
      ASSERT_EQ(fast.scale, x.scale) << kernels->name;
    }
    const int64_t padded = PaddedCols(cols);
    for (int64_t t = 0; t < 2; ++t) {
      const float scale = x.scale[static_cast<size_t>(t)];
      float largest = 0;
      for (int64_t c = 0; c < cols; ++c) {
        const auto q = static_cast<float>(x.q[static_cast<size_t>(t * padded + c)]);
        ASSERT_NEAR(q * scale, x.x[static_cast<size_t>(t * cols + c)], 0.5f * scale * 1.001f);
        largest = std::max(largest, std::fabs(q));
      }
      EXPECT_EQ(largest, kMaxActivation8);
      for (int64_t c = cols; c < padded; ++c) EXPECT_EQ(x.q[static_cast<size_t>(t * padded + c)], 0);
    }
  }
}

TEST(Activations8, RoundsToEvenAndLeavesAZeroRowZero) {
  const std::vector<float> x = {127, 0.5f, 1.5f, -0.5f, -2.5f, 126.4f, -126.6f, 0};
  for (const Kernels* kernels : AllKernels()) {
    std::vector<int8_t> q(64, 1);
    EXPECT_EQ(kernels->quantize_input8(x.data(), 8, 64, q.data()), 1.0f);
    EXPECT_EQ(std::vector<int8_t>(q.begin(), q.begin() + 9), (std::vector<int8_t>{127, 0, 2, 0, -2, 126, -127, 0, 0}));
    const std::vector<float> zeros(64, 0.0f);
    EXPECT_EQ(kernels->quantize_input8(zeros.data(), 64, 64, q.data()), 0.0f);
    EXPECT_EQ(q, std::vector<int8_t>(64, 0));
  }
}

}  // namespace
}  // namespace qamserve
