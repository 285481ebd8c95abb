#include <type_traits>

#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/shared_memory.cuh"
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

// One block of kThreads threads for every kRings rings; its shared memory is one TrellisBlock. The fewer rings a block
// has the more blocks there are: TrellisRingsOfBlock.
// Not measured yet. Counted in sm_90 machine code (nvcc 13.0), for 8 rings: 5.6 instructions a state of a ring, 3.4 of
// them on the multipliers, which at 1.755 GHz would be 66 M weights/s of an H200. 56 to 96 registers (at most 128 with
// 512 threads), no spills; 35 (11 bits) to 162 KiB (7 bits) of shared memory.
template <int kBits, int kRings>
__global__ void __launch_bounds__(TrellisBlock<kBits, kRings>::kThreads, 1)
    TrellisKernel(const float* x, const float* y, uint16_t* codes, int64_t rings) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto& block = *reinterpret_cast<TrellisBlock<kBits, kRings>*>(shared);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRings;
  const int64_t left = rings - first;
  SearchTrellisBlock(block, x + first * kTileRows, y + first * kTileRows, codes + first * kTileRows,
                     left < kRings ? static_cast<int>(left) : kRings, AllThreads());
}

// In blocks of `of_block` rings, if that is not more than kRings.
template <int kBits, int kRings>
cudaError_t QueueRings(const CudaTrellisArgs& args, int of_block, cudaStream_t stream) {
  if constexpr (kRings > 1) {
    if (of_block < kRings) return QueueRings<kBits, kRings / 2>(args, of_block, stream);
  }
  constexpr int kBytes = static_cast<int>(sizeof(TrellisBlock<kBits, kRings>));
  const auto kernel = TrellisKernel<kBits, kRings>;
  const cudaError_t error = AllowShared(kernel, kBytes);
  if (error != cudaSuccess) return error;
  const int64_t blocks = (args.rings + kRings - 1) / kRings;
  kernel<<<static_cast<unsigned>(blocks), TrellisBlock<kBits, kRings>::kThreads, kBytes, stream>>>(
      args.x, args.y, args.codes, args.rings);
  return cudaGetLastError();
}

template <int kBits>
cudaError_t Queue(const CudaTrellisArgs& args, cudaStream_t stream) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  return QueueRings<kBits, MostTrellisRings(kBits)>(args, TrellisRingsOfBlock(kBits, args.rings, multiprocessors),
                                                    stream);
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
