#include "tests/bench/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

namespace qamserve {
namespace {

// Eight sums at once, so that no add waits for the one before.
uint64_t Sum(const uint64_t* data, int64_t n) {
  uint64_t sums[8] = {};
  for (int64_t i = 0; i + 8 <= n; i += 8) {
    for (int64_t j = 0; j < 8; ++j) sums[j] += data[i + j];
  }
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

double MeasureReadBandwidth(int64_t bytes, int repetitions, ThreadPool& pool) {
  const int64_t words = bytes / 8;
  // Written here, so that every page is there before the clock starts.
  const std::vector<uint64_t> memory(static_cast<size_t>(words), 1);
  const int64_t grain = (words / pool.threads() + 7) / 8 * 8;
  double best = 0;
  for (int i = 0; i < repetitions; ++i) {
    std::atomic<uint64_t> total = 0;
    const auto start = std::chrono::steady_clock::now();
    pool.ParallelFor(words, grain,
                     [&](int64_t begin, int64_t end) { total += Sum(memory.data() + begin, end - begin); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    // Reading the total keeps the sums from being optimized away.
    if (total.load() > 0) best = std::max(best, static_cast<double>(words * 8) / seconds.count());
  }
  return best;
}

}  // namespace qamserve
