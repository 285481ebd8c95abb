// How calibration is cut into tasks. Part of the result: statistics are summed in shard order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qamserve {

// A shard reads every weight once, so few shards save reading; hidden states of 8 windows of 1024 tokens are 134 MB at
// hidden size 4096.
inline constexpr int32_t kWindowsPerShard = 8;

inline int CalibrationShards(int32_t windows) { return (windows + kWindowsPerShard - 1) / kWindowsPerShard; }

inline std::vector<std::vector<int32_t>> ShardOf(const std::vector<std::vector<int32_t>>& windows, int shard) {
  std::vector<std::vector<int32_t>> part;
  const size_t begin = static_cast<size_t>(shard) * kWindowsPerShard;
  for (size_t i = begin; i < windows.size() && i < begin + kWindowsPerShard; ++i) part.push_back(windows[i]);
  return part;
}

}  // namespace qamserve
