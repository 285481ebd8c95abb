// What the kernels of core/kernels/cuda take. All pointers are to memory of the stream's device.
#pragma once

#include <cstdint>

namespace qamserve {

// Rings of 32 rows, as TrellisSearch::Encode takes them one at a time: x, y [rings][32] in units of TrellisStep, codes
// [rings][32].
struct CudaTrellisArgs {
  int pair_bits = 0;
  int64_t rings = 0;
  const float* x = nullptr;
  const float* y = nullptr;
  uint16_t* codes = nullptr;
};

}  // namespace qamserve
