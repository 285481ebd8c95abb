// Kernels for AVX-512. This file is compiled with what Avx512Kernels() asks for enabled; nothing in it runs unless the
// CPU has all of it. What is not here yet is AVX2's.
#include "core/kernels/kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

namespace qamserve {
namespace avx512 {
namespace {

// Two vectors of the running minimum stay in registers while the points stream by. Squares, their sum and the entry
// are one instruction, whose sums wrap as uint32: three instructions a vector, and bound by the second-level cache (256
// KiB of points a step; 2.4 us a step on Zen 4 where AVX2 takes 3.0, and multiplying and adding apart 2.5).
void TrellisStep(const TrellisStepArgs& a) {
  const __m512i target = _mm512_set1_epi32(a.target);
  const int32_t* points = a.points;
  for (int k = 0; k < a.blocks; ++k) {
    const uint32_t* entries = a.entries + int64_t{k / a.share} * a.items;
    __m512i best[2] = {_mm512_set1_epi32(-1), _mm512_set1_epi32(-1)};
    for (int i = 0; i < a.items; ++i, points += kTrellisLanes) {
      const __m512i entry = _mm512_set1_epi32(static_cast<int32_t>(entries[i]));
      for (int v = 0; v < 2; ++v) {
        const __m512i d = _mm512_sub_epi16(_mm512_loadu_si512(points + 16 * v), target);
        best[v] = _mm512_min_epu32(best[v], _mm512_dpwssd_epi32(entry, d, d));
      }
    }
    for (int v = 0; v < 2; ++v) _mm512_storeu_si512(a.best + k * kTrellisLanes + 16 * v, best[v]);
  }
}

Kernels Table(const Kernels& avx2) {
  Kernels kernels = avx2;
  kernels.name = "avx512";
  kernels.trellis_step = TrellisStep;
  return kernels;
}

// The builtin asks the system, too, whether it keeps the wide registers and the masks.
bool CanRun() {
  return Avx2Kernels() != nullptr && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
}

}  // namespace
}  // namespace avx512

const Kernels* Avx512Kernels() {
  static const Kernels kKernels = avx512::CanRun() ? avx512::Table(*Avx2Kernels()) : Kernels{};
  return kKernels.trellis_step != nullptr ? &kKernels : nullptr;
}

}  // namespace qamserve

#else

namespace qamserve {
const Kernels* Avx512Kernels() { return nullptr; }
}  // namespace qamserve

#endif
