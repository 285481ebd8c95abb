// Words that threads read and write several at a time, and how: for host and device alike.
#pragma once

#include <cstdint>
#if !defined(__CUDA_ARCH__)
#include <cstring>
#endif

#include "core/codec/packing.h"

#if defined(__CUDA_ARCH__)
#define QAMSERVE_UNROLL _Pragma("unroll")
#else
#define QAMSERVE_UNROLL
#endif

namespace qamserve {

struct alignas(16) FourWords {
  uint32_t of[4];
};
struct alignas(16) FourFloats {
  float of[4];
};
struct alignas(16) FourInts {
  int32_t of[4];
};
struct alignas(8) TwoWords {
  uint32_t of[2];
};

// 16 bytes that pass once, such as weights: they need no cache.
QAMSERVE_HOST_DEVICE inline FourWords ReadOnce(const void* from) {
#if defined(__CUDA_ARCH__)
  const uint4 words = __ldcs(static_cast<const uint4*>(from));
  return {{words.x, words.y, words.z, words.w}};
#else
  return *static_cast<const FourWords*>(from);
#endif
}

// Four bytes as a word; they begin at a multiple of that.
QAMSERVE_HOST_DEVICE inline uint32_t ReadWord(const void* from) {
#if defined(__CUDA_ARCH__)
  return *static_cast<const uint32_t*>(from);
#else
  uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
#endif
}

// 16 bytes, whatever they are; both begin at a multiple of that.
QAMSERVE_HOST_DEVICE inline void CopyFour(void* to, const void* from) {
#if defined(__CUDA_ARCH__)
  *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
#else
  std::memcpy(to, from, sizeof(FourWords));
#endif
}

}  // namespace qamserve
