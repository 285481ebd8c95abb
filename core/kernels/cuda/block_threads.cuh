// The threads of a block that packed_block.h, packed_wide_block.h and int8_block.h are written for, on a device. A test
// has its own, which runs them one after the other (tests/core/kernels/warps_in_turn.h).
//
//   threads(phase)                   calls phase(thread) for every thread and waits for all
//   threads.Alone(phase)             does not wait
//   threads.OfWarps(has, body)       body(threads) with those warps of which has(thread) says so, for any thread
//   threads.Multiply(get)            the matrix instruction of every warp: get(thread, a, b) puts a thread's words into
//                                    a[4] and b[2] and returns where the four floats are that the product is added to
//   threads.Rotate(by, give, take)   take(thread, word) gets what give(thread) is for the lane `by` on, around the warp
//   threads.Swap(mask, give, take)   likewise for the lane whose number differs in `mask`
//   Threads::Own<T>                  what a thread keeps: its registers, as long as indices are known to the compiler
#pragma once

#include <cstdint>

#include "core/kernels/cuda/mma.cuh"

namespace qamserve {

struct BlockThreads {
  template <typename T>
  struct Own {
    T value;
    __device__ T& operator[](int) { return value; }
  };
  template <typename Phase>
  __host__ __device__ void operator()(const Phase& phase) const {
    Alone(phase);
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }
  template <typename Phase>
  __host__ __device__ void Alone(const Phase& phase) const {
#if defined(__CUDA_ARCH__)
    phase(static_cast<int>(threadIdx.x));
#endif
  }
  template <typename Has, typename Body>
  __host__ __device__ void OfWarps(const Has& has, const Body& body) const {
#if defined(__CUDA_ARCH__)
    if (has(static_cast<int>(threadIdx.x))) body(*this);
#endif
  }
  template <typename Get>
  __host__ __device__ void Multiply(const Get& get) const {
#if defined(__CUDA_ARCH__)
    uint32_t a[4], b[2];
    float(*c)[4] = get(static_cast<int>(threadIdx.x), a, b);
    MultiplyHalves(*c, a, b[0], b[1]);
#endif
  }
  template <typename Give, typename Take>
  __host__ __device__ void Rotate(int by, const Give& give, const Take& take) const {
#if defined(__CUDA_ARCH__)
    const auto thread = static_cast<int>(threadIdx.x);
    take(thread, __shfl_sync(~0u, give(thread), (thread + by) & 31));
#endif
  }
  template <typename Give, typename Take>
  __host__ __device__ void Swap(int mask, const Give& give, const Take& take) const {
#if defined(__CUDA_ARCH__)
    const auto thread = static_cast<int>(threadIdx.x);
    take(thread, __shfl_xor_sync(~0u, give(thread), mask));
#endif
  }
};

}  // namespace qamserve
