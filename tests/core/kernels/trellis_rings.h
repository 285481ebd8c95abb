// Rings of targets to search, and what TrellisSearch makes of them.
#pragma once

#include <vector>

#include "core/base/rng.h"
#include "core/kernels/trellis_search.h"

namespace qamserve {

// Targets of rings: Gaussian ones, then (where there are so many) all zero, a coarse grid on which costs often tie, and
// ones far outside of what states decode to.
struct TrellisRings {
  std::vector<float> x, y;  // [rings][32]

  TrellisRings(int rings, int pair_bits, uint64_t seed) {
    Rng rng(seed);
    for (int ring = 0; ring < rings; ++ring) {
      for (int row = 0; row < kTileRows; ++row) {
        for (std::vector<float>* column : {&x, &y}) {
          const double gaussian = rng.NextGaussian() / static_cast<double>(TrellisStep(pair_bits));
          const double grid = static_cast<double>(rng.NextU64() % 5) * 255 - 510;
          column->push_back(static_cast<float>(ring % 8 == 5   ? 0.0
                                               : ring % 8 == 6 ? grid
                                               : ring % 8 == 7 ? gaussian * 1e6
                                                               : gaussian));
        }
      }
    }
  }
  int rings() const { return static_cast<int>(x.size()) / kTileRows; }

  std::vector<uint16_t> Search(int pair_bits) const {
    const TrellisTable table(pair_bits);
    TrellisSearch search(table, BestKernels());
    std::vector<uint16_t> codes(x.size());
    for (size_t at = 0; at < x.size(); at += kTileRows) search.Encode(&x[at], &y[at], &codes[at]);
    return codes;
  }
};

}  // namespace qamserve
