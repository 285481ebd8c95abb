// Runs bodies (row_bodies.h) on a GPU: each call queues one kernel on a stream. The grid of encode_sequence.h and the
// other sequences of this folder. Never run on a GPU yet.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/kernels/cuda/launch.h"
#include "core/quantize/cuda/product_body.h"

namespace qamserve {

template <typename Body>
__global__ void ForEachKernel(int64_t n, Body body) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) body(i);
}

template <typename Body>
__global__ void ForEachRowKernel(int64_t rows, int64_t n, Body body) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) body(row, i);
}

struct AllThreadsOfBlock {
  template <typename Phase>
  __host__ __device__ void operator()(const Phase& phase) const {
#if defined(__CUDA_ARCH__)
    phase(static_cast<int64_t>(threadIdx.x));
    __syncthreads();
#endif
  }
};

template <typename Body>
__global__ void BlockKernel(Body body) {
  body(AllThreadsOfBlock());
}

// Lanes of a dot product are neighbours; additions commute, so all eight have AddLanes' sum after three exchanges. Lane
// i stores row i of the tile.
static __global__ void __launch_bounds__(kProductThreads) ProductKernel(ProductArgs args) {
  const int64_t block_row = static_cast<int64_t>(blockIdx.y) * kProductRows;
  const int64_t block_col = static_cast<int64_t>(blockIdx.x) * kProductCols;
  if (args.triangle && block_col >= block_row + kProductRows) return;
  const int lane = static_cast<int>(threadIdx.x) % kProductLanes, tile = static_cast<int>(threadIdx.x) / kProductLanes;
  const int64_t row = block_row + tile / kProductTilesAcross * kProductTile;
  const int64_t col = block_col + tile % kProductTilesAcross * kProductTile;
  float sum[kProductTile][kProductTile];
  ProductLane(args, row, col, lane, sum);
#pragma unroll
  for (int i = 0; i < kProductTile; ++i) {
#pragma unroll
    for (int j = 0; j < kProductTile; ++j) {
      float total = sum[i][j];
      for (int other = kProductLanes / 2; other >= 1; other /= 2) {
        total += __shfl_xor_sync(0xffffffffu, total, other);
      }
      if (lane == i) StoreProduct(args, row + i, col + j, total);
    }
  }
}

class DeviceGrid {
 public:
  explicit DeviceGrid(cudaStream_t stream) : stream_(stream) {}
  // Of the first kernel that was not queued.
  cudaError_t error() const { return error_; }

  // Bodies of one number are long; small blocks spread them over all multiprocessors.
  template <typename Body>
  void ForEach(int64_t n, const Body& body) {
    constexpr int kThreads = 32;
    if (n <= 0 || error_ != cudaSuccess) return;
    ForEachKernel<<<static_cast<unsigned>((n + kThreads - 1) / kThreads), kThreads, 0, stream_>>>(n, body);
    error_ = cudaGetLastError();
  }

  template <typename Body>
  void ForEach(int64_t rows, int64_t n, const Body& body) {
    constexpr int kThreads = 256;
    constexpr int64_t kMaxBlocks = 65535;  // of a grid's second axis
    if (rows <= 0 || n <= 0 || error_ != cudaSuccess) return;
    const dim3 blocks(static_cast<unsigned>((n + kThreads - 1) / kThreads),
                      static_cast<unsigned>(rows < kMaxBlocks ? rows : kMaxBlocks));
    ForEachRowKernel<<<blocks, kThreads, 0, stream_>>>(rows, n, body);
    error_ = cudaGetLastError();
  }

  template <typename Body>
  void Block(int threads, const Body& body) {
    if (error_ != cudaSuccess) return;
    BlockKernel<<<1, threads, 0, stream_>>>(body);
    error_ = cudaGetLastError();
  }

  void Product(const ProductArgs& args) {
    if (args.rows <= 0 || args.cols <= 0 || error_ != cudaSuccess) return;
    const dim3 blocks(static_cast<unsigned>((args.cols + kProductCols - 1) / kProductCols),
                      static_cast<unsigned>((args.rows + kProductRows - 1) / kProductRows));
    ProductKernel<<<blocks, kProductThreads, 0, stream_>>>(args);
    error_ = cudaGetLastError();
  }

  void Search(int pair_bits, int64_t rings, const float* x, const float* y, uint16_t* codes) {
    if (rings <= 0 || error_ != cudaSuccess) return;
    error_ = QueueTrellisSearch({pair_bits, rings, x, y, codes}, stream_);
  }

 private:
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace qamserve
