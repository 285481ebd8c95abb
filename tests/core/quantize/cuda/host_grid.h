// Runs bodies of core/quantize/cuda on this machine, one call after the other; forwards or backwards, which must not
// matter.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/kernels/trellis_search.h"
#include "core/quantize/cuda/product_body.h"

namespace qamserve {

class HostGrid {
 public:
  explicit HostGrid(bool backwards) : backwards_(backwards) {}

  template <typename Body>
  void ForEach(int64_t n, const Body& body) {
    for (int64_t i = 0; i < n; ++i) body(backwards_ ? n - 1 - i : i);
  }

  template <typename Body>
  void ForEach(int64_t rows, int64_t n, const Body& body) {
    ForEach(rows * n, [&](int64_t i) { body(i / n, i % n); });
  }

  template <typename Body>
  void Block(int64_t threads, const Body& body) {
    body([&](const auto& phase) { ForEach(threads, phase); });
  }

  // The threads of each tile, then what they exchange.
  void Product(const ProductArgs& args) {
    const int64_t across = (args.cols + kProductTile - 1) / kProductTile;
    ForEach((args.rows + kProductTile - 1) / kProductTile, across, [&](int64_t down, int64_t right) {
      float lane[kProductLanes][kProductTile][kProductTile];
      for (int l = 0; l < kProductLanes; ++l) ProductLane(args, down * kProductTile, right * kProductTile, l, lane[l]);
      for (int i = 0; i < kProductTile; ++i) {
        for (int j = 0; j < kProductTile; ++j) {
          float values[kProductLanes];
          for (int l = 0; l < kProductLanes; ++l) values[l] = lane[l][i][j];
          StoreProduct(args, down * kProductTile + i, right * kProductTile + j, AddLanes(values));
        }
      }
    });
  }

  // The GPU's own search has tests of its own (cuda_trellis_block_test).
  void Search(int pair_bits, int64_t rings, const float* x, const float* y, uint16_t* codes) {
    const TrellisTable table(pair_bits);
    TrellisSearch search(table, BestKernels());
    ForEach(rings,
            [&](int64_t ring) { search.Encode(x + ring * kTileRows, y + ring * kTileRows, codes + ring * kTileRows); });
  }

 private:
  bool backwards_;
};

}  // namespace qamserve
