#include "tests/bench/gpu_read.h"

namespace qamserve {
namespace {

constexpr int kInFlight = 4;

__device__ uint32_t Digest(const uint4& four) { return four.x ^ four.y ^ four.z ^ four.w; }

// Every thread asks for four times 16 bytes, a grid apart, before it looks at the first; what it read it must seem to
// need. machine_code_test sees to it that the machine code asks in such an order.
__global__ void __launch_bounds__(512) ReadKernel(const uint4* data, int64_t count, uint32_t* sink) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  uint32_t all = 0;
  for (; at + (kInFlight - 1) * threads < count; at += kInFlight * threads) {
    uint4 read[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) read[i] = __ldcs(data + at + i * threads);
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) all |= Digest(read[i]);
  }
#pragma unroll 1
  for (; at < count; at += threads) all |= Digest(__ldcs(data + at));
  if (all == 0x9e3779b9u) *sink = all;
}

}  // namespace

cudaError_t QueueRead(const void* data, int64_t bytes, int blocks, uint32_t* sink, cudaStream_t stream) {
  ReadKernel<<<static_cast<unsigned>(blocks), 512, 0, stream>>>(static_cast<const uint4*>(data), bytes / 16, sink);
  return cudaGetLastError();
}

}  // namespace qamserve
