// The matrix instruction of packed_warp.h.
#pragma once

#include <cstdint>

namespace qamserve {

// c += a b for the whole warp, all of whose lanes must run it. `volatile` says so to the compiler: it may otherwise put
// the instruction where its result is wanted, which for 1 and 2 tokens is behind a branch that only some lanes take.
__device__ inline void MultiplyHalves(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace qamserve
