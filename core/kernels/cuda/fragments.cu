#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/packed_warp.h"

namespace qamserve {
namespace {

// A thread for every pair of words b0, b1 of a lane.
__global__ void FragmentsKernel(PackedInput x, int64_t padded, int tokens, int64_t count, uint2* fragments) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int t = static_cast<int>(i % kStepTiles), column = static_cast<int>(i / kStepTiles % (2 * tokens));
  const int64_t step_and_s = i / kStepTiles / (2 * tokens);
  const int64_t col = FragmentCol(step_and_s / kMmaSteps, static_cast<int>(step_and_s % kMmaSteps), t);
  uint32_t half[4] = {};
  if (column / 2 < x.tokens && col < padded) {
    const int16_t* q = x.q + column / 2 * x.stride + col;
    for (int k = 0; k < 4; ++k) half[k] = HalfOfInt(ActivationPart(q[k], column % 2));
  }
  fragments[i] = {half[0] | half[1] << 16, half[2] | half[3] << 16};
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
