// How the operations of a forward pass are written, for host and device alike: as what one block of threads does.
//
// An operation is a struct
//   static constexpr int kThreads;                             threads of a block
//   static int64_t Blocks(const Args&);                        of the grid
//   static int64_t SharedBytes(const Args&);                   memory that a block's threads share, aligned to 16 bytes
//   template <typename Each>
//   static void Run(const Args&, int64_t block, unsigned char* shared, const Each& each);
// Run is the same for all threads: it calls each(phase), which calls phase(thread) for every thread of the block and
// returns when all are done. On a device that is the thread's own number and a barrier (block_kernel.cuh); a test runs
// the threads one after the other. What a thread keeps from phase to phase lies in Each::Own<T>, or is shared.
//
// Every operation gives the bits of core/kernels/kernels.h: sums run in 8 lanes, in the same order.
#pragma once

#include <cstdint>

#include "core/codec/packing.h"

namespace qamserve {

// Reserves arrays in a block's memory one after the other.
class SharedLayout {
 public:
  // The byte where `count` Ts begin.
  template <typename T>
  QAMSERVE_HOST_DEVICE int64_t Add(int64_t count) {
    const int64_t at = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return at;
  }
  QAMSERVE_HOST_DEVICE int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

// The largest of |x| over all threads, of which each gives its own in partial[thread]; everybody then calls the second.
// `groups` holds 32 floats.
template <int kThreads, typename Each>
QAMSERVE_HOST_DEVICE inline void GroupMaxima(const float* partial, float* groups, const Each& each) {
  each([&](int thread) {
    if (thread >= 32) return;
    float most = partial[thread];
    for (int i = thread + 32; i < kThreads; i += 32) most = partial[i] > most ? partial[i] : most;
    groups[thread] = most;
  });
}
QAMSERVE_HOST_DEVICE inline float LargestOf(const float* groups) {
  float most = groups[0];
  for (int i = 1; i < 32; ++i) most = groups[i] > most ? groups[i] : most;
  return most;
}

}  // namespace qamserve
