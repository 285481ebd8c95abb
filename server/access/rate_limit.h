// Limits per minute as a token bucket: it holds a minute's worth, fills evenly, and one taken too much is owed.
#pragma once

#include <cstdint>

namespace qamserve {

// Not thread-safe. Times are milliseconds of one clock; when that jumps back, nothing is gained meanwhile.
class MinuteBucket {
 public:
  // `per_minute` 0 = no limit.
  explicit MinuteBucket(int64_t per_minute) : per_minute_(per_minute), level_(static_cast<double>(per_minute)) {}

  // Milliseconds until one can be taken: 0 = now.
  int64_t WaitMs(int64_t now_ms);
  // Takes `count`, whether it is there or not: what is owed makes the next ones wait.
  void Take(int64_t count, int64_t now_ms);
  // Whole ones that are left; -1 = no limit.
  int64_t Left(int64_t now_ms);

 private:
  void Fill(int64_t now_ms);

  const int64_t per_minute_;
  double level_;
  int64_t filled_ms_ = 0;
};

}  // namespace qamserve
