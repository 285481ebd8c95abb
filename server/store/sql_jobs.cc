// Jobs and their tasks, but for leases.
#include <set>
#include <tuple>

#include "server/store/sql_metadata_store.h"
#include "server/store/sql_rows.h"
#include "server/store/sql_task_rows.h"

namespace qamserve {

TaskRecord ReadTask(SqlRow& row) {
  TaskRecord task;
  task.job = row.Text();
  task.index = static_cast<int32_t>(row.Int());
  task.stage = static_cast<TaskStage>(row.Int());
  task.state = static_cast<TaskState>(row.Int());
  task.name = row.Text();
  task.spec_json = row.Text();
  task.cost = row.Real();
  task.weights = row.Int();
  task.attempts = static_cast<int32_t>(row.Int());
  task.not_before_ms = row.Int();
  task.worker = row.Text();
  task.lease_id = row.Int();
  task.lease_expires_ms = row.Int();
  task.outcome_json = row.Text();
  task.done_sequence = row.Int();
  task.seconds = row.Real();
  ReadError(row, task.error);
  task.version = row.Int();
  task.round = static_cast<int32_t>(row.Int());
  task.progress = row.Real();
  task.lapses = static_cast<int32_t>(row.Int());
  return task;
}

absl::Status QueryTasks(SqlTransaction& transaction, const char* rest, std::initializer_list<SqlValue> values,
                        std::vector<TaskRecord>& out) {
  const std::string sql = fmt::format("SELECT {} FROM tasks {}", kTaskColumns, rest);
  return transaction.Query(sql.c_str(), values, [&](SqlRow& row) { out.push_back(ReadTask(row)); });
}

absl::Status QueryJobs(SqlTransaction& transaction, const char* rest, std::initializer_list<SqlValue> values,
                       std::vector<JobRecord>& out) {
  const std::string sql = fmt::format(
      "SELECT sequence, id, kind, state, key, display_name, checkpoint, artifact, spec_json, estimate_json,"
      " quality_json, load_as, pool, priority, error_reason, error_message, error_code, created_ms, started_ms,"
      " ended_ms, version, project, codec_version, trace_parent FROM jobs {}",
      rest);
  return transaction.Query(sql.c_str(), values, [&](SqlRow& row) {
    JobRecord& job = out.emplace_back();
    job.sequence = row.Int();
    job.id = row.Text();
    job.kind = static_cast<JobKind>(row.Int());
    job.state = static_cast<JobState>(row.Int());
    job.key = row.Text();
    job.display_name = row.Text();
    job.checkpoint = row.Text();
    job.artifact = row.Text();
    job.spec_json = row.Text();
    job.estimate_json = row.Text();
    job.quality_json = row.Text();
    job.load_as = row.Text();
    job.pool = row.Text();
    job.priority = static_cast<int32_t>(row.Int());
    ReadError(row, job.error);
    job.created_ms = row.Int();
    job.started_ms = row.Int();
    job.ended_ms = row.Int();
    job.version = row.Int();
    job.project = row.Text();
    job.codec_version = row.Text();
    job.trace_parent = row.Text();
  });
}

namespace {

absl::Status InsertTaskBlobs(SqlTransaction& transaction, const TaskRecord& task) {
  int64_t position = 0;
  for (const std::string& blob : task.blobs) {
    RETURN_IF_ERROR(transaction
                        .Run("INSERT INTO task_blobs (job, task, sha256, position) VALUES ($1, $2, $3, $4)",
                             {task.job, task.index, blob, position})
                        .status());
    ++position;
  }
  return absl::OkStatus();
}

absl::Status InsertTask(SqlTransaction& transaction, const TaskRecord& t) {
  RETURN_IF_ERROR(
      transaction
          .Run("INSERT INTO tasks (job, position, stage, state, name, spec_json, cost, weights, attempts,"
               " not_before_ms, worker, lease_id, lease_expires_ms, outcome_json, done_sequence, seconds,"
               " error_reason, error_message, error_code, round, progress, lapses, version) VALUES ($1, $2, $3, $4,"
               " $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, 1)",
               {t.job,
                t.index,
                t.stage,
                t.state,
                t.name,
                t.spec_json,
                t.cost,
                t.weights,
                t.attempts,
                t.not_before_ms,
                t.worker,
                t.lease_id,
                t.lease_expires_ms,
                t.outcome_json,
                t.done_sequence,
                t.seconds,
                t.error.reason,
                t.error.message,
                t.error.code,
                t.round,
                t.progress,
                t.lapses})
          .status());
  return InsertTaskBlobs(transaction, t);
}

absl::Status UpdateJob(SqlTransaction& transaction, const JobRecord& j) {
  const absl::StatusOr<int64_t> changed = transaction.Run(
      "UPDATE jobs SET state = $3, display_name = $4, artifact = $5, quality_json = $6, load_as = $7, priority = $8,"
      " error_reason = $9, error_message = $10, error_code = $11, started_ms = $12, ended_ms = $13,"
      " version = version + 1 WHERE id = $1 AND version = $2",
      {j.id, j.version, j.state, j.display_name, j.artifact, j.quality_json, j.load_as, j.priority, j.error.reason,
       j.error.message, j.error.code, j.started_ms, j.ended_ms});
  if (absl::IsAlreadyExists(changed.status())) {
    return AlreadyExists("JOB_EXISTS", "another unfinished job does the same work as job {}", j.id);
  }
  RETURN_IF_ERROR(changed.status());
  if (*changed > 0) return absl::OkStatus();
  return Aborted("VERSION_CONFLICT", "job {} was changed since version {} was read", j.id, j.version);
}

absl::Status UpdateTask(SqlTransaction& transaction, const TaskRecord& t) {
  ASSIGN_OR_RETURN(
      const int64_t changed,
      transaction.Run(
          "UPDATE tasks SET state = $4, attempts = $5, not_before_ms = $6, worker = $7, lease_id = $8,"
          " lease_expires_ms = $9, outcome_json = $10, done_sequence = $11, seconds = $12, error_reason = $13,"
          " error_message = $14, error_code = $15, progress = $16, lapses = $17, version = version + 1"
          " WHERE job = $1 AND position = $2 AND version = $3",
          {t.job, t.index, t.version, t.state, t.attempts, t.not_before_ms, t.worker, t.lease_id, t.lease_expires_ms,
           t.outcome_json, t.done_sequence, t.seconds, t.error.reason, t.error.message, t.error.code, t.progress,
           t.lapses}));
  if (changed == 0) {
    return Aborted("VERSION_CONFLICT", "task {} of job {} was changed since version {} was read", t.index, t.job,
                   t.version);
  }
  RETURN_IF_ERROR(transaction.Run("DELETE FROM task_blobs WHERE job = $1 AND task = $2", {t.job, t.index}).status());
  return InsertTaskBlobs(transaction, t);
}

// Puts back what is still leased of a job that has ended: a lease that was taken after the tasks of `change` were read.
// None can come behind it, because a claim holds the row of its job (sql_lease.cc) that this transaction has changed.
absl::Status ReleaseTasks(SqlTransaction& transaction, const std::string& job) {
  return transaction
      .Run(
          "UPDATE tasks SET state = 1, attempts = attempts - 1, worker = '', lease_id = 0, lease_expires_ms = 0,"
          " progress = 0, version = version + 1 WHERE job = $1 AND state = 2 AND state <> 3",
          {job})
      .status();
}

absl::Status ReadTaskBlobs(SqlTransaction& transaction, const std::string& job, std::vector<TaskRecord>& tasks) {
  std::map<int32_t, TaskRecord*> by_index;
  for (TaskRecord& task : tasks) by_index[task.index] = &task;
  return transaction.Query("SELECT task, sha256 FROM task_blobs WHERE job = $1 ORDER BY task, position", {job},
                           [&](SqlRow& row) {
                             const auto it = by_index.find(static_cast<int32_t>(row.Int()));
                             if (it != by_index.end()) it->second->blobs.push_back(row.Text());
                           });
}

void TellJob(SqlTransaction& transaction, const std::string& id) {
  transaction.Tell({.kind = StoreEvent::Kind::kJob, .id = id});
}

void TellWork(SqlTransaction& transaction) { transaction.Tell({.kind = StoreEvent::Kind::kWork, .id = ""}); }

// Whether a change may let a worker have a task that it could not have before: a READY one, one of a job that is queued
// again, or one of a stage that waited for the last one of a stage that is done now.
absl::StatusOr<bool> MakesWork(SqlTransaction& transaction, const JobChange& change) {
  if (!change.new_tasks.empty()) return true;
  for (const JobRecord& job : change.jobs) {
    if (job.state == JobState::kQueued) return true;
  }
  std::set<std::tuple<std::string, int32_t, TaskStage>> done;
  for (const TaskRecord& task : change.tasks) {
    if (task.state == TaskState::kReady) return true;
    if (task.state == TaskState::kDone) done.emplace(task.job, task.round, task.stage);
  }
  for (const auto& [job, round, stage] : done) {
    bool open = false;
    RETURN_IF_ERROR(
        transaction.Query("SELECT 1 FROM tasks WHERE job = $1 AND state <> 3 AND round = $2 AND stage = $3 LIMIT 1",
                          {job, round, stage}, [&](SqlRow&) { open = true; }));
    if (!open) return true;
  }
  return false;
}

}  // namespace

absl::Status SqlMetadataStore::InsertJob(const JobRecord& j, const std::vector<TaskRecord>& tasks) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    const absl::Status status =
        transaction
            .Run(
                "INSERT INTO jobs (id, kind, state, key, display_name, checkpoint, artifact, spec_json,"
                " estimate_json, quality_json, load_as, pool, priority, error_reason, error_message, error_code,"
                " created_ms, started_ms, ended_ms, project, codec_version, trace_parent, version) VALUES ($1, $2,"
                " $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, 1)",
                {j.id,       j.kind,         j.state,         j.key,          j.display_name, j.checkpoint,
                 j.artifact, j.spec_json,    j.estimate_json, j.quality_json, j.load_as,      j.pool,
                 j.priority, j.error.reason, j.error.message, j.error.code,   j.created_ms,   j.started_ms,
                 j.ended_ms, j.project,      j.codec_version, j.trace_parent})
            .status();
    if (absl::IsAlreadyExists(status)) {
      return AlreadyExists("JOB_EXISTS", "job {} or an unfinished job for the same work is there already", j.id);
    }
    RETURN_IF_ERROR(status);
    for (const TaskRecord& task : tasks) RETURN_IF_ERROR(InsertTask(transaction, task));
    TellJob(transaction, j.id);
    if (!tasks.empty()) TellWork(transaction);
    return absl::OkStatus();
  });
}

absl::StatusOr<JobRecord> SqlMetadataStore::GetJob(const std::string& id) {
  ASSIGN_OR_RETURN(std::optional<JobRecord> found,
                   ReadFirst<JobRecord>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     return QueryJobs(transaction, "WHERE id = $1", {id}, out);
                   }));
  if (!found) return NotFound("JOB_NOT_FOUND", "there is no job {}", id);
  return *std::move(found);
}

absl::StatusOr<std::optional<JobRecord>> SqlMetadataStore::FindJobByKey(const std::string& key) {
  return ReadFirst<JobRecord>(*database_, [&](SqlTransaction& transaction, auto& out) {
    return QueryJobs(transaction, "WHERE key = $1 ORDER BY sequence DESC LIMIT 1", {key}, out);
  });
}

absl::StatusOr<Page<JobRecord>> SqlMetadataStore::ListJobs(const PageRequest& page, const JobFilter& filter) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  const int64_t state = filter.state ? static_cast<int64_t>(*filter.state) : 0;
  ASSIGN_OR_RETURN(std::vector<JobRecord> jobs,
                   ReadList<JobRecord>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     return QueryJobs(transaction,
                                      "WHERE sequence < $1 AND ($2 = 0 OR state = $2) AND ($3 = '' OR checkpoint = $3)"
                                      " ORDER BY sequence DESC LIMIT $4",
                                      {bounds.before, state, filter.checkpoint, bounds.size + 1}, out);
                   }));
  std::vector<Sequenced<JobRecord>> rows;
  rows.reserve(jobs.size());
  for (JobRecord& job : jobs) {
    const int64_t sequence = job.sequence;
    rows.push_back({.sequence = sequence, .record = std::move(job)});
  }
  return CutPage(std::move(rows), bounds);
}

absl::StatusOr<std::vector<JobRecord>> SqlMetadataStore::ListUnfinishedJobs() {
  std::map<std::string, int64_t> running;
  ASSIGN_OR_RETURN(
      std::vector<JobRecord> jobs,
      ReadList<JobRecord>(*database_, [&](SqlTransaction& transaction, std::vector<JobRecord>& out) -> absl::Status {
        ASSIGN_OR_RETURN(running, CountRunning(transaction));
        return QueryJobs(transaction, "WHERE state IN (1, 2, 3) ORDER BY sequence", {}, out);
      }));
  std::vector<QueuedJob> queue;
  std::map<int64_t, JobRecord*> by_sequence;
  queue.reserve(jobs.size());
  for (JobRecord& job : jobs) {
    queue.push_back({.id = job.id,
                     .project = job.project,
                     .priority = job.priority,
                     .created_ms = job.created_ms,
                     .sequence = job.sequence});
    by_sequence[job.sequence] = &job;
  }
  OrderQueue(queue, running, NowMs());
  std::vector<JobRecord> ordered;
  ordered.reserve(jobs.size());
  for (const QueuedJob& place : queue) ordered.push_back(std::move(*by_sequence.at(place.sequence)));
  return ordered;
}

absl::StatusOr<std::vector<JobRecord>> SqlMetadataStore::ListLoadWishes() {
  return ReadList<JobRecord>(*database_, [&](SqlTransaction& transaction, std::vector<JobRecord>& out) {
    // kLoadWishMark
    return QueryJobs(transaction, "WHERE state = 4 AND load_as LIKE '+%' ORDER BY sequence", {}, out);
  });
}

absl::Status SqlMetadataStore::DeleteJob(const std::string& id) {
  return DeleteRow("DELETE FROM jobs WHERE id = $1", id, "JOB_NOT_FOUND", {{.kind = StoreEvent::Kind::kJob, .id = id}});
}

absl::StatusOr<TaskRecord> SqlMetadataStore::GetTask(const std::string& job, int32_t index) {
  ASSIGN_OR_RETURN(std::optional<TaskRecord> found,
                   ReadFirst<TaskRecord>(*database_, [&](SqlTransaction& transaction, auto& out) -> absl::Status {
                     RETURN_IF_ERROR(QueryTasks(transaction, "WHERE job = $1 AND position = $2", {job, index}, out));
                     return out.empty() ? absl::OkStatus() : ReadTaskBlobs(transaction, job, out);
                   }));
  if (!found) return NotFound("TASK_NOT_FOUND", "there is no task {} of job {}", index, job);
  return *std::move(found);
}

absl::StatusOr<std::vector<TaskRecord>> SqlMetadataStore::ListTasks(const std::string& job) {
  return ReadList<TaskRecord>(*database_, [&](SqlTransaction& transaction, auto& out) -> absl::Status {
    RETURN_IF_ERROR(QueryTasks(transaction, "WHERE job = $1 ORDER BY position", {job}, out));
    return ReadTaskBlobs(transaction, job, out);
  });
}

absl::Status SqlMetadataStore::Apply(const JobChange& change) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    std::set<std::string> changed;
    for (const JobRecord& job : change.jobs) {
      RETURN_IF_ERROR(UpdateJob(transaction, job));
      changed.insert(job.id);
    }
    for (const TaskRecord& task : change.tasks) {
      RETURN_IF_ERROR(UpdateTask(transaction, task));
      changed.insert(task.job);
    }
    for (const JobRecord& job : change.jobs) {
      if (IsFinal(job.state)) RETURN_IF_ERROR(ReleaseTasks(transaction, job.id));
    }
    for (const TaskRecord& task : change.new_tasks) {
      RETURN_IF_ERROR(InsertTask(transaction, task));
      changed.insert(task.job);
    }
    if (change.artifact) RETURN_IF_ERROR(InsertArtifact(transaction, *change.artifact));
    for (const std::string& job : changed) TellJob(transaction, job);
    ASSIGN_OR_RETURN(const bool makes_work, MakesWork(transaction, change));
    if (makes_work) TellWork(transaction);
    return absl::OkStatus();
  });
}

}  // namespace qamserve
