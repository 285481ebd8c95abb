// Makes the constants of core/codec/trellis.cc: for each rate, the step with the least mean squared error on a unit
// Gaussian source, and that error. usage: measure_trellis [RINGS]
#include <fmt/core.h>

#include <chrono>
#include <cstdlib>

#include "core/base/rng.h"
#include "core/kernels/trellis_search.h"

namespace qamserve {
namespace {

double MeanSquaredError(TrellisSearch& search, int bits, double step, int rings) {
  Rng rng(1);
  double error = 0;
  for (int i = 0; i < rings; ++i) {
    float x[kTileRows], y[kTileRows];
    uint16_t codes[kTileRows];
    for (int r = 0; r < kTileRows; ++r) {
      x[r] = static_cast<float>(rng.NextGaussian() / step);
      y[r] = static_cast<float>(rng.NextGaussian() / step);
    }
    search.Encode(x, y, codes);
    uint32_t state = 0;
    for (int r = -kTrellisStateBits; r < kTileRows; ++r) {
      state = NextTrellisState(state, codes[(r + kTileRows) % kTileRows], bits);
      if (r < 0) continue;
      const double dx = step * (TrellisValue(state, 0) - static_cast<double>(x[r]));
      const double dy = step * (TrellisValue(state, 1) - static_cast<double>(y[r]));
      error += dx * dx + dy * dy;
    }
  }
  return error / (2.0 * kTileRows * rings);
}

void MeasureRate(int bits, int rings) {
  const TrellisTable table(bits);
  TrellisSearch search(table, BestKernels());
  double best_step = 0, best = 1;
  const auto start = std::chrono::steady_clock::now();
  for (double step = 0.0068; step < 0.0088; step += 0.0001) {
    const double error = MeanSquaredError(search, bits, step, rings);
    if (error < best) best = error, best_step = step;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  fmt::print("{{{:.4f}f, {:.3e}}},  // {} bits a pair; {:.0f} thousand weights/s\n", best_step, best, bits,
             20 * rings * 64 / seconds.count() / 1000);
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  const int rings = argc > 1 ? std::atoi(argv[1]) : 1000;
  for (int bits = qamserve::kMinTrellisPairBits; bits <= qamserve::kMaxTrellisPairBits; ++bits) {
    qamserve::MeasureRate(bits, rings);
  }
}
