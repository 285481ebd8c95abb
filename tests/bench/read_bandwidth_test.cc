// The loops that the read bandwidth is measured with read all that they are given, and caches are counted right.
#include "tests/bench/read_bandwidth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>

#include "core/base/rng.h"
#include "tests/bench/fma_peak.h"

namespace qamserve {
namespace {

using ::testing::Contains;
using ::testing::Gt;

TEST(ReadLoops, EveryLoopSumsEveryWord) {
  constexpr int64_t kMost = 3 * kReadUnit;
  const std::unique_ptr<uint8_t, decltype(&std::free)> data(
      static_cast<uint8_t*>(std::aligned_alloc(4096, static_cast<size_t>(kMost))), std::free);
  auto* const words = reinterpret_cast<uint64_t*>(data.get());
  Rng rng(1);
  for (int64_t i = 0; i < kMost / 8; ++i) words[i] = rng.NextU64();
  std::set<std::string_view> isas;
  for (const ReadLoop& loop : ReadLoops()) {
    isas.insert(loop.isa);
    for (const int64_t bytes : {int64_t{0}, kReadUnit, kMost}) {
      uint64_t expected = 0;
      for (int64_t i = 0; i < bytes / 8; ++i) expected += words[i];
      EXPECT_EQ(loop.sum(data.get(), bytes), expected) << loop.isa << ' ' << loop.streams << ' ' << loop.ahead;
    }
  }
  EXPECT_THAT(isas, Contains("plain"));
#if defined(__x86_64__)
  EXPECT_EQ(isas.count("avx2"), __builtin_cpu_supports("avx2") ? 1 : 0);
  EXPECT_EQ(isas.count("avx512"), __builtin_cpu_supports("avx512f") ? 1 : 0);
#endif
}

TEST(ReadBandwidth, ItIsSaidWhichLoopWasFastest) {
  ThreadPool pool(2);
  std::string loop;
  // Less than a unit a thread, too: a thread then has nothing to do.
  for (const int64_t bytes : {kReadUnit, 100 * kReadUnit + 5}) {
    EXPECT_THAT(MeasureReadBandwidth(bytes, 2, pool, &loop), Gt(0));
    EXPECT_NE(loop.find(" stream"), std::string::npos) << loop;
  }
}

TEST(ReadBandwidth, WhatIsReadIsManyTimesTheCache) {
  constexpr int64_t kMiB = 1 << 20, kGiB = 1 << 30;
  EXPECT_EQ(ReadBandwidthBytes(0, 64 * kGiB), 512 * kMiB);
  EXPECT_EQ(ReadBandwidthBytes(8 * kMiB, 64 * kGiB), 512 * kMiB);
  EXPECT_EQ(ReadBandwidthBytes(256 * kMiB, 64 * kGiB), 4 * kGiB);
  EXPECT_EQ(ReadBandwidthBytes(256 * kMiB, 8 * kGiB), 2 * kGiB);
  EXPECT_EQ(ReadBandwidthBytes(8 * kMiB, kGiB), 256 * kMiB);
  EXPECT_THAT(ReadBandwidthBytes(), Gt(0));
}

TEST(FmaPeak, MoreThanOneASecond) {
  ThreadPool pool(1);
  // The slowest machine that is worth a test does a multiply-add in 10 ns.
  EXPECT_THAT(MeasureFmaPeak(1, pool), Gt(1e8));
}

class LastLevelCache : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "caches-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    cpu_set_t allowed;
    ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &allowed)) cpus_.push_back(cpu);
    }
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Add(int cpu, int index, const std::string& level, const std::string& type, const std::string& size,
           const std::string& sharers) const {
    const std::filesystem::path cache =
        folder_ / ("cpu" + std::to_string(cpu)) / "cache" / ("index" + std::to_string(index));
    std::filesystem::create_directories(cache);
    for (const auto& [name, text] : {std::pair<std::string, std::string>{"level", level},
                                     {"type", type},
                                     {"size", size},
                                     {"shared_cpu_list", sharers}}) {
      std::ofstream(cache / name) << text << '\n';
    }
  }

  std::filesystem::path folder_;
  std::vector<int> cpus_;
};

TEST_F(LastLevelCache, OneThatAllShareCountsOnce) {
  for (const int cpu : cpus_) {
    Add(cpu, 0, "1", "Data", "48K", std::to_string(cpu));
    Add(cpu, 1, "1", "Instruction", "99M", std::to_string(cpu));
    Add(cpu, 2, "2", "Unified", "1024K", std::to_string(cpu));
    Add(cpu, 3, "3", "Unified", "32768K", "0-1023");
  }
  EXPECT_EQ(LastLevelCacheBytes(folder_), int64_t{32} << 20);
}

TEST_F(LastLevelCache, SeveralCountTogether) {
  for (const int cpu : cpus_) Add(cpu, 0, "2", "Unified", "3M", std::to_string(cpu));
  EXPECT_EQ(LastLevelCacheBytes(folder_), static_cast<int64_t>(cpus_.size()) * 3 << 20);
  // A processor that this process may not use.
  Add(5000, 0, "2", "Unified", "3M", "5000");
  EXPECT_EQ(LastLevelCacheBytes(folder_), static_cast<int64_t>(cpus_.size()) * 3 << 20);
}

TEST_F(LastLevelCache, NothingIsKnownOfAnEmptyFolder) { EXPECT_EQ(LastLevelCacheBytes(folder_), 0); }

}  // namespace
}  // namespace qamserve
