#include "core/quantize/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

// Products and differences give the same bits in any width, so the compiler may make a wide copy of a loop beside the
// plain one (see core/codec/rotation.cc, for ThreadSanitizer, too).
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define QAMSERVE_AVX2_CLONE __attribute__((target_clones("avx2", "default")))
#else
#define QAMSERVE_AVX2_CLONE
#endif

namespace qamserve {
namespace {

// A tile of the update: kRows x kCols sums in registers.
constexpr int64_t kRows = 8, kCols = 4;
using Double4 = double __attribute__((vector_size(32)));

bool FactorDiagonal(double* a, int64_t n, int64_t size) {
  for (int64_t j = 0; j < size; ++j) {
    double* column = a + j * n;
    if (!(column[j] > 0)) return false;
    column[j] = std::sqrt(column[j]);
    for (int64_t i = j + 1; i < size; ++i) column[i] /= column[j];
    for (int64_t c = j + 1; c < size; ++c) {
      for (int64_t i = c; i < size; ++i) a[c * n + i] -= column[i] * column[c];
    }
  }
  return true;
}

// Rows [begin, end) below the diagonal block at `a`, whose first row is row 0.
QAMSERVE_AVX2_CLONE void SolveRows(double* a, int64_t n, int64_t size, int64_t begin, int64_t end) {
  for (int64_t j = 0; j < size; ++j) {
    double* __restrict to = a + j * n;
    for (int64_t k = 0; k < j; ++k) {
      const double* __restrict from = a + k * n;
      const double by = from[j];
      for (int64_t i = begin; i < end; ++i) to[i] -= from[i] * by;
    }
    const double pivot = to[j];
    for (int64_t i = begin; i < end; ++i) to[i] /= pivot;
  }
}

// Rows from `begin` on of the `size` columns at `a`, kRows beside each other; whole groups only.
void Pack(const double* a, int64_t n, int64_t size, int64_t begin, int64_t rows, std::vector<double>& packed) {
  packed.resize(static_cast<size_t>(rows / kRows * kRows * size));
  double* to = packed.data();
  for (int64_t i = begin; i + kRows <= begin + rows; i += kRows) {
    for (int64_t k = 0; k < size; ++k, to += kRows) std::copy_n(a + k * n + i, kRows, to);
  }
}

// c[j][i] -= sum of p[k][i] q[k][j], column by column of `c`.
__attribute__((always_inline)) inline void UpdateTile(double* c, int64_t n, const double* p, const double* q,
                                                      int64_t size) {
  Double4 low[kCols], high[kCols];
  for (int64_t j = 0; j < kCols; ++j) {
    __builtin_memcpy(&low[j], c + j * n, sizeof(Double4));
    __builtin_memcpy(&high[j], c + j * n + 4, sizeof(Double4));
  }
  for (int64_t k = 0; k < size; ++k) {
    Double4 x, y;
    __builtin_memcpy(&x, p + k * kRows, sizeof(x));
    __builtin_memcpy(&y, p + k * kRows + 4, sizeof(y));
    for (int64_t j = 0; j < kCols; ++j) {
      const double by = q[k * kRows + j];
      low[j] -= x * by;
      high[j] -= y * by;
    }
  }
  for (int64_t j = 0; j < kCols; ++j) {
    __builtin_memcpy(c + j * n, &low[j], sizeof(Double4));
    __builtin_memcpy(c + j * n + 4, &high[j], sizeof(Double4));
  }
}

// The whole tiles below the diagonal ones: `c` is where the rows that were packed meet, `groups` of kRows of them.
QAMSERVE_AVX2_CLONE void UpdateTiles(double* c, int64_t n, const double* packed, int64_t groups, int64_t size) {
  for (int64_t column = 0; column < groups; ++column) {
    const double* q = packed + column * kRows * size;
    for (int64_t row = column + 1; row < groups; ++row) {
      const double* p = packed + row * kRows * size;
      double* tile = c + column * kRows * n + row * kRows;
      UpdateTile(tile, n, p, q, size);
      UpdateTile(tile + kCols * n, n, p, q + kCols, size);
    }
  }
}

// Entries of columns [0, rows) whose tile is on the diagonal or cut short, one by one. `a` holds the factored columns,
// of the same rows as `c`.
void UpdateRest(double* c, const double* a, int64_t n, int64_t rows, int64_t size) {
  const int64_t whole = rows / kRows * kRows;
  const auto update = [&](int64_t column, int64_t begin, int64_t end) {
    double* to = c + column * n;
    for (int64_t k = 0; k < size; ++k) {
      const double* from = a + k * n;
      for (int64_t i = begin; i < end; ++i) to[i] -= from[i] * from[column];
    }
  };
  for (int64_t column = 0; column < rows; ++column) {
    const int64_t tile_end = std::min(rows, (column / kRows + 1) * kRows);
    update(column, column, tile_end);
    update(column, std::max(tile_end, whole), rows);
  }
}

}  // namespace

bool CholeskyInOrder(std::span<double> a, int64_t n) {
  std::vector<double> packed;
  constexpr int64_t kSolveRows = 64;  // with 64 columns, 32 KiB
  for (int64_t first = 0; first < n; first += kCholeskyBlock) {
    const int64_t size = std::min(kCholeskyBlock, n - first), below = first + size, rest = n - below;
    double* block = a.data() + first * n + first;
    if (!FactorDiagonal(block, n, size)) return false;
    for (int64_t row = size; row < n - first; row += kSolveRows) {
      SolveRows(block, n, size, row, std::min(n - first, row + kSolveRows));
    }
    Pack(block, n, size, size, rest, packed);
    double* corner = a.data() + below * n + below;
    UpdateTiles(corner, n, packed.data(), rest / kRows, size);
    UpdateRest(corner, block + size, n, rest, size);
  }
  return true;
}

}  // namespace qamserve
