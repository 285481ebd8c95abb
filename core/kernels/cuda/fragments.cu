#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/packed_warp.h"

namespace qamserve {
namespace {

// A thread for every pair of words b0, b1 of a lane.
__global__ void FragmentsKernel(PackedInput x, int64_t padded, int tokens, int64_t count, uint2* fragments) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  uint32_t words[2];
  MakeFragment(x, padded, tokens, i, words);
  fragments[i] = {words[0], words[1]};
}

}  // namespace

cudaError_t QueueFragments(const PackedInput& x, int64_t cols, int tokens, void* scratch, cudaStream_t stream) {
  const int64_t steps = (TilesAcross(cols) + kStepTiles - 1) / kStepTiles;
  const int64_t count = steps * FragmentStepBytes(tokens) / static_cast<int64_t>(sizeof(uint2));
  constexpr int kThreads = 256;
  FragmentsKernel<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      x, PaddedCols(cols), tokens, count, static_cast<uint2*>(scratch));
  return cudaGetLastError();
}

}  // namespace qamserve
