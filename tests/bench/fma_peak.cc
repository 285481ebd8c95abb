#include "tests/bench/fma_peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qamserve {
namespace {

// Sums that do not wait for each other: two units times the 4 or 5 steps that one multiply-add takes. Loops over them
// are unrolled, else they would lie in memory.
constexpr int kSums = 12;
// Keeps all sums finite.
constexpr float kFactor = 0.999f, kTerm = 0.001f;

// `rounds` multiply-adds into each lane of kSums sums; a number that all of them must seem to be needed for.
struct Loop {
  int64_t lanes;
  float (*run)(int64_t rounds);
};

float RunPlain(int64_t rounds) {
  float sums[kSums] = {};
  for (int64_t i = 0; i < rounds; ++i) {
    for (float& sum : sums) sum = sum * kFactor + kTerm;
  }
  float total = 0;
  for (const float sum : sums) total += sum;
  return total;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) float RunAvx2(int64_t rounds) {
  const __m256 factor = _mm256_set1_ps(kFactor), term = _mm256_set1_ps(kTerm);
  __m256 sums[kSums];
#pragma GCC unroll 12
  for (int i = 0; i < kSums; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) sums[s] = _mm256_fmadd_ps(sums[s], factor, term);
  }
  float total = 0;
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) {
    float lanes[8];
    _mm256_storeu_ps(lanes, sums[s]);
    total += lanes[0] + lanes[7];
  }
  return total;
}

__attribute__((target("avx512f"))) float RunAvx512(int64_t rounds) {
  const __m512 factor = _mm512_set1_ps(kFactor), term = _mm512_set1_ps(kTerm);
  __m512 sums[kSums];
#pragma GCC unroll 12
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) sums[s] = _mm512_fmadd_ps(sums[s], factor, term);
  }
  float total = 0;
#pragma GCC unroll 12
  for (int s = 0; s < kSums; ++s) {
    float lanes[16];
    _mm512_storeu_ps(lanes, sums[s]);
    total += lanes[0] + lanes[15];
  }
  return total;
}
#endif

Loop Widest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {16, RunAvx512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {8, RunAvx2};
#endif
  return {1, RunPlain};
}

}  // namespace

double MeasureFmaPeak(int repetitions, ThreadPool& pool) {
  constexpr int64_t kRounds = int64_t{10} << 20;  // 60 M steps of a core that has two units
  const Loop loop = Widest();
  std::atomic<int> not_numbers = 0;
  double best = 0;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    pool.ParallelFor(pool.threads(), 1, [&](int64_t begin, int64_t end) {
      // Looking at the result keeps the loop from being optimized away.
      for (int64_t at = begin; at < end; ++at) not_numbers += std::isfinite(loop.run(kRounds)) ? 0 : 1;
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const auto done = static_cast<double>(pool.threads() * kRounds * kSums * loop.lanes);
    if (not_numbers == 0) best = std::max(best, done / seconds.count());
  }
  return best;
}

}  // namespace qamserve
