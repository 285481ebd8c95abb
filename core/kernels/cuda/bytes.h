// Bytes of words, by the instructions that GPUs have for them, and the trellis code in such terms.
#pragma once

#include <cstdint>

#include "core/codec/trellis.h"

namespace qamserve {

// Sum of the four bytes and of c.
QAMSERVE_HOST_DEVICE inline uint32_t AddBytes(uint32_t bytes, uint32_t c) {
#if defined(__CUDA_ARCH__)
  return __dp4a(bytes, 0x01010101u, c);
#else
  return (bytes & 255u) + (bytes >> 8 & 255u) + (bytes >> 16 & 255u) + (bytes >> 24) + c;
#endif
}

// Bytes 0..3 are those of x, 4..7 those of y; nibble i of `select` names byte i of the result.
QAMSERVE_HOST_DEVICE inline uint32_t PickBytes(uint32_t x, uint32_t y, uint32_t select) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(x, y, select);
#else
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t from = select >> (4 * i) & 7u;
    result |= ((from < 4 ? x >> (8 * from) : y >> (8 * (from - 4))) & 255u) << (8 * i);
  }
  return result;
#endif
}

// The four bytes whose sum is TrellisValue + kTrellisMaxValue. Bits of the state above the 16th do not matter.
template <int kColumn>
QAMSERVE_HOST_DEVICE inline uint32_t TrellisBytes(uint32_t state) {
  constexpr uint32_t a = kTrellisA[kColumn], b = kTrellisB[kColumn], c = kTrellisC[kColumn];
  return PickBytes(state * a, state * b + c, 0x5410);
}

template <int kColumn>
QAMSERVE_HOST_DEVICE inline int32_t TrellisValueByBytes(uint32_t state) {
  return static_cast<int32_t>(AddBytes(TrellisBytes<kColumn>(state), static_cast<uint32_t>(-kTrellisMaxValue)));
}

}  // namespace qamserve
