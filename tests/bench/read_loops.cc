// The loops of ReadLoops. Each is compiled for its own instruction set by an attribute, so that nothing else in this
// file is.
#include "tests/bench/read_bandwidth.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qamserve {
namespace {

// Streams are pages that follow each other: hardware prefetchers look at a page each.
constexpr int64_t kPage = 4096;
constexpr int64_t kStep = 256;  // bytes that one stream reads in turn
constexpr int64_t kLine = 64;
constexpr int kMostStreams = 8;
static_assert(kReadUnit == kMostStreams * kPage);

// Where the stream that reads at data + at goes on `ahead` bytes later, `at` bytes into its page.
template <int kStreams, int kAhead>
inline __attribute__((always_inline)) const uint8_t* Later(const uint8_t* from, int64_t at) {
  return from + kAhead + (at + kAhead >= kPage ? (kStreams - 1) * kPage : 0);
}

// What the compiler makes of sums of words, for machines without AVX2.
template <int kStreams, int kAhead>
uint64_t SumPlain(const uint8_t* data, int64_t bytes) {
  uint64_t sums[kStreams][8] = {};
  for (const uint8_t* const end = data + bytes; data < end; data += kStreams * kPage) {
    for (int64_t at = 0; at < kPage; at += kStep) {
      for (int s = 0; s < kStreams; ++s) {
        const uint8_t* const from = data + s * kPage + at;
        for (int64_t line = 0; line < kStep; line += kLine) {
          if constexpr (kAhead > 0) __builtin_prefetch(Later<kStreams, kAhead>(from, at) + line);
          const auto* const words = reinterpret_cast<const uint64_t*>(from + line);
          for (int i = 0; i < 8; ++i) sums[s][i] += words[i];
        }
      }
    }
  }
  uint64_t total = 0;
  for (const auto& of_stream : sums) {
    for (const uint64_t sum : of_stream) total += sum;
  }
  return total;
}

#if defined(__x86_64__)
template <int kStreams, int kAhead>
__attribute__((target("avx2"))) uint64_t SumAvx2(const uint8_t* data, int64_t bytes) {
  __m256i sums[kStreams];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (const uint8_t* const end = data + bytes; data < end; data += kStreams * kPage) {
    for (int64_t at = 0; at < kPage; at += kStep) {
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) {
        const uint8_t* const from = data + s * kPage + at;
#pragma GCC unroll 4
        for (int64_t line = 0; line < kStep; line += kLine) {
          if constexpr (kAhead > 0) __builtin_prefetch(Later<kStreams, kAhead>(from, at) + line);
          const auto* const words = reinterpret_cast<const __m256i*>(from + line);
          sums[s] = _mm256_add_epi64(sums[s], _mm256_add_epi64(_mm256_load_si256(words), _mm256_load_si256(words + 1)));
        }
      }
    }
  }
  uint64_t total = 0;
  for (const __m256i& sum : sums) {
    uint64_t words[4];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), sum);
    for (const uint64_t word : words) total += word;
  }
  return total;
}

template <int kStreams, int kAhead>
__attribute__((target("avx512f"))) uint64_t SumAvx512(const uint8_t* data, int64_t bytes) {
  __m512i sums[kStreams];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (const uint8_t* const end = data + bytes; data < end; data += kStreams * kPage) {
    for (int64_t at = 0; at < kPage; at += kStep) {
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) {
        const uint8_t* const from = data + s * kPage + at;
        const auto* const lines = reinterpret_cast<const __m512i*>(from);
#pragma GCC unroll 4
        for (int line = 0; line < kStep / kLine; ++line) {
          if constexpr (kAhead > 0) __builtin_prefetch(Later<kStreams, kAhead>(from, at) + line * kLine);
        }
        const __m512i first = _mm512_add_epi64(_mm512_load_si512(lines), _mm512_load_si512(lines + 1));
        const __m512i last = _mm512_add_epi64(_mm512_load_si512(lines + 2), _mm512_load_si512(lines + 3));
        sums[s] = _mm512_add_epi64(sums[s], _mm512_add_epi64(first, last));
      }
    }
  }
  uint64_t total = 0;
  for (const __m512i& sum : sums) {
    uint64_t words[8];
    _mm512_storeu_si512(words, sum);
    for (const uint64_t word : words) total += word;
  }
  return total;
}
#endif

struct Plain {
  static constexpr std::string_view kName = "plain";
  template <int kStreams, int kAhead>
  static constexpr auto kSum = SumPlain<kStreams, kAhead>;
};
#if defined(__x86_64__)
struct Avx2 {
  static constexpr std::string_view kName = "avx2";
  template <int kStreams, int kAhead>
  static constexpr auto kSum = SumAvx2<kStreams, kAhead>;
};
struct Avx512 {
  static constexpr std::string_view kName = "avx512";
  template <int kStreams, int kAhead>
  static constexpr auto kSum = SumAvx512<kStreams, kAhead>;
};
#endif

template <typename Isa, int kStreams>
void AddStreams(std::vector<ReadLoop>& to) {
  to.push_back({Isa::kName, kStreams, 0, Isa::template kSum<kStreams, 0>});
  to.push_back({Isa::kName, kStreams, 1024, Isa::template kSum<kStreams, 1024>});
  to.push_back({Isa::kName, kStreams, 4096, Isa::template kSum<kStreams, 4096>});
}

#if defined(__x86_64__)
template <typename Isa>
void Add(std::vector<ReadLoop>& to) {
  AddStreams<Isa, 1>(to);
  AddStreams<Isa, 4>(to);
  AddStreams<Isa, kMostStreams>(to);
}
#endif

}  // namespace

std::vector<ReadLoop> ReadLoops() {
  std::vector<ReadLoop> loops;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) Add<Avx512>(loops);
  if (__builtin_cpu_supports("avx2")) Add<Avx2>(loops);
#endif
  AddStreams<Plain, 1>(loops);
  return loops;
}

}  // namespace qamserve
