#include "core/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <new>
#include <thread>
#include <vector>

namespace qamserve {
namespace {

TEST(ThreadPoolTest, CountsTheCaller) {
  EXPECT_EQ(ThreadPool(1).threads(), 1);
  EXPECT_EQ(ThreadPool(4).threads(), 4);
}

TEST(ThreadPoolTest, EachIndexOnceInRangesOfAtMostTheGrain) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int64_t n : {1, 2, 7, 8, 9, 1000}) {
      for (int64_t grain : {1, 3, 8, 2000}) {
        std::vector<std::atomic<int>> hits(static_cast<size_t>(n));
        std::atomic<bool> bad_range = false;
        pool.ParallelFor(n, grain, [&](int64_t begin, int64_t end) {
          if (begin % grain != 0 || end <= begin || end - begin > grain || end > n) bad_range = true;
          for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
        });
        EXPECT_FALSE(bad_range) << threads << " " << n << " " << grain;
        for (const auto& hit : hits) EXPECT_EQ(hit, 1) << threads << " " << n << " " << grain;
      }
    }
  }
}

TEST(ThreadPoolTest, NothingToDo) {
  ThreadPool pool(2);
  for (int64_t n : {0, -1}) pool.ParallelFor(n, 1, [](int64_t, int64_t) { FAIL(); });
}

TEST(ThreadPoolTest, GrainBelowOneIsOne) {
  ThreadPool pool(2);
  std::atomic<int> calls = 0;
  pool.ParallelFor(5, 0, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(end, begin + 1);
    ++calls;
  });
  EXPECT_EQ(calls, 5);
}

// Every call ends only after its own work: plain (not atomic) results are visible to the caller. Run under the thread
// sanitizer this also shows that calls do not overlap.
TEST(ThreadPoolTest, ManyShortCallsSeeTheirResults) {
  ThreadPool pool(3);
  std::vector<int64_t> results(16);
  for (int64_t round = 0; round < 5000; ++round) {
    pool.ParallelFor(16, 1, [&](int64_t begin, int64_t) { results[static_cast<size_t>(begin)] = round + begin; });
    for (int64_t i = 0; i < 16; ++i) ASSERT_EQ(results[static_cast<size_t>(i)], round + i);
  }
}

TEST(ThreadPoolTest, WakesThreadsThatSleep) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    // Two indices that wait for each other end only if two threads run them.
    std::atomic<int> arrived = 0;
    pool.ParallelFor(2, 1, [&](int64_t, int64_t) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
    EXPECT_EQ(arrived, 2);
  }
}

// A call does not wait for threads that never came to it: the caller finds all ranges, and a thread that wakes up late
// finds the call over.
TEST(ThreadPoolTest, ManyCallsWithMoreThreadsThanCores) {
  ThreadPool pool(32);
  std::atomic<int64_t> sum = 0;
  for (int64_t round = 0; round < 2000; ++round) pool.ParallelFor(3, 1, [&](int64_t begin, int64_t) { sum += begin; });
  EXPECT_EQ(sum, 2000 * 3);
}

TEST(ThreadPoolTest, CallersFromManyThreadsTakeTurns) {
  ThreadPool pool(3);
  std::atomic<int> inside = 0;
  std::atomic<int64_t> sum = 0;
  std::vector<std::thread> callers;
  for (int64_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 200; ++round) {
        pool.ParallelFor(8, 1, [&](int64_t begin, int64_t) {
          EXPECT_LE(++inside, 3);
          sum += caller * 8 + begin;
          --inside;
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 200 * (31 * 32 / 2));
}

// On whichever thread: the caller gets it after all others are out, and the next call is as if nothing had been.
TEST(ThreadPoolTest, WhatABodyThrowsReachesTheCaller) {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int64_t bad = 0; bad < 8; ++bad) {
      std::atomic<int> inside = 0;
      std::atomic<int64_t> begun = 0;
      EXPECT_THROW(pool.ParallelFor(1000, 1,
                                    [&](int64_t begin, int64_t) {
                                      if (begin == bad) throw std::bad_alloc();
                                      ++inside;
                                      ++begun;
                                      std::this_thread::sleep_for(std::chrono::microseconds(200));
                                      --inside;
                                    }),
                   std::bad_alloc);
      EXPECT_EQ(inside, 0);
      EXPECT_LT(begun, 100) << "what was not begun is left out";
      std::atomic<int64_t> sum = 0;
      pool.ParallelFor(8, 1, [&](int64_t begin, int64_t) { sum += begin; });
      EXPECT_EQ(sum, 28);
    }
  }
}

}  // namespace
}  // namespace qamserve
