// A panel of rows on its way to packed strips: which bodies run in which order. For any grid, something that runs
// bodies: on a GPU (device_grid.cuh) it queues a kernel for each, in a test it loops.
//   grid.ForEach(n, body)             body(i) for i < n
//   grid.ForEach(rows, n, body)       body(row, i)
//   grid.Product(ProductArgs)
//   grid.Search(pair_bits, rings, x, y, codes)   as CudaTrellisArgs
#pragma once

#include <cstdint>

#include "core/quantize/cuda/code_bodies.h"
#include "core/quantize/cuda/feedback_bodies.h"
#include "core/quantize/cuda/product_body.h"
#include "core/quantize/cuda/row_bodies.h"

namespace qamserve {

inline constexpr int kMaxRotationFactors = 8;  // 2^20 = 12^5.6: no more fit

// core/codec/rotation.h, with its tables where bodies run. No factors: the identity.
struct RotationParts {
  int64_t cols = 0;
  int64_t blocks = 1;
  float scale = 1;
  const float* signs = nullptr;
  int factors = 0;
  int64_t order[kMaxRotationFactors] = {};
  const float* entries[kMaxRotationFactors] = {};  // null: Sylvester's, the last
};

// What the strips of a tensor share.
struct EncodeTables {
  int pair_bits = 0;
  PointTable points = {};  // of codebooks; count 0: a trellis
  float outermost = 0;     // RowNorms
  float trellis_step = 0;  // of a trellis
  RotationParts rotation;
  const float* scale = nullptr;         // [cols] or null
  const double* mean_square = nullptr;  // [cols] or null: no weighted errors
  const float* factor = nullptr;        // FeedbackBlock; null: no feedback
  const double* factor_weights = nullptr;

  bool by_columns() const { return factor != nullptr || points.count == 0; }
};

// Memory of one panel: `rows` of it, padded to strips of 32 where noted. Matrices are [padded rows][cols] floats.
struct EncodePanel {
  int64_t rows = 0;
  float* weights = nullptr;  // in
  float* rotated = nullptr;
  float* values = nullptr;
  float* scratch = nullptr;
  double* error_terms = nullptr;  // [rows][cols] with mean squares
  double* energy_terms = nullptr;
  uint16_t* codes = nullptr;   // CodeRings
  float* sums = nullptr;       // [padded rows][kFeedbackBlockCols] with feedback
  float* target = nullptr;     // [4][padded rows] of a trellis with feedback
  uint16_t* found = nullptr;   // [padded rows], likewise
  double* loss = nullptr;      // [padded rows], zeroed; out
  uint16_t* norms = nullptr;   // [rows]; out
  double* energy = nullptr;    // [rows]; out
  double* squared = nullptr;   // [rows]; out
  double* weighted = nullptr;  // [strips][2], with mean squares; out
  uint8_t* packed = nullptr;   // zeroed; out

  int64_t strips() const { return StripsDown(rows); }
  int64_t padded() const { return strips() * kTileRows; }
};

template <typename Grid>
void ApplySylvester(Grid& grid, float* x, int64_t rows, int64_t cols, int64_t order) {
  for (int64_t half = order / 2; half >= 1;) {
    const auto run = [&](auto body) { grid.ForEach(rows, cols / decltype(body)::kPoints, body); };
    if (half >= 4) {
      run(SylvesterRows<3>{x, cols, static_cast<uint32_t>(half / 4)});
      half /= 8;
    } else if (half == 2) {
      run(SylvesterRows<2>{x, cols, 1});
      half = 0;
    } else {
      run(SylvesterRows<1>{x, cols, 1});
      half = 0;
    }
  }
}

// x <- Q x (signs already applied) or Q' x, for `rows` rows; `scratch` is as large.
template <typename Grid>
void RotateRows(Grid& grid, const RotationParts& q, float* x, float* scratch, int64_t rows, bool inverse) {
  if (q.factors == 0) return;
  int64_t inner = q.cols / q.blocks;
  float* from = x;
  float* to = scratch;
  for (int f = 0; f < q.factors; ++f) {
    inner /= q.order[f];
    if (q.entries[f] == nullptr) {
      ApplySylvester(grid, from, rows, q.cols, q.order[f]);
    } else {
      grid.ForEach(rows, q.cols,
                   DenseFactorRows{from, to, q.cols, q.entries[f], static_cast<uint32_t>(q.order[f]),
                                   static_cast<uint32_t>(inner), inverse});
      float* const swapped = from;
      from = to;
      to = swapped;
    }
  }
  grid.ForEach(rows, q.cols, FinishRotation{from, x, q.cols, q.scale, inverse ? q.signs : nullptr});
}

template <typename Grid>
void EncodeFeedbackBlock(Grid& grid, const EncodeTables& t, const EncodePanel& p, const FeedbackBlock& block) {
  if (t.points.count > 0) {
    grid.ForEach(p.padded(), FeedbackRow{block, t.points});
    return;
  }
  float* const x = p.target + 2 * p.padded();
  float* const y = x + p.padded();
  for (int64_t pair = block.begin; pair < block.end; pair += 2) {
    grid.ForEach(p.padded(), FeedbackTrellisTargets{block, pair, t.trellis_step, p.target, x, y, p.padded()});
    grid.Search(t.pair_bits, p.strips(), x, y, p.found);
    grid.ForEach(p.padded(),
                 FeedbackTrellisValues{block, pair, t.trellis_step, t.pair_bits, p.target, p.found, p.padded()});
  }
}

// Values become what their codes decode to, in standard deviations.
template <typename Grid>
void EncodeColumns(Grid& grid, const EncodeTables& t, const EncodePanel& p, const CodeRings& rings) {
  const int64_t n = t.rotation.cols;
  grid.ForEach(p.padded(), n, NormalizeRows{p.rotated, p.values, p.rows, n, p.norms});
  if (t.factor == nullptr) {
    float* const x = p.scratch;
    float* const y = x + p.padded() * rings.pairs;
    grid.ForEach(p.strips(), rings.pairs * kTileRows, TrellisTargets{p.values, n, t.trellis_step, x, y});
    grid.Search(t.pair_bits, p.strips() * rings.pairs, x, y, rings.codes);
    grid.ForEach(p.padded(), rings.pairs, TrellisValues{rings, t.pair_bits, t.trellis_step, p.values, n});
    return;
  }
  float* const errors = p.scratch;
  for (int64_t begin = 0; begin < n; begin += kFeedbackBlockCols) {
    const int64_t end = begin + kFeedbackBlockCols < n ? begin + kFeedbackBlockCols : n;
    if (begin > 0) {
      grid.Product({errors, n, p.padded(), t.factor + begin * n, n, end - begin, begin, p.sums, kFeedbackBlockCols,
                    /*triangle=*/false});
    }
    EncodeFeedbackBlock(grid, t, p,
                        {n, begin, end, t.factor, t.factor_weights, p.sums, p.values, errors, p.loss, rings});
  }
}

template <typename Grid>
void AddWeightedErrors(Grid& grid, const EncodeTables& t, const EncodePanel& p) {
  const int64_t n = t.rotation.cols;
  RotateRows(grid, t.rotation, p.values, p.scratch, p.rows, /*inverse=*/true);
  grid.ForEach(p.rows, n, WeightedTerms{p.weights, p.values, n, t.scale, t.mean_square, p.error_terms, p.energy_terms});
  grid.ForEach(2 * p.strips(), WeightedSums{p.error_terms, p.energy_terms, p.rows, n, p.weighted});
}

template <typename Grid>
void EncodePanelOn(Grid& grid, const EncodeTables& t, const EncodePanel& p) {
  const int64_t n = t.rotation.cols;
  const CodeRings rings{p.codes, (n + 1) / 2};
  grid.ForEach(p.rows, n,
               ScaleRows{p.weights, p.rotated, n, t.scale, t.rotation.factors == 0 ? nullptr : t.rotation.signs});
  RotateRows(grid, t.rotation, p.rotated, p.scratch, p.rows, /*inverse=*/false);
  grid.ForEach(p.rows, RowNorms{p.rotated, n, t.outermost, p.energy, p.norms});
  if (t.by_columns()) {
    EncodeColumns(grid, t, p, rings);
    grid.ForEach(p.rows, n, DenormalizeRows{p.values, n, p.norms});
  } else {
    grid.ForEach(p.rows, rings.pairs, NearestCodes{t.points, p.rotated, p.values, n, p.norms, rings});
  }
  grid.ForEach(p.rows, RowErrors{p.values, p.rotated, n, p.squared});
  if (t.mean_square != nullptr) AddWeightedErrors(grid, t, p);
  grid.ForEach(
      p.strips(), TilesAcross(n) * kTileLine,
      PackCodes{rings, t.pair_bits, t.by_columns() ? p.padded() : p.rows, p.packed, StripBytes(n, t.pair_bits)});
}

}  // namespace qamserve
