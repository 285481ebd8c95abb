// How fast this machine reads memory: the bound that batch-1 decoding runs into.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/thread_pool.h"

namespace qamserve {

// A way to read: the sum, modulo 2^64, of the 64-bit words of `bytes` bytes at `data`, which are at a multiple of 64;
// `bytes` is a multiple of kReadUnit. Thread-safe.
struct ReadLoop {
  std::string_view isa;  // plain, avx2 or avx512
  int streams = 1;       // pages that are read side by side
  int ahead = 0;         // bytes that are asked for before they are read; 0: none
  uint64_t (*sum)(const uint8_t* data, int64_t bytes) = nullptr;
};
inline constexpr int64_t kReadUnit = int64_t{32} << 10;

// Those that this processor runs. Which is the fastest depends on the machine: how far its own prefetchers look, how
// many of them there are, how many lines a core waits for at a time.
std::vector<ReadLoop> ReadLoops();

// Bytes a second when all threads of `pool` sum `bytes` of memory together: the best of all loops, of `repetitions`
// passes each for those that are fast. `bytes` should be many times the last-level cache. `loop`, if given, is told
// which it was.
double MeasureReadBandwidth(int64_t bytes, int repetitions, ThreadPool& pool, std::string* loop = nullptr);

// What the last-level caches of the processors that this process may use hold together, in bytes; 0 if the system does
// not say. `folder` holds a folder for each processor, as /sys/devices/system/cpu does.
int64_t LastLevelCacheBytes(const std::string& folder = "/sys/devices/system/cpu");

// How much memory to read for a bandwidth that no cache has a part in: 16 times `cache_bytes`, at least 512 MiB, at
// most a quarter of `memory_bytes`.
int64_t ReadBandwidthBytes(int64_t cache_bytes, int64_t memory_bytes);
// The same for this machine.
int64_t ReadBandwidthBytes();

}  // namespace qamserve
