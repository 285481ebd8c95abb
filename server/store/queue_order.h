// In which order unfinished jobs get workers. Jobs of one priority form a row: the project that has the fewest tasks
// under way comes first, then the older job. Next is always the head of a row: the one whose priority, grown while it
// waited, is highest. So projects of equal priority share the workers whoever came first, and what is less important is
// late, never forgotten: when nothing of a row is under way, its head is its oldest job, which has grown most. Pure
// functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace qamserve {

// A job gains one point of priority for each of these that it has waited since it was made, up to kMaxAgingPoints: what
// is far more important is not overtaken.
inline constexpr int64_t kAgingMs = int64_t{10} * 60 * 1000;
inline constexpr int64_t kMaxAgingPoints = 100;

struct QueuedJob {
  std::string id;
  std::string project;
  int32_t priority = 0;
  int64_t created_ms = 0;
  int64_t sequence = 0;
};

int64_t EffectivePriority(const QueuedJob& job, int64_t now_ms);

// `running`: tasks under way by project (none = 0). Puts `jobs` in order.
void OrderQueue(std::vector<QueuedJob>& jobs, const std::map<std::string, int64_t>& running, int64_t now_ms);

}  // namespace qamserve
