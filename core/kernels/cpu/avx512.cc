// Kernels for AVX-512. This file is compiled with what Avx512Kernels() asks for enabled; nothing in it runs unless the
// CPU has all of it. Float kernels keep to eight lanes, as their definition does, and gain what 32 registers give.
#include "core/kernels/kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#include "core/kernels/cpu/amx.h"
#include "core/kernels/cpu/int8_avx512.h"
#include "core/kernels/cpu/packed_avx512.h"

namespace qamserve {
namespace avx512 {
namespace {

constexpr int kDotTokens = 6;

// The second is written over the first, the third over both.
// clang-format off
#include "core/kernels/cpu/lanes_avx2.inc"
#include "core/kernels/cpu/float_kernels.inc"
#include "core/kernels/cpu/dense_avx512.inc"
// clang-format on

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

// With AMX, tokens enough to win by it.
void PackedMatmulTiles(const PackedMatmulArgs& a) {
  if (a.x.tokens < (a.w.table == nullptr ? amx::kMinTrellisTokens : amx::kMinTokens)) return PackedMatmul(a);
  PackedMatmulArgs aligned = a;
  aligned.scratch = AlignScratch(a.scratch);
  amx::PackedMatmul(aligned);
}
void Int8MatmulTiles(const Int8MatmulArgs& a) {
  const bool fits = PaddedCols(a.w.cols) <= amx::kMaxInt8Cols;
  return fits && a.x.tokens >= amx::kMinTokens ? amx::Int8Matmul(a) : Int8Matmul(a);
}
void Int8WideMatmulTiles(const Int8WideMatmulArgs& a) {
  const bool fits = 2 * PaddedCols(a.w.cols) <= amx::kMaxInt8Cols;
  return fits && a.x.tokens >= amx::kMinTokens ? amx::Int8WideMatmul(a) : Int8WideMatmul(a);
}

}  // namespace
}  // namespace avx512

const Kernels* AmxKernels() {
  static constexpr Kernels kKernels = {"amx",
                                       avx512::DenseMatmulTwoRows,
                                       avx512::PackedMatmulTiles,
                                       avx512::QuantizeInput,
                                       avx512::RmsNorm,
                                       avx512::Softmax,
                                       avx512::SiluMul,
                                       avx512::GeluMul,
                                       avx512::ToFloat,
                                       avx512::TrellisStep,
                                       avx512::Int8MatmulTiles,
                                       avx512::QuantizeInput8,
                                       avx512::Int8WideMatmulTiles,
                                       avx512::SampleWeights};
  return Avx512Kernels() != nullptr && amx::Usable() ? &kKernels : nullptr;
}

const Kernels* Avx512Kernels() {
  static constexpr Kernels kKernels = {"avx512",
                                       avx512::DenseMatmulTwoRows,
                                       avx512::PackedMatmul,
                                       avx512::QuantizeInput,
                                       avx512::RmsNorm,
                                       avx512::Softmax,
                                       avx512::SiluMul,
                                       avx512::GeluMul,
                                       avx512::ToFloat,
                                       avx512::TrellisStep,
                                       avx512::Int8Matmul,
                                       avx512::QuantizeInput8,
                                       avx512::Int8WideMatmul,
                                       avx512::SampleWeights};
  // The builtin asks the system, too, whether it keeps the wide registers and the masks.
  const bool runs = Avx2Kernels() != nullptr && __builtin_cpu_supports("avx512f") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
                    __builtin_cpu_supports("avx512vnni");
  return runs ? &kKernels : nullptr;
}

}  // namespace qamserve

#else

namespace qamserve {
const Kernels* Avx512Kernels() { return nullptr; }
const Kernels* AmxKernels() { return nullptr; }
}  // namespace qamserve

#endif
