#include "server/store/queue_order.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>
#include <utility>

namespace qamserve {
namespace {

// Place in a row: tasks of the project, order of creation.
using Place = std::pair<int64_t, int64_t>;
struct PlacedJob {
  Place place;
  QueuedJob job;
};

// The first job of a row that has not been taken. What compares less comes first.
struct Head {
  int64_t negative_priority = 0;
  Place place;
  int32_t row = 0;
  size_t index = 0;

  bool operator>(const Head& other) const {
    return std::tie(negative_priority, place) > std::tie(other.negative_priority, other.place);
  }
};

}  // namespace

int64_t EffectivePriority(const QueuedJob& job, int64_t now_ms) {
  // A clock that was set back ages nothing.
  const int64_t waited_ms = std::max<int64_t>(now_ms - job.created_ms, 0);
  return job.priority + std::min(waited_ms / kAgingMs, kMaxAgingPoints);
}

void OrderQueue(std::vector<QueuedJob>& jobs, const std::map<std::string, int64_t>& running, int64_t now_ms) {
  std::map<int32_t, std::vector<PlacedJob>> rows;  // by priority
  for (QueuedJob& job : jobs) {
    const auto project = running.find(job.project);
    const Place place(project == running.end() ? 0 : project->second, job.sequence);
    const int32_t priority = job.priority;
    rows[priority].push_back({.place = place, .job = std::move(job)});
  }
  std::priority_queue<Head, std::vector<Head>, std::greater<>> heads;
  const auto add_head = [&](int32_t priority, size_t index) {
    const std::vector<PlacedJob>& row = rows[priority];
    if (index == row.size()) return;
    heads.push({.negative_priority = -EffectivePriority(row[index].job, now_ms),
                .place = row[index].place,
                .row = priority,
                .index = index});
  };
  for (auto& [priority, row] : rows) {
    std::sort(row.begin(), row.end(), [](const PlacedJob& a, const PlacedJob& b) { return a.place < b.place; });
    add_head(priority, 0);
  }
  for (QueuedJob& next : jobs) {
    const Head head = heads.top();
    heads.pop();
    next = std::move(rows[head.row][head.index].job);
    add_head(head.row, head.index + 1);
  }
}

}  // namespace qamserve
