#include "server/access/rate_limit.h"

#include <algorithm>
#include <cmath>

namespace qamserve {
namespace {

constexpr double kMinuteMs = 60'000;
// Sums of fractions stay a hair below the whole number that they stand for.
constexpr double kOne = 1 - 1e-9;

}  // namespace

int64_t MinuteBucket::WaitMs(int64_t now_ms) {
  if (per_minute_ == 0) return 0;
  Fill(now_ms);
  if (level_ >= kOne) return 0;
  return static_cast<int64_t>(std::ceil((1 - level_) * kMinuteMs / static_cast<double>(per_minute_)));
}

void MinuteBucket::Take(int64_t count, int64_t now_ms) {
  if (per_minute_ == 0) return;
  Fill(now_ms);
  level_ -= static_cast<double>(count);
}

int64_t MinuteBucket::Left(int64_t now_ms) {
  if (per_minute_ == 0) return -1;
  Fill(now_ms);
  return std::max<int64_t>(0, static_cast<int64_t>(std::floor(level_ + (1 - kOne))));
}

void MinuteBucket::Fill(int64_t now_ms) {
  const double full = static_cast<double>(per_minute_);
  if (now_ms > filled_ms_)
    level_ = std::min(full, level_ + full * static_cast<double>(now_ms - filled_ms_) / kMinuteMs);
  filled_ms_ = now_ms;
}

}  // namespace qamserve
