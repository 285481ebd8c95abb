// The trellis code: kernels and search against the definition in core/codec/trellis.h.
#include "core/codec/trellis.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/base/rng.h"
#include "core/kernels/trellis_search.h"
#include "tests/core/kernels/tables.h"

namespace qamserve {
namespace {

std::vector<uint8_t> RandomCodes(int64_t rows, int64_t cols, int bits) {
  Rng rng(static_cast<uint64_t>(bits));
  std::vector<uint8_t> codes(static_cast<size_t>(PackedBytes(rows, cols, bits)));
  for (uint8_t& byte : codes) byte = static_cast<uint8_t>(rng.NextU64());
  return codes;
}

std::vector<float> Multiply(const Kernels& kernels, const PackedMatrix& w, const PackedInput& x) {
  std::vector<float> y(static_cast<size_t>(x.tokens * w.rows), -1);
  alignas(64) char scratch[kPackedScratchBytes];
  kernels.packed_matmul({w, x, y.data(), w.rows, 0, StripsDown(w.rows), scratch});
  return y;
}

TEST(TrellisState, IsTheLastSixteenBitsAboveARowAroundTheRing) {
  for (int bits = kMinTrellisPairBits; bits <= kMaxTrellisPairBits; ++bits) {
    const std::vector<uint8_t> tile = RandomCodes(32, 64, bits);
    for (int c : {0, 5, 31}) {
      uint32_t state = 0;
      // Twice around: after the first time the state no longer depends on where it began.
      for (int r = 0; r < 64; ++r) {
        state = NextTrellisState(state, UnpackCode(tile.data(), bits, r % 32, c), bits);
        if (r < 32) continue;
        EXPECT_EQ(TrellisState(tile.data(), bits, r % 32, c), state) << bits << " bits, row " << r % 32;
      }
    }
  }
}

TEST(TrellisValue, IsCloseToAGaussianAndWithinItsLimit) {
  for (int column : {0, 1}) {
    double sum = 0, squares = 0, fourth = 0;
    for (uint32_t state = 0; state < 65536; ++state) {
      const double v = TrellisValue(state, column);
      ASSERT_LE(std::fabs(v), kTrellisMaxValue);
      sum += v;
      squares += v * v;
      fourth += v * v * v * v;
    }
    const double variance = squares / 65536;
    EXPECT_NEAR(sum / 65536, 0, 1);
    EXPECT_NEAR(std::sqrt(variance), 148, 3) << "four bytes";
    EXPECT_NEAR(fourth / 65536 / variance / variance, 2.7, 0.1) << "3 - 6/5 / 4 for four uniform variables";
  }
}

TEST(TrellisValue, IsThatOfTheWorkedExample) {
  std::vector<uint8_t> tile(static_cast<size_t>(TileBytes(8)));
  PackCode(tile.data(), 8, 31, 0, 0x12);
  PackCode(tile.data(), 8, 0, 0, 0x34);
  EXPECT_EQ(TrellisState(tile.data(), 8, 0, 0), 0x1234u);
  EXPECT_EQ(TrellisValue(0x1234, 0), -98);
  EXPECT_EQ(TrellisValue(0x1234, 1), -80);
}

TEST(TrellisMatmul, EveryInstructionSetMultipliesTheDecodedMatrix) {
  const int64_t rows = 70, cols = 1100, padded = PaddedCols(cols);
  Rng rng(1);
  for (int bits = kMinTrellisPairBits; bits <= kMaxTrellisPairBits; ++bits) {
    const std::vector<uint8_t> codes = RandomCodes(rows, cols, bits);
    std::vector<float> row_scale(static_cast<size_t>(StripsDown(rows) * kTileRows), 0.0f);
    for (int64_t r = 0; r < rows; ++r)
      row_scale[static_cast<size_t>(r)] = static_cast<float>(0.001 + rng.NextUniform());
    const PackedMatrix w{codes.data(), row_scale.data(), nullptr, bits, rows, cols};
    for (int64_t tokens : {1, 2, 3, 17, 65}) {
      std::vector<int16_t> q(static_cast<size_t>(tokens * padded), 0);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t c = 0; c < cols; ++c) {
          q[static_cast<size_t>(t * padded + c)] =
              static_cast<int16_t>(static_cast<int>(rng.NextU64() % (2 * kMaxActivation + 1)) - kMaxActivation);
        }
      }
      const std::vector<float> scale(static_cast<size_t>(tokens), 0.5f);
      const PackedInput x{q.data(), padded, scale.data(), tokens};
      const std::vector<float> y = Multiply(ScalarKernels(), w, x);
      const int64_t row = 69, strip = row / kTileRows;
      double expected = 0;
      for (int64_t c = 0; c < cols; ++c) {
        const uint8_t* tile = codes.data() + strip * StripBytes(cols, bits) + c / kTileCols * TileBytes(bits);
        const uint32_t state =
            TrellisState(tile, bits, static_cast<int>(row % kTileRows), static_cast<int>(c % kTileCols) / 2);
        expected += TrellisValue(state, static_cast<int>(c % 2)) *
                    static_cast<double>(q[static_cast<size_t>((tokens - 1) * padded + c)]);
      }
      expected *= 0.5 * static_cast<double>(row_scale[static_cast<size_t>(row)]);
      EXPECT_NEAR(y[static_cast<size_t>((tokens - 1) * rows + row)], expected, 1e-5 * std::fabs(expected) + 1);
      for (const Kernels* fast : FastKernels()) {
        ASSERT_EQ(Multiply(*fast, w, x), y) << fast->name << ", " << bits << " bits, " << tokens << " tokens";
      }
    }
  }
}

TEST(TrellisMatmul, TheLargestValuesDoNotOverflow) {
  // The state of the largest value, in every row: codes that are all the same repeat one state.
  const int bits = 8;
  uint32_t best = 0;
  for (uint32_t code = 0; code < 256; ++code) {
    if (TrellisValue(code * 257, 0) > TrellisValue(best * 257, 0)) best = code;
  }
  const int value[2] = {TrellisValue(best * 257, 0), TrellisValue(best * 257, 1)};
  std::vector<uint8_t> codes(static_cast<size_t>(PackedBytes(32, 4096, bits)), static_cast<uint8_t>(best));
  std::vector<int16_t> q(4096);
  for (size_t c = 0; c < q.size(); ++c)
    q[c] = static_cast<int16_t>(value[c % 2] < 0 ? -kMaxActivation : kMaxActivation);
  const std::vector<float> row_scale(32, 1.0f);
  const float scale = 1;
  const double expected = 2048.0 * kMaxActivation * (std::abs(value[0]) + std::abs(value[1]));
  for (const Kernels* kernels : AllKernels()) {
    for (float y : Multiply(*kernels, {codes.data(), row_scale.data(), nullptr, bits, 32, 4096},
                            {q.data(), 4096, &scale, 1})) {
      EXPECT_NEAR(static_cast<double>(y) / expected, 1, 1e-6) << kernels->name;
    }
  }
}

// Mean squared error a weight over `strips` rings of a unit Gaussian; codes go to `all`.
double GaussianError(const Kernels& kernels, int bits, int strips, std::vector<uint16_t>* all) {
  const TrellisTable table(bits);
  TrellisSearch search(table, kernels);
  Rng rng(7);
  double error = 0;
  for (int s = 0; s < strips; ++s) {
    float target[2][kTileRows];
    uint16_t codes[kTileRows];
    for (auto& column : target) {
      for (float& v : column) v = static_cast<float>(rng.NextGaussian()) / TrellisStep(bits);
    }
    search.Encode(target[0], target[1], codes);
    std::vector<uint8_t> tile(static_cast<size_t>(TileBytes(bits)));
    for (int r = 0; r < kTileRows; ++r) PackCode(tile.data(), bits, r, 0, codes[r]);
    for (int r = 0; r < kTileRows; ++r) {
      const uint32_t state = TrellisState(tile.data(), bits, r, 0);
      for (int column : {0, 1}) {
        const double d = static_cast<double>(TrellisStep(bits)) *
                         (TrellisValue(state, column) - static_cast<double>(target[column][r]));
        error += d * d;
      }
    }
    if (all != nullptr) all->insert(all->end(), codes, codes + kTileRows);
  }
  return error / (2.0 * kTileRows * strips);
}

TEST(TrellisSearch, ReachesTheTabulatedErrorOnAGaussian) {
  for (int bits = kMinTrellisPairBits; bits <= kMaxTrellisPairBits; ++bits) {
    const double measured = GaussianError(BestKernels(), bits, 60, nullptr);
    EXPECT_NEAR(measured / TrellisGaussianMse(bits), 1, 0.06) << bits << " bits: " << measured;
    // Far below what a codebook of the same rate can do (2.4 to 3.2 dB above this bound), never below the bound.
    EXPECT_GT(measured, std::exp2(-bits)) << bits;
    EXPECT_LT(measured, 1.5 * std::exp2(-bits)) << bits;
  }
}

TEST(TrellisSearch, EveryInstructionSetFindsTheSameCodes) {
  if (FastKernels().empty()) GTEST_SKIP() << "this CPU runs the reference only";
  for (int bits = kMinTrellisPairBits; bits <= kMaxTrellisPairBits; ++bits) {
    std::vector<uint16_t> reference;
    GaussianError(ScalarKernels(), bits, 2, &reference);
    for (const Kernels* kernels : FastKernels()) {
      std::vector<uint16_t> fast;
      GaussianError(*kernels, bits, 2, &fast);
      EXPECT_EQ(fast, reference) << kernels->name << ", " << bits << " bits";
    }
  }
}

TEST(TrellisSearch, TakesTargetsFarOutside) {
  const TrellisTable table(8);
  TrellisSearch search(table, BestKernels());
  float x[kTileRows], y[kTileRows];
  uint16_t codes[kTileRows];
  for (int r = 0; r < kTileRows; ++r) x[r] = r % 2 == 0 ? 1e30f : -1e30f, y[r] = 0;
  search.Encode(x, y, codes);
  for (uint16_t code : codes) EXPECT_LT(code, 256);
}

}  // namespace
}  // namespace qamserve
