// Products of float matrices with the bits of Kernels::dense_matmul: every dot product is eight sums, of the elements
// whose index is 0..7 mod 8, by fused multiply-add in order, which are then added in a fixed tree. Error feedback and
// outer products of inputs go through it. For host and device.
//
// A thread has one of the eight sums ("lane") of kProductTile x kProductTile dot products, so that eight neighbouring
// threads read 32 neighbouring bytes and each float that is read is used eight times.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/codec/packing.h"

namespace qamserve {

inline constexpr int kProductLanes = 8;
inline constexpr int kProductTile = 8;
// Of one block of threads: 32 x 64 dot products.
inline constexpr int kProductTilesDown = 4;
inline constexpr int kProductTilesAcross = 8;
inline constexpr int kProductThreads = kProductLanes * kProductTilesDown * kProductTilesAcross;
inline constexpr int kProductRows = kProductTile * kProductTilesDown;
inline constexpr int kProductCols = kProductTile * kProductTilesAcross;

struct ProductArgs {
  const float* a;  // [rows][depth] by a_stride
  int64_t a_stride;
  int64_t rows;
  const float* b;  // [cols][depth] by b_stride
  int64_t b_stride;
  int64_t cols;
  int64_t depth;  // a multiple of 8
  // [rows][cols] by out_stride; or, if `triangle`, rows of the lower triangle one after the other, which is added to.
  float* out;
  int64_t out_stride;
  bool triangle;
};

// One thread's sums of the tile that begins at (row, col). What lies beyond the matrices repeats the last row.
QAMSERVE_HOST_DEVICE inline void ProductLane(const ProductArgs& args, int64_t row, int64_t col, int lane,
                                             float (&sum)[kProductTile][kProductTile]) {
  const float* a[kProductTile];
  const float* b[kProductTile];
  for (int i = 0; i < kProductTile; ++i) {
    a[i] = args.a + (row + i < args.rows ? row + i : args.rows - 1) * args.a_stride + lane;
    b[i] = args.b + (col + i < args.cols ? col + i : args.cols - 1) * args.b_stride + lane;
    for (int j = 0; j < kProductTile; ++j) sum[i][j] = 0;
  }
  for (int64_t k = 0; k < args.depth; k += kProductLanes) {
    float x[kProductTile], y[kProductTile];
    for (int i = 0; i < kProductTile; ++i) x[i] = a[i][k];
    for (int i = 0; i < kProductTile; ++i) y[i] = b[i][k];
    for (int i = 0; i < kProductTile; ++i) {
      for (int j = 0; j < kProductTile; ++j) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
    }
  }
}

// The sum of a dot product's lanes: the tree that lanes_scalar.h has.
QAMSERVE_HOST_DEVICE inline float AddLanes(const float (&v)[kProductLanes]) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

QAMSERVE_HOST_DEVICE inline void StoreProduct(const ProductArgs& args, int64_t row, int64_t col, float value) {
  if (row >= args.rows || col >= args.cols) return;
  if (!args.triangle) {
    args.out[row * args.out_stride + col] = value;
  } else if (col <= row) {
    args.out[row * (row + 1) / 2 + col] += value;
  }
}

}  // namespace qamserve
