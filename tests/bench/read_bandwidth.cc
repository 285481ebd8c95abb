#include "tests/bench/read_bandwidth.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <new>

namespace qamserve {
namespace {

// Loops that are timed more than once: what disturbs a pass seldom makes the fastest look slower than three others.
constexpr size_t kFinalists = 4;

// Memory on large pages where the system gives them, so that no walk of a page table is measured.
class Memory {
 public:
  Memory(int64_t bytes, ThreadPool& pool) : bytes_(std::max(kReadUnit, bytes / kReadUnit * kReadUnit)) {
    constexpr size_t kLargePage = size_t{2} << 20;
    const size_t rounded = (static_cast<size_t>(bytes_) + kLargePage - 1) / kLargePage * kLargePage;
    data_.reset(static_cast<uint8_t*>(std::aligned_alloc(kLargePage, rounded)));
    if (data_ == nullptr) throw std::bad_alloc();
    (void)madvise(data_.get(), rounded, MADV_HUGEPAGE);  // advice: what came of it does not matter
    // Written by those who will read, so that every page is there and near before the clock starts.
    ForEachPart(pool, [](uint8_t* part, int64_t size) { std::fill_n(part, size, uint8_t{1}); });
  }

  int64_t bytes() const { return bytes_; }

  // Calls body(part, size) for a part a thread.
  template <typename Body>
  void ForEachPart(ThreadPool& pool, const Body& body) const {
    const int64_t units = bytes_ / kReadUnit;
    pool.ParallelFor(units, (units + pool.threads() - 1) / pool.threads(), [&](int64_t begin, int64_t end) {
      body(data_.get() + begin * kReadUnit, (end - begin) * kReadUnit);
    });
  }

 private:
  struct Free {
    void operator()(uint8_t* data) const { std::free(data); }
  };
  int64_t bytes_;
  std::unique_ptr<uint8_t, Free> data_;
};

// Bytes a second of one pass.
double Pass(const ReadLoop& loop, const Memory& memory, ThreadPool& pool) {
  std::atomic<uint64_t> total = 0;
  const auto start = std::chrono::steady_clock::now();
  memory.ForEachPart(pool, [&](const uint8_t* part, int64_t size) { total += loop.sum(part, size); });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  // Reading the total keeps the sums from being optimized away.
  return total.load() > 0 ? static_cast<double>(memory.bytes()) / seconds.count() : 0;
}

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "32768K" in bytes.
int64_t CacheBytes(const std::string& text) {
  char* end = nullptr;
  const int64_t number = std::strtoll(text.c_str(), &end, 10);
  return number << (*end == 'K' ? 10 : *end == 'M' ? 20 : 0);
}

}  // namespace

double MeasureReadBandwidth(int64_t bytes, int repetitions, ThreadPool& pool, std::string* loop) {
  struct Timed {
    ReadLoop loop;
    double best;
  };
  const Memory memory(bytes, pool);
  std::vector<Timed> timed;
  for (const ReadLoop& each : ReadLoops()) timed.push_back({each, Pass(each, memory, pool)});
  const auto faster = [](const Timed& a, const Timed& b) { return a.best > b.best; };
  std::sort(timed.begin(), timed.end(), faster);
  timed.resize(std::min(timed.size(), kFinalists));
  for (int i = 1; i < repetitions; ++i) {
    for (Timed& each : timed) each.best = std::max(each.best, Pass(each.loop, memory, pool));
  }
  const Timed& best = *std::min_element(timed.begin(), timed.end(), faster);
  if (loop != nullptr) {
    *loop = fmt::format("{}, {} stream{}{}", best.loop.isa, best.loop.streams, best.loop.streams == 1 ? "" : "s",
                        best.loop.ahead == 0 ? "" : fmt::format(", asked for {} bytes ahead", best.loop.ahead));
  }
  return best.best;
}

int64_t LastLevelCacheBytes(const std::string& folder) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 0;
  std::map<std::string, int64_t> caches;  // by the processors that share them
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::string sharers;
    int64_t bytes = 0, last_level = 0;
    for (int index = 0;; ++index) {
      const std::string cache = fmt::format("{}/cpu{}/cache/index{}/", folder, cpu, index);
      const int64_t level = std::strtoll(FirstLine(cache + "level").c_str(), nullptr, 10);
      if (level == 0) break;
      if (level < last_level || FirstLine(cache + "type") == "Instruction") continue;
      last_level = level;
      bytes = CacheBytes(FirstLine(cache + "size"));
      sharers = FirstLine(cache + "shared_cpu_list");
    }
    if (bytes > 0) caches[sharers] = bytes;
  }
  int64_t total = 0;
  for (const auto& [sharers, bytes] : caches) total += bytes;
  return total;
}

int64_t ReadBandwidthBytes(int64_t cache_bytes, int64_t memory_bytes) {
  constexpr int64_t kLeast = int64_t{512} << 20;
  return std::min(std::max(kLeast, 16 * cache_bytes), memory_bytes / 4);
}

int64_t ReadBandwidthBytes() {
  return ReadBandwidthBytes(LastLevelCacheBytes(), int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE));
}

}  // namespace qamserve
