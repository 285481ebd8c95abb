// What one thread does to make ErrorFeedback's factor (core/quantize/feedback.h) of the inputs' outer products: into
// the rotated basis, the Cholesky factor in double, in the order of core/quantize/cholesky.h. For host and device, as
// row_bodies.h, which says what a body is.
//
// Matrices of floats are row by row, those of doubles column by column; [n][n] both. A grid has, beside ForEach,
//   grid.Block(threads, body)   body(each), where each(f) calls f(thread) for every thread and returns when all are
//   done
#pragma once

#include <cmath>
#include <cstdint>

#include "core/codec/packing.h"
#include "core/quantize/cuda/encode_sequence.h"

namespace qamserve {

inline constexpr int64_t kFactorBlock = 64;

// h <- S^-1 h S^-1. Body of (i, j).
struct UnscaleMatrix {
  float* h;
  int64_t n;
  const float* scale;
  QAMSERVE_HOST_DEVICE void operator()(int64_t i, int64_t j) const { h[i * n + j] /= scale[i] * scale[j]; }
};

// Body of (i, j).
struct TransposeMatrix {
  float* h;
  int64_t n;
  QAMSERVE_HOST_DEVICE void operator()(int64_t i, int64_t j) const {
    if (j >= i) return;
    const float above = h[j * n + i];
    h[j * n + i] = h[i * n + j];
    h[i * n + j] = above;
  }
};

// Body of 0.
struct MatrixTrace {
  const float* h;
  int64_t n;
  double* trace;
  QAMSERVE_HOST_DEVICE void operator()(int64_t) const {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(h[i * n + i]);
    *trace = sum;
  }
};

// The lower triangle of the reversed matrix, with `damping` on its diagonal. Body of (column, row).
struct ReverseMatrix {
  const float* h;
  int64_t n;
  double damping;
  double* a;
  QAMSERVE_HOST_DEVICE void operator()(int64_t j, int64_t i) const {
    if (i < j) return;
    const double v = static_cast<double>(h[(n - 1 - i) * n + (n - 1 - j)]);
    a[j * n + i] = i == j ? v + damping : v;
  }
};

// The factor of a block on the diagonal. Thread t has row t; body for kFactorBlock threads.
struct FactorDiagonalBlock {
  double* a;  // the block's corner
  int64_t n, size;
  int* failed;  // set if a pivot is not above 0
  template <typename Each>
  QAMSERVE_HOST_DEVICE void operator()(const Each& each) const {
    for (int64_t j = 0; j < size; ++j) {
      double* column = a + j * n;
      const FactorDiagonalBlock& self = *this;
      each([=](int64_t t) {
        if (t != j) return;
        if (!(column[j] > 0)) *self.failed = 1;
        column[j] = sqrt(column[j]);
      });
      each([=](int64_t t) {
        if (t > j && t < self.size) column[t] /= column[j];
      });
      each([=](int64_t t) {
        if (t <= j || t >= self.size) return;
        for (int64_t c = j + 1; c <= t; ++c) self.a[c * self.n + t] -= column[t] * column[c];
      });
    }
  }
};

// A row below the diagonal block at `a`. Body of i: row size + i of the block's columns.
struct SolveFactorRow {
  double* a;
  int64_t n, size;
  QAMSERVE_HOST_DEVICE void operator()(int64_t i) const {
    double row[kFactorBlock];
    double* const at = a + size + i;
    for (int64_t j = 0; j < size; ++j) {
      double v = at[j * n];
      for (int64_t k = 0; k < j; ++k) v -= row[k] * a[k * n + j];
      row[j] = v / a[j * n + j];
      at[j * n] = row[j];
    }
  }
};

// Takes the products of the block's columns from what is right of them, 4 x 4 entries a thread. Rows of a thread are 32
// apart, so that a warp's are beside each other. Body of (group of 4 columns, thread): thread t has the four rows from
// t / 32 x 128 + t mod 32.
struct UpdateFactor {
  static constexpr int kTile = 4, kApart = 32;
  static int64_t Threads(int64_t rows) { return (rows + kTile * kApart - 1) / (kTile * kApart) * kApart; }
  const double* columns;  // the block's columns, from the first row that is left
  double* corner;         // of what is left, [rows][rows]
  int64_t n, rows, size;
  QAMSERVE_HOST_DEVICE void operator()(int64_t group, int64_t thread) const {
    const int64_t first_col = group * kTile, first_row = thread / kApart * kTile * kApart + thread % kApart;
    if (first_row + (kTile - 1) * kApart < first_col) return;
    int64_t row[kTile], col[kTile];
    double v[kTile][kTile];
    for (int t = 0; t < kTile; ++t) {
      row[t] = first_row + t * kApart < rows ? first_row + t * kApart : rows - 1;
      col[t] = first_col + t < rows ? first_col + t : rows - 1;
    }
    for (int c = 0; c < kTile; ++c) {
      for (int r = 0; r < kTile; ++r) v[c][r] = corner[col[c] * n + row[r]];
    }
    for (int64_t k = 0; k < size; ++k) {
      double x[kTile], y[kTile];
      for (int r = 0; r < kTile; ++r) x[r] = columns[k * n + row[r]];
      for (int c = 0; c < kTile; ++c) y[c] = columns[k * n + col[c]];
      for (int c = 0; c < kTile; ++c) {
        for (int r = 0; r < kTile; ++r) v[c][r] -= x[r] * y[c];
      }
    }
    for (int c = 0; c < kTile; ++c) {
      for (int r = 0; r < kTile; ++r) {
        const bool own = first_row + r * kApart < rows && first_col + c < rows && row[r] >= col[c];
        if (own) corner[col[c] * n + row[r]] = v[c][r];
      }
    }
  }
};

// U' as rows and D of the pairs, from the factor of the reversed matrix. Body of (pair p, i).
struct FactorPairs {
  const double* l;
  int64_t n;
  float* rows;      // [n][n]
  double* weights;  // [n / 2][3]
  QAMSERVE_HOST_DEVICE void operator()(int64_t p, int64_t i) const {
    const double* even = l + (n - 1 - 2 * p) * n;
    const double* odd = even - n;
    const double a = even[n - 1 - 2 * p], c = odd[n - 2 - 2 * p], b = odd[n - 1 - 2 * p];
    if (i == 0) {
      weights[3 * p] = a * a + b * b;
      weights[3 * p + 1] = b * c;
      weights[3 * p + 2] = c * c;
    }
    if (i >= 2 * p) return;
    const double u = even[n - 1 - i] / a;
    rows[2 * p * n + i] = static_cast<float>(u);
    rows[(2 * p + 1) * n + i] = static_cast<float>((odd[n - 1 - i] - u * b) / c);
  }
};

struct FactorMatrices {
  float* h = nullptr;         // in: mean outer products; overwritten
  float* scratch = nullptr;   // [n][n]
  double* a = nullptr;        // [n][n]
  double* trace = nullptr;    // of the matrix in the rotated basis; out
  int* failed = nullptr;      // zeroed; out: 1 if the damped matrix is not positive definite
  float* rows = nullptr;      // out
  double* weights = nullptr;  // out
};

// First part: h in the rotated basis, and its trace. `scale` is null or [n].
template <typename Grid>
void RotateOuterProducts(Grid& grid, const RotationParts& q, const float* scale, const FactorMatrices& m) {
  const int64_t n = q.cols;
  if (scale != nullptr) grid.ForEach(n, n, UnscaleMatrix{m.h, n, scale});
  for (int pass = 0; pass < 2; ++pass) {
    if (q.factors > 0) grid.ForEach(n, n, ScaleRows{m.h, m.h, n, nullptr, q.signs});
    RotateRows(grid, q, m.h, m.scratch, n, /*inverse=*/false);
    grid.ForEach(n, n, TransposeMatrix{m.h, n});
  }
  grid.ForEach(1, MatrixTrace{m.h, n, m.trace});
}

// Second part. `damping` is kFeedbackDamping times the mean of the diagonal.
template <typename Grid>
void FactorOuterProducts(Grid& grid, int64_t n, double damping, const FactorMatrices& m) {
  grid.ForEach(n, n, ReverseMatrix{m.h, n, damping, m.a});
  for (int64_t first = 0; first < n; first += kFactorBlock) {
    const int64_t size = first + kFactorBlock < n ? kFactorBlock : n - first, rest = n - first - size;
    double* block = m.a + first * n + first;
    grid.Block(kFactorBlock, FactorDiagonalBlock{block, n, size, m.failed});
    if (rest == 0) break;
    grid.ForEach(rest, SolveFactorRow{block, n, size});
    grid.ForEach((rest + UpdateFactor::kTile - 1) / UpdateFactor::kTile, UpdateFactor::Threads(rest),
                 UpdateFactor{block + size, block + size * n + size, n, rest, size});
  }
  grid.ForEach(n / 2, n, FactorPairs{m.a, n, m.rows, m.weights});
}

}  // namespace qamserve
