// Leases, and the queue that they are taken from.
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "server/store/sql_metadata_store.h"
#include "server/store/sql_rows.h"
#include "server/store/sql_statements.h"
#include "server/store/sql_task_rows.h"

namespace qamserve {
namespace {

// So many jobs are looked at in one statement for one that has something to lease; the first nearly always has.
constexpr size_t kProbedJobs = 16;

// A renewal that moves progress by less is not told to listeners.
constexpr double kToldProgress = 0.005;

// Which of the jobs $3...$18 have a task to lease now ($1), of stage $2 (-1 = of any): the first READY one that is due
// is of the first round and stage that is not done. Both are one step into the index tasks_open each, whose condition
// has to be said (state <> 3) for SQLite to see that it may be used. A stage is below 16.
constexpr const char* kProbeSql =
    "SELECT j.id FROM jobs j WHERE j.id IN ($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"
    " AND (SELECT t.round * 16 + t.stage FROM tasks t WHERE t.job = j.id AND t.state = 1 AND t.state <> 3"
    "   AND t.not_before_ms <= $1 AND ($2 < 0 OR t.stage = $2) ORDER BY t.round, t.stage LIMIT 1)"
    " = (SELECT o.round * 16 + o.stage FROM tasks o WHERE o.job = j.id AND o.state <> 3"
    "   ORDER BY o.round, o.stage LIMIT 1)";

// Ids of leases are random: no counter that every lease would have to change, and none that was ever given out comes
// again, not even after the store was restored from a backup.
int64_t RandomLeaseId() {
  uint64_t bits = 0;
  do {
    while (::getrandom(&bits, sizeof bits, 0) != static_cast<ssize_t>(sizeof bits)) {
    }
    // 53 bits, so that JSON's numbers hold it.
    bits >>= 11;
  } while (bits == 0);
  return static_cast<int64_t>(bits);
}

int64_t StageOrAny(const TaskFilter& filter) { return filter.stage ? static_cast<int64_t>(*filter.stage) : -1; }

absl::StatusOr<std::vector<std::string>> Probe(SqlTransaction& transaction, std::vector<std::string> jobs,
                                               const TaskFilter& filter, int64_t now_ms) {
  std::array<std::string, kProbedJobs> ids;
  std::copy(jobs.begin(), jobs.end(), ids.begin());
  std::set<std::string> able;
  RETURN_IF_ERROR(transaction.Query(kProbeSql,
                                    {now_ms, StageOrAny(filter), ids[0], ids[1], ids[2], ids[3], ids[4], ids[5], ids[6],
                                     ids[7], ids[8], ids[9], ids[10], ids[11], ids[12], ids[13], ids[14], ids[15]},
                                    [&](SqlRow& row) { able.insert(row.Text()); }));
  std::erase_if(jobs, [&](const std::string& job) { return !able.contains(job); });
  return jobs;
}

}  // namespace

std::string LockJobSql(std::string_view for_share) {
  return fmt::format("SELECT 1 FROM jobs WHERE id = $1 AND state IN (1, 2, 3) {}", for_share);
}

// The task is found, locked and changed by one statement, which sees one state of the job: so nothing of a later stage
// is leased while an earlier one is being completed. A task that somebody else has just locked is passed over.
std::string ClaimSql(std::string_view skip_locked) {
  return fmt::format(
      "UPDATE tasks SET state = 2, attempts = attempts + 1, worker = $3, lease_id = $4, lease_expires_ms = $5,"
      " progress = 0, version = version + 1 WHERE job = $1 AND state = 1 AND position = (SELECT position FROM tasks"
      "   WHERE job = $1 AND state = 1 AND state <> 3 AND not_before_ms <= $2 AND ($6 < 0 OR stage = $6)"
      "   AND (round, stage) = (SELECT round, stage FROM tasks WHERE job = $1 AND state <> 3"
      "     ORDER BY round, stage LIMIT 1) ORDER BY position LIMIT 1 {})"
      " RETURNING {}",
      skip_locked, kTaskColumns);
}

absl::StatusOr<std::map<std::string, int64_t>> SqlMetadataStore::CountRunning(SqlTransaction& transaction) {
  std::map<std::string, int64_t> running;
  RETURN_IF_ERROR(transaction.Query(
      "SELECT j.project, COUNT(*) FROM tasks t JOIN jobs j ON j.id = t.job WHERE t.state = 2 GROUP BY j.project", {},
      [&](SqlRow& row) {
        std::string project = row.Text();
        running[std::move(project)] = row.Int();
      }));
  return running;
}

absl::StatusOr<std::vector<std::string>> SqlMetadataStore::ReadQueue(SqlTransaction& transaction,
                                                                     const TaskFilter& filter, int64_t now_ms) {
  std::vector<QueuedJob> queue;
  for (const std::string& pool : std::set<std::string>(filter.pools.begin(), filter.pools.end())) {
    RETURN_IF_ERROR(transaction.Query(
        "SELECT id, project, priority, created_ms, sequence FROM jobs WHERE pool = $1 AND state IN (1, 2, 3)"
        " AND (codec_version = '' OR $2 = '' OR codec_version = $2)",
        {pool, filter.codec_version}, [&](SqlRow& row) {
          QueuedJob& job = queue.emplace_back();
          job.id = row.Text();
          job.project = row.Text();
          job.priority = static_cast<int32_t>(row.Int());
          job.created_ms = row.Int();
          job.sequence = row.Int();
        }));
  }
  std::vector<std::string> ids;
  if (queue.empty()) return ids;
  ASSIGN_OR_RETURN(const auto running, CountRunning(transaction));
  OrderQueue(queue, running, now_ms);
  ids.reserve(queue.size());
  for (QueuedJob& job : queue) ids.push_back(std::move(job.id));
  return ids;
}

absl::StatusOr<std::optional<TaskRecord>> SqlMetadataStore::Claim(SqlTransaction& transaction, const std::string& job,
                                                                  const std::string& worker, const TaskFilter& filter,
                                                                  int64_t now_ms, int64_t lease_ms) {
  // Whoever ends the job, or sets its tasks back, waits for this transaction or has been waited for.
  bool unfinished = false;
  RETURN_IF_ERROR(transaction.Query(lock_job_sql_.c_str(), {job}, [&](SqlRow&) { unfinished = true; }));
  std::optional<TaskRecord> task;
  if (!unfinished) return task;
  RETURN_IF_ERROR(transaction.Query(claim_sql_.c_str(),
                                    {job, now_ms, worker, RandomLeaseId(), now_ms + lease_ms, StageOrAny(filter)},
                                    [&](SqlRow& row) { task = ReadTask(row); }));
  return task;
}

absl::StatusOr<std::optional<TaskRecord>> SqlMetadataStore::LeaseTask(const std::string& worker,
                                                                      const TaskFilter& filter, int64_t now_ms,
                                                                      int64_t lease_ms) {
  std::optional<TaskRecord> task;
  RETURN_IF_ERROR(database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    task.reset();
    ASSIGN_OR_RETURN(const std::vector<std::string> queue, ReadQueue(transaction, filter, now_ms));
    for (size_t begin = 0; begin < queue.size(); begin += kProbedJobs) {
      const size_t end = std::min(begin + kProbedJobs, queue.size());
      ASSIGN_OR_RETURN(const std::vector<std::string> able, Probe(transaction,
                                                                  {queue.begin() + static_cast<ptrdiff_t>(begin),
                                                                   queue.begin() + static_cast<ptrdiff_t>(end)},
                                                                  filter, now_ms));
      for (const std::string& job : able) {
        ASSIGN_OR_RETURN(task, Claim(transaction, job, worker, filter, now_ms, lease_ms));
        if (!task) continue;
        transaction.Tell({.kind = StoreEvent::Kind::kJob, .id = job});
        return absl::OkStatus();
      }
    }
    return absl::OkStatus();
  }));
  return task;
}

absl::Status SqlMetadataStore::RenewLease(const TaskLease& lease, int64_t expires_ms, double progress) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t moved,
                     transaction.Run("UPDATE tasks SET lease_expires_ms = $4, progress = $5 WHERE job = $1"
                                     " AND position = $2 AND lease_id = $3 AND state = 2 AND ABS(progress - $5) >= $6",
                                     {lease.job, lease.index, lease.lease_id, expires_ms, progress, kToldProgress}));
    if (moved > 0) {
      transaction.Tell({.kind = StoreEvent::Kind::kJob, .id = lease.job});
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const int64_t renewed,
                     transaction.Run("UPDATE tasks SET lease_expires_ms = $4 WHERE job = $1 AND position = $2"
                                     " AND lease_id = $3 AND state = 2",
                                     {lease.job, lease.index, lease.lease_id, expires_ms}));
    if (renewed > 0) return absl::OkStatus();
    return Aborted("LEASE_LOST", "worker {} no longer has the lease of task {} of job {}", lease.worker, lease.index,
                   lease.job);
  });
}

absl::StatusOr<std::vector<TaskRecord>> SqlMetadataStore::ListExpiredTasks(int64_t now_ms) {
  return ReadList<TaskRecord>(*database_, [&](SqlTransaction& transaction, auto& out) {
    return QueryTasks(transaction,
                      "WHERE state = 2 AND lease_expires_ms <= $1 ORDER BY lease_expires_ms, job, position", {now_ms},
                      out);
  });
}

absl::StatusOr<std::vector<TaskRecord>> SqlMetadataStore::ListLeasedTasks() {
  return ReadList<TaskRecord>(*database_, [&](SqlTransaction& transaction, auto& out) {
    return QueryTasks(transaction, "WHERE state = 2 ORDER BY lease_expires_ms, job, position", {}, out);
  });
}

absl::StatusOr<std::optional<int64_t>> SqlMetadataStore::NextDeadline(int64_t now_ms) {
  std::optional<int64_t> deadline;
  RETURN_IF_ERROR(database_->Read([&](SqlTransaction& transaction) {
    deadline.reset();
    // not_before_ms > 0 is said for the index, which has only tasks that have one.
    return transaction.Query(
        "SELECT MIN(due) FROM (SELECT MIN(lease_expires_ms) AS due FROM tasks WHERE state = 2 UNION ALL"
        " SELECT MIN(t.not_before_ms) FROM tasks t JOIN jobs j ON t.job = j.id"
        "   WHERE t.state = 1 AND t.not_before_ms > 0 AND t.not_before_ms > $1 AND j.state IN (1, 2, 3)) AS deadlines",
        {now_ms}, [&](SqlRow& row) {
          if (!row.IsNull()) deadline = row.Int();
        });
  }));
  return deadline;
}

absl::StatusOr<QueueCounts> SqlMetadataStore::CountQueue() {
  QueueCounts counts;
  RETURN_IF_ERROR(database_->Read([&](SqlTransaction& transaction) -> absl::Status {
    counts = {};
    RETURN_IF_ERROR(transaction.Query(
        "SELECT pool, codec_version, state, COUNT(*), MIN(created_ms) FROM jobs WHERE state IN (1, 2, 3)"
        " GROUP BY pool, codec_version, state ORDER BY pool, codec_version, state",
        {}, [&](SqlRow& row) {
          QueueCounts::Jobs& jobs = counts.jobs.emplace_back();
          jobs.pool = row.Text();
          jobs.codec_version = row.Text();
          jobs.state = static_cast<JobState>(row.Int());
          jobs.count = row.Int();
          jobs.oldest_created_ms = row.Int();
        }));
    return transaction.Query(
        "SELECT j.pool, t.state, COUNT(*) FROM jobs j JOIN tasks t ON t.job = j.id WHERE j.state IN (1, 2, 3)"
        " GROUP BY j.pool, t.state ORDER BY j.pool, t.state",
        {}, [&](SqlRow& row) {
          QueueCounts::Tasks& tasks = counts.tasks.emplace_back();
          tasks.pool = row.Text();
          tasks.state = static_cast<TaskState>(row.Int());
          tasks.count = row.Int();
        });
  }));
  return counts;
}

}  // namespace qamserve
