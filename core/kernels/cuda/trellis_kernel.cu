#include <type_traits>

#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/trellis_block.h"

namespace qamserve {
namespace {

struct AllThreads {
  template <typename Phase>
  __host__ __device__ void operator()(const Phase& phase) const {
#if defined(__CUDA_ARCH__)
    phase(static_cast<int>(threadIdx.x));
    __syncthreads();
#endif
  }
};

// One block of kThreads threads for every kRings rings; its shared memory is one TrellisBlock.
// Not measured yet. Counted in sm_90 machine code (nvcc 13.0), for 8 rings: 5.6 instructions a state of a ring, 3.4 of
// them on the multipliers, which at 1.755 GHz would be 66 M weights/s of an H200. 56 to 96 registers (at most 128 with
// 512 threads), no spills; 35 (11 bits) to 162 KiB (7 bits) of shared memory.
template <int kBits>
__global__ void __launch_bounds__(TrellisBlock<kBits>::kThreads, 1)
    TrellisKernel(const float* x, const float* y, uint16_t* codes, int64_t rings) {
  extern __shared__ __align__(16) unsigned char shared[];
  using Block = TrellisBlock<kBits>;
  auto& block = *reinterpret_cast<Block*>(shared);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Block::kRings;
  const int64_t left = rings - first;
  const int count = left < Block::kRings ? static_cast<int>(left) : Block::kRings;
  SearchTrellisBlock(block, x + first * kTileRows, y + first * kTileRows, codes + first * kTileRows, count,
                     AllThreads());
}

template <int kBits>
cudaError_t Queue(const CudaTrellisArgs& args, cudaStream_t stream) {
  using Block = TrellisBlock<kBits>;
  constexpr int kBytes = static_cast<int>(sizeof(Block));
  const cudaError_t error =
      cudaFuncSetAttribute(TrellisKernel<kBits>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  const int64_t blocks = (args.rings + Block::kRings - 1) / Block::kRings;
  TrellisKernel<kBits>
      <<<static_cast<unsigned>(blocks), Block::kThreads, kBytes, stream>>>(args.x, args.y, args.codes, args.rings);
  return cudaGetLastError();
}

// f(b) with the rate as a type.
template <typename F>
auto WithTrellisBits(int pair_bits, const F& f) {
  switch (pair_bits) {
    case 5:
      return f(std::integral_constant<int, 5>());
    case 6:
      return f(std::integral_constant<int, 6>());
    case 7:
      return f(std::integral_constant<int, 7>());
    case 8:
      return f(std::integral_constant<int, 8>());
    case 9:
      return f(std::integral_constant<int, 9>());
    case 10:
      return f(std::integral_constant<int, 10>());
    default:
      return f(std::integral_constant<int, 11>());
  }
}

}  // namespace

int64_t TrellisBlockBytes(int pair_bits) {
  return WithTrellisBits(pair_bits, [](auto bits) { return static_cast<int64_t>(sizeof(TrellisBlock<bits()>)); });
}

cudaError_t QueueTrellisSearch(const CudaTrellisArgs& args, cudaStream_t stream) {
  return WithTrellisBits(args.pair_bits, [&](auto bits) { return Queue<bits()>(args, stream); });
}

}  // namespace qamserve
