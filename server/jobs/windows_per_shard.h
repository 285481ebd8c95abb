// How windows of text are cut into tasks, so that several workers share them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace qamserve {

// Of calibration. Part of the result: statistics are summed in shard order. A shard reads every weight once, which costs
// little beside its products: a window of 1024 tokens takes 2048 operations a weight.
inline constexpr int32_t kCalibrationWindows = 2;
// Of evaluation, whose windows are independent: no part of the result.
inline constexpr int32_t kEvaluationWindows = 1;
inline constexpr int kMaxEvaluationShards = 64;

inline int ShardsOf(int32_t windows, int32_t per_shard) { return (windows + per_shard - 1) / per_shard; }
inline int CalibrationShards(int32_t windows) { return ShardsOf(windows, kCalibrationWindows); }
inline int32_t EvaluationWindowsPerShard(int32_t windows) {
  return std::max(kEvaluationWindows, ShardsOf(windows, kMaxEvaluationShards));
}
inline int EvaluationShards(int32_t windows) { return ShardsOf(windows, EvaluationWindowsPerShard(windows)); }

inline std::vector<std::vector<int32_t>> ShardOf(const std::vector<std::vector<int32_t>>& windows, int32_t per_shard,
                                                 int shard) {
  std::vector<std::vector<int32_t>> part;
  const size_t begin = static_cast<size_t>(shard) * static_cast<size_t>(per_shard);
  const size_t end = std::min(windows.size(), begin + static_cast<size_t>(per_shard));
  for (size_t i = begin; i < end; ++i) part.push_back(windows[i]);
  return part;
}

}  // namespace qamserve
