// Every instruction set must give the scalar reference's bits; the reference itself is held to plain double arithmetic.
#include "core/kernels/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "core/base/rng.h"
#include "core/codec/half.h"
#include "core/codec/packing.h"
#include "tests/core/kernels/tables.h"

namespace qamserve {
namespace {

std::vector<float> Random(size_t n, uint64_t seed, double spread = 1) {
  Rng rng(seed);
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(spread * rng.NextGaussian());
  return v;
}

// A packed matrix of random codes with a table of random magnitudes, 0 and the largest among them.
struct Packed {
  std::vector<uint8_t> codes;
  std::vector<float> row_scale;
  std::vector<int32_t> table;
  PackedMatrix matrix;

  Packed(int bits, int64_t rows, int64_t cols, uint64_t seed) {
    Rng rng(seed);
    codes.resize(static_cast<size_t>(PackedBytes(rows, cols, bits)));
    for (uint8_t& b : codes) b = static_cast<uint8_t>(rng.NextU64());
    row_scale.assign(static_cast<size_t>(StripsDown(rows) * kTileRows), 0.0f);
    for (int64_t r = 0; r < rows; ++r)
      row_scale[static_cast<size_t>(r)] = static_cast<float>(0.001 + rng.NextUniform());
    const int m = bits - 2, most = bits <= 9 ? 127 : 255;
    std::vector<int> magnitudes(size_t{2} << m);
    for (int& v : magnitudes) v = static_cast<int>(rng.NextU64() % static_cast<uint64_t>(most + 1));
    magnitudes.front() = 0, magnitudes.back() = most;
    for (size_t code = 0; code < size_t{1} << bits; ++code) {
      const size_t i = code & ((size_t{1} << m) - 1);
      const int x = magnitudes[2 * i] * ((code >> m & 1) != 0 ? -1 : 1);
      const int y = magnitudes[2 * i + 1] * ((code >> (m + 1) & 1) != 0 ? -1 : 1);
      table.push_back(static_cast<int32_t>(static_cast<uint32_t>(x & 0xffff) | static_cast<uint32_t>(y) << 16));
    }
    matrix = {codes.data(), row_scale.data(), table.data(), bits, rows, cols};
  }
};

struct Activations {
  std::vector<int16_t> q;
  std::vector<float> scale;
  PackedInput input;

  Activations(const Kernels& kernels, int64_t tokens, int64_t cols, uint64_t seed) {
    const int64_t padded = PaddedCols(cols);
    const std::vector<float> x = Random(static_cast<size_t>(tokens * cols), seed);
    q.resize(static_cast<size_t>(tokens * padded));
    for (int64_t t = 0; t < tokens; ++t) {
      scale.push_back(kernels.quantize_input(x.data() + t * cols, cols, padded, q.data() + t * padded));
    }
    input = {q.data(), padded, scale.data(), tokens};
  }
};

std::vector<float> Multiply(const Kernels& kernels, const PackedMatrix& w, const PackedInput& x) {
  std::vector<float> y(static_cast<size_t>(x.tokens * w.rows), -1);
  alignas(64) char scratch[kPackedScratchBytes];
  kernels.packed_matmul({w, x, y.data(), w.rows, 0, StripsDown(w.rows), scratch});
  return y;
}

TEST(ScalarPacked, IsTheProductOfTheDecodedMatrix) {
  for (int bits = 5; bits <= 12; ++bits) {
    const int64_t rows = 37, cols = 600, tokens = 2;
    const Packed w(bits, rows, cols, 1);
    const Activations x(ScalarKernels(), tokens, cols, 2);
    const std::vector<float> y = Multiply(ScalarKernels(), w.matrix, x.input);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        double expected = 0;
        for (int64_t c = 0; c < cols; ++c) {
          const uint8_t* tile = w.codes.data() + (r / 32) * StripBytes(cols, bits) + (c / 64) * TileBytes(bits);
          const int32_t entry = w.table[UnpackCode(tile, bits, static_cast<int>(r % 32), static_cast<int>(c % 64) / 2)];
          const int value = c % 2 == 0 ? static_cast<int16_t>(entry & 0xffff) : entry >> 16;
          expected += value * static_cast<double>(x.q[static_cast<size_t>(t * x.input.stride + c)]);
        }
        expected *= static_cast<double>(w.row_scale[static_cast<size_t>(r)]) *
                    static_cast<double>(x.scale[static_cast<size_t>(t)]);
        ASSERT_NEAR(y[static_cast<size_t>(t * rows + r)], expected, 1e-5 * std::fabs(expected) + 1e-3);
      }
    }
  }
}

TEST(FastPacked, ProductsEqualTheReferenceBitForBit) {
  if (FastKernels().empty()) GTEST_SKIP() << "this CPU runs the reference only";
  for (int bits = 5; bits <= 12; ++bits) {
    for (int64_t tokens : {1, 2, 3, 4, 5, 15, 65}) {
      for (const auto& [rows, cols] :
           {std::pair<int64_t, int64_t>{32, 64}, {33, 576}, {1, 1}, {70, 1100}, {50, 17000}}) {
        if (tokens > 4 && bits != 11 && bits != 7) continue;
        if (cols > 2000 && (tokens > 3 || bits % 3 != 2)) continue;
        const Packed w(bits, rows, cols, static_cast<uint64_t>(bits * 1000 + rows));
        const Activations x(ScalarKernels(), tokens, cols, 3);
        const std::vector<float> reference = Multiply(ScalarKernels(), w.matrix, x.input);
        for (const Kernels* fast : FastKernels()) {
          ASSERT_EQ(Multiply(*fast, w.matrix, x.input), reference)
              << fast->name << ", " << bits << " bits, " << tokens << " tokens, " << rows << " x " << cols;
        }
      }
    }
  }
}

TEST(Packed, ATokenDoesNotDependOnItsBatchNorARowOnTheSplit) {
  const Kernels& kernels = BestKernels();
  const int64_t rows = 96, cols = 1536, tokens = 70;
  const Packed w(11, rows, cols, 5);
  const Activations x(kernels, tokens, cols, 6);
  const std::vector<float> all = Multiply(kernels, w.matrix, x.input);
  alignas(64) char scratch[kPackedScratchBytes];
  for (int64_t t = 0; t < tokens; t += 23) {
    const PackedInput one{x.q.data() + t * x.input.stride, x.input.stride, x.scale.data() + t, 1};
    std::vector<float> y(static_cast<size_t>(rows));
    for (int64_t strip = 0; strip < 3; ++strip) {
      kernels.packed_matmul({w.matrix, one, y.data(), rows, strip, strip + 1, scratch});
    }
    EXPECT_EQ(y, std::vector<float>(all.begin() + t * rows, all.begin() + (t + 1) * rows)) << t;
  }
}

TEST(Packed, TheLargestValuesDoNotOverflow) {
  for (int bits : {9, 11}) {
    const int most = bits == 9 ? 127 : 255;
    for (bool negative : {false, true}) {
      Packed w(bits, 32, 4096, 1);
      for (uint8_t& b : w.codes) b = negative ? 255 : 0;
      const int sign = negative ? -1 : 1;
      const auto entry = static_cast<uint32_t>(sign * most);
      w.table[negative ? w.table.size() - 1 : 0] = static_cast<int32_t>((entry & 0xffff) | entry << 16);
      // Kernels may read the magnitudes only.
      w.table[(w.table.size() / 4 - 1) * static_cast<size_t>(negative)] = most | most << 16;
      std::vector<int16_t> q(4096, static_cast<int16_t>(kMaxActivation));
      const float scale = 1;
      const PackedInput x{q.data(), 4096, &scale, 1};
      const float expected = static_cast<float>(sign * most) * kMaxActivation * 4096;
      for (const Kernels* kernels : AllKernels()) {
        const std::vector<float> y = Multiply(*kernels, w.matrix, x);
        for (size_t r = 0; r < y.size(); ++r) EXPECT_NEAR(y[r] / (expected * w.row_scale[r]), 1, 1e-6) << kernels->name;
      }
    }
  }
}

std::vector<float> Dense(const Kernels& kernels, const std::vector<float>& x, const DenseRows& w, int64_t tokens,
                         int64_t outs, int64_t k) {
  std::vector<float> y(static_cast<size_t>(tokens * outs), -1);
  kernels.dense_matmul({x.data(), k, w, y.data(), outs, tokens, outs, k});
  return y;
}

TEST(Dense, ReferenceIsRightAndTheOthersEqualIt) {
  for (DenseType type : {DenseType::kF32, DenseType::kF16, DenseType::kBF16}) {
    for (int64_t tokens : {1, 2, 3, 4, 9, 50}) {
      for (const auto& [outs, k] : {std::pair<int64_t, int64_t>{1, 8}, {7, 64}, {33, 576}}) {
        const std::vector<float> x = Random(static_cast<size_t>(tokens * k), 1);
        std::vector<float> w = Random(static_cast<size_t>(outs * k), 2);
        std::vector<uint16_t> narrow;
        for (float& v : w) {
          if (type == DenseType::kF32) break;
          narrow.push_back(type == DenseType::kF16 ? FloatToHalf(v)
                                                   : static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16));
          v = type == DenseType::kF16 ? HalfToFloat(narrow.back()) : BFloat16ToFloat(narrow.back());
        }
        const DenseRows rows{type == DenseType::kF32 ? static_cast<const void*>(w.data()) : narrow.data(), type, k};
        const std::vector<float> reference = Dense(ScalarKernels(), x, rows, tokens, outs, k);
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t o = 0; o < outs; ++o) {
            double expected = 0;
            for (int64_t i = 0; i < k; ++i) {
              expected += static_cast<double>(x[static_cast<size_t>(t * k + i)]) *
                          static_cast<double>(w[static_cast<size_t>(o * k + i)]);
            }
            ASSERT_NEAR(reference[static_cast<size_t>(t * outs + o)], expected, 1e-6 * static_cast<double>(k) + 1e-5);
          }
        }
        for (const Kernels* fast : FastKernels()) {
          ASSERT_EQ(Dense(*fast, x, rows, tokens, outs, k), reference)
              << fast->name << ", " << tokens << " tokens, " << outs << " x " << k;
        }
      }
    }
  }
}

TEST(Activations, QuantizeWithinHalfAStepAndPadWithZeros) {
  const std::vector<float> x = Random(577, 9, 3);
  std::vector<int16_t> q(640, 7);
  const float scale = BestKernels().quantize_input(x.data(), 577, 640, q.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_NEAR(static_cast<float>(q[i]) * scale, x[i], 0.5f * scale * 1.001f);
    ASSERT_LE(std::abs(q[i]), kMaxActivation);
  }
  for (size_t i = 577; i < 640; ++i) EXPECT_EQ(q[i], 0);
  const std::vector<float> zeros(64, 0.0f);
  EXPECT_EQ(BestKernels().quantize_input(zeros.data(), 64, 64, q.data()), 0.0f);
  EXPECT_EQ(q[63], 0);
}

TEST(Activations, AreTheSameWithEveryInstructionSet) {
  for (const int64_t n : {1, 7, 8, 31, 64, 577, 1536}) {
    std::vector<float> x = Random(static_cast<size_t>(n), static_cast<uint64_t>(n), 3);
    // Halves of a step, which go to the nearest even.
    x[0] = static_cast<float>(kMaxActivation);
    for (size_t i = 1; i < x.size(); i += 2) x[i] = std::floor(x[i] * 100) + 0.5f;
    const int64_t padded = (n + 127) / 128 * 128;
    std::vector<int16_t> expected(static_cast<size_t>(padded), 7);
    const float scale = ScalarKernels().quantize_input(x.data(), n, padded, expected.data());
    EXPECT_EQ(scale, 1.0f);
    for (const Kernels* fast : FastKernels()) {
      std::vector<int16_t> q(static_cast<size_t>(padded), 7);
      EXPECT_EQ(fast->quantize_input(x.data(), n, padded, q.data()), scale) << fast->name << " " << n;
      EXPECT_EQ(q, expected) << fast->name << " " << n;
    }
  }
}

// Every number of 16 bits, from an odd place and in odd amounts, too.
TEST(ToFloat, IsTheSameWithEveryInstructionSet) {
  std::vector<uint16_t> all(1 << 16);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  for (const DenseType type : {DenseType::kF16, DenseType::kBF16}) {
    for (const auto& [first, n] : {std::pair<size_t, size_t>{0, 1 << 16}, {1, 37}, {3, 8}, {0, 0}}) {
      std::vector<float> expected(n, -7.0f);
      ScalarKernels().to_float(all.data() + first, type, static_cast<int64_t>(n), expected.data());
      for (const Kernels* fast : FastKernels()) {
        std::vector<float> out(n + 1, -7.0f);
        fast->to_float(all.data() + first, type, static_cast<int64_t>(n), out.data());
        EXPECT_EQ(out[n], -7.0f) << fast->name << ": wrote too far";
        for (size_t i = 0; i < n; ++i) {
          if (std::isnan(expected[i])) {
            ASSERT_TRUE(std::isnan(out[i])) << fast->name << " " << i;
          } else {
            ASSERT_EQ(std::memcmp(&out[i], &expected[i], sizeof(float)), 0) << fast->name << " " << i;
          }
        }
      }
    }
  }
  for (int i = 0; i < 1 << 16; i += 77) {
    float out = 0;
    ScalarKernels().to_float(&all[static_cast<size_t>(i)], DenseType::kF16, 1, &out);
    if (std::isnan(out)) continue;
    EXPECT_EQ(out, HalfToFloat(static_cast<uint16_t>(i)));
  }
}

TEST(Softmax, MatchesLibmAndIgnoresMaskedScores) {
  std::vector<float> s = Random(64, 3, 8);
  for (size_t i = 40; i < 64; ++i) s[i] = -std::numeric_limits<float>::infinity();
  std::vector<double> expected(64);
  double sum = 0;
  const float top = *std::max_element(s.begin(), s.end());
  for (size_t i = 0; i < 40; ++i) sum += expected[i] = std::exp(static_cast<double>(s[i]) - static_cast<double>(top));
  std::vector<float> reference = s;
  ScalarKernels().softmax(reference.data(), 64);
  for (const Kernels* kernels : AllKernels()) {
    std::vector<float> p = s;
    kernels->softmax(p.data(), 64);
    for (size_t i = 0; i < 64; ++i) ASSERT_NEAR(p[i], expected[i] / sum, 2e-7) << kernels->name;
    for (size_t i = 40; i < 64; ++i) ASSERT_EQ(p[i], 0.0f);
    ASSERT_EQ(p, reference) << kernels->name;
  }
}

TEST(Elementwise, ReferenceMatchesLibmAndTheOthersEqualIt) {
  const Kernels& scalar = ScalarKernels();
  std::vector<float> gate = Random(256, 1, 10);
  gate[0] = 0, gate[1] = 100, gate[2] = -100, gate[3] = -1e30f;
  const std::vector<float> up = Random(256, 2);
  for (bool gelu : {false, true}) {
    std::vector<float> a = gate;
    (gelu ? scalar.gelu_mul : scalar.silu_mul)(a.data(), up.data(), 256);
    for (const Kernels* fast : FastKernels()) {
      std::vector<float> b = gate;
      (gelu ? fast->gelu_mul : fast->silu_mul)(b.data(), up.data(), 256);
      ASSERT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << fast->name;
    }
    for (size_t i = 4; i < gate.size(); ++i) {
      const double g = gate[i];
      const double u = gelu ? 2 * std::sqrt(2 / 3.14159265358979) * (g + 0.044715 * g * g * g) : g;
      ASSERT_NEAR(a[i], g / (1 + std::exp(-u)) * static_cast<double>(up[i]), 2e-6 * (1 + std::fabs(g)));
    }
    for (float v : a) ASSERT_TRUE(std::isfinite(v));
  }
  std::vector<float> a(256);
  scalar.rms_norm(gate.data() + 8, up.data(), 1e-5f, 248, a.data());
  for (const Kernels* fast : FastKernels()) {
    std::vector<float> b(256);
    fast->rms_norm(gate.data() + 8, up.data(), 1e-5f, 248, b.data());
    EXPECT_EQ(a, b) << fast->name;
  }
  double squares = 0;
  for (size_t i = 8; i < 256; ++i) squares += static_cast<double>(gate[i]) * static_cast<double>(gate[i]);
  EXPECT_NEAR(a[5], static_cast<double>(gate[13]) / std::sqrt(squares / 248 + 1e-5) * static_cast<double>(up[5]), 1e-5);
}

TEST(Dispatch, NamesWhatRuns) {
  EXPECT_EQ(KernelsByName("scalar"), &ScalarKernels());
  EXPECT_EQ(KernelsByName("avx2"), Avx2Kernels());
  EXPECT_EQ(KernelsByName("avx512"), Avx512Kernels());
  EXPECT_EQ(KernelsByName("amx"), AmxKernels());
  for (const Kernels* kernels : AllKernels()) EXPECT_EQ(KernelsByName(kernels->name), kernels);
  EXPECT_EQ(&BestKernels(), AllKernels().back());
  EXPECT_EQ(KernelsByName("riscv"), nullptr);
  for (const Kernels* kernels : AllKernels()) EXPECT_NE(KernelNames().find(kernels->name), std::string::npos);
}

TEST(Dispatch, CanBeTold) {
  for (const Kernels* kernels : AllKernels()) {
    setenv(kKernelsVariable, std::string(kernels->name).c_str(), 1);
    EXPECT_EQ(&BestKernels(), kernels);
  }
  unsetenv(kKernelsVariable);
}

TEST(DispatchDeathTest, EndsWhereItIsToldWhatIsNotHere) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto use = [] {
    setenv(kKernelsVariable, "riscv", 1);
    BestKernels();
  };
  EXPECT_EXIT(use(), testing::ExitedWithCode(EXIT_FAILURE), "riscv.*this machine runs scalar");
}

}  // namespace
}  // namespace qamserve
