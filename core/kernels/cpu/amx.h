// Products for several tokens on a CPU with AMX, whose tiles multiply 16 x 64 bytes by 64 x 16 at once. Included only
// by avx512.cc and amx.cc; what is here is the same, bit for bit, as what the other kernels give.
#pragma once

#include "core/kernels/kernels.h"

namespace qamserve::amx {

// Whether the CPU has byte tiles and the system lets this process use them. Asks for that, once for all threads.
bool Usable();

// Tokens from which the tiles win, and for codes of a trellis, whose decoding is most of the work. Measured on one core
// of a Sapphire Rapids from its second-level cache, beside builds on the other, G weights/s times tokens, and what
// AVX-512 has:
//              8 bits      9           11          trellis of 8 bits
//   3 tokens   83 (65)     68 (57)     28 (23)     22 (23)
//   8          153 (49)    144 (41)    72 (34)     57 (55)
//   16         233 (59)    229 (56)    122 (59)    93 (78)
//   64         369 (65)    353 (65)    213 (61)    188 (105)
inline constexpr int64_t kMinTokens = 3;
inline constexpr int64_t kMinTrellisTokens = 8;
// Columns, times bytes of an activation, that the 8-bit products take; more are left to others.
inline constexpr int64_t kMaxInt8Cols = 8192;

// Those of kernels.h, for at least kMinTokens tokens. `scratch` is at a multiple of 64.
void PackedMatmul(const PackedMatmulArgs& args);
void Int8Matmul(const Int8MatmulArgs& args);
void Int8WideMatmul(const Int8WideMatmulArgs& args);

}  // namespace qamserve::amx
