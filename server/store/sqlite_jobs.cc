#include "server/store/sqlite_store_impl.h"

namespace qamserve {

absl::Status SqliteMetadataStore::InsertJob(const JobRecord& j, const std::vector<TaskRecord>& tasks) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*db_));
  const absl::Status status = db_->Run(
      "INSERT INTO jobs (id, kind, state, key, display_name, checkpoint, artifact, spec_json, estimate_json,"
      " quality_json, load_as, pool, priority, error_reason, error_message, error_code, created_ms, started_ms,"
      " ended_ms, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
      {j.id, j.kind, j.state, j.key, j.display_name, j.checkpoint, j.artifact, j.spec_json, j.estimate_json,
       j.quality_json, j.load_as, j.pool, j.priority, j.error.reason, j.error.message, j.error.code, j.created_ms,
       j.started_ms, j.ended_ms});
  if (absl::IsAlreadyExists(status)) {
    return AlreadyExists("JOB_EXISTS", "job {} or an unfinished job for the same work is there already", j.id);
  }
  RETURN_IF_ERROR(status);
  for (const TaskRecord& task : tasks) RETURN_IF_ERROR(InsertTask(task));
  return transaction->Commit();
}

absl::Status SqliteMetadataStore::InsertTask(const TaskRecord& t) {
  RETURN_IF_ERROR(db_->Run("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?)",
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
                            t.round}));
  return PutTaskBlobs(t);
}

absl::Status SqliteMetadataStore::PutTaskBlobs(const TaskRecord& task) {
  RETURN_IF_ERROR(db_->Run("DELETE FROM task_blobs WHERE job = ? AND task = ?", {task.job, task.index}));
  for (size_t i = 0; i < task.blobs.size(); ++i) {
    RETURN_IF_ERROR(db_->Run("INSERT INTO task_blobs VALUES (?, ?, ?, ?)",
                             {task.job, task.index, task.blobs[i], static_cast<int64_t>(i)}));
  }
  return absl::OkStatus();
}

absl::Status SqliteMetadataStore::QueryJobs(const char* sql, std::initializer_list<SqlValue> values,
                                            std::vector<JobRecord>& out) {
  return db_->Query(sql, values, [&](SqlRow& row) {
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
    job.error.reason = row.Text();
    job.error.message = row.Text();
    job.error.code = static_cast<int>(row.Int());
    job.created_ms = row.Int();
    job.started_ms = row.Int();
    job.ended_ms = row.Int();
    job.version = row.Int();
  });
}

absl::Status SqliteMetadataStore::QueryTasks(const char* sql, std::initializer_list<SqlValue> values,
                                             std::vector<TaskRecord>& out) {
  return db_->Query(sql, values, [&](SqlRow& row) {
    TaskRecord& task = out.emplace_back();
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
    task.error.reason = row.Text();
    task.error.message = row.Text();
    task.error.code = static_cast<int>(row.Int());
    task.version = row.Int();
    task.round = static_cast<int32_t>(row.Int());
  });
}

absl::Status SqliteMetadataStore::ReadTaskBlobs(const std::string& job, std::vector<TaskRecord>& tasks) {
  std::map<int32_t, TaskRecord*> by_index;
  for (TaskRecord& task : tasks) by_index[task.index] = &task;
  return db_->Query("SELECT task, sha256 FROM task_blobs WHERE job = ? ORDER BY task, position", {job},
                    [&](SqlRow& row) {
                      const auto it = by_index.find(static_cast<int32_t>(row.Int()));
                      if (it != by_index.end()) it->second->blobs.push_back(row.Text());
                    });
}

absl::StatusOr<JobRecord> SqliteMetadataStore::GetJob(const std::string& id) {
  std::lock_guard lock(mutex_);
  std::vector<JobRecord> found;
  RETURN_IF_ERROR(QueryJobs("SELECT * FROM jobs WHERE id = ?", {id}, found));
  if (found.empty()) return NotFound("JOB_NOT_FOUND", "there is no job {}", id);
  return std::move(found.front());
}

absl::StatusOr<std::optional<JobRecord>> SqliteMetadataStore::FindJobByKey(const std::string& key) {
  std::lock_guard lock(mutex_);
  std::vector<JobRecord> found;
  RETURN_IF_ERROR(QueryJobs("SELECT * FROM jobs WHERE key = ? ORDER BY sequence DESC LIMIT 1", {key}, found));
  if (found.empty()) return std::nullopt;
  return std::move(found.front());
}

absl::StatusOr<Page<JobRecord>> SqliteMetadataStore::ListJobs(const PageRequest& page, const JobFilter& filter) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  std::lock_guard lock(mutex_);
  std::vector<JobRecord> found;
  RETURN_IF_ERROR(
      QueryJobs("SELECT * FROM jobs WHERE sequence < ?1 AND (?2 = 0 OR state = ?2) AND (?3 = '' OR checkpoint = ?3)"
                " ORDER BY sequence DESC LIMIT ?4",
                {bounds.before, filter.state ? static_cast<int64_t>(*filter.state) : int64_t{0}, filter.checkpoint,
                 bounds.size + 1},
                found));
  std::vector<int64_t> sequences;
  sequences.reserve(found.size());
  for (const JobRecord& job : found) sequences.push_back(job.sequence);
  return CutPage(std::move(found), sequences, bounds);
}

absl::StatusOr<std::vector<JobRecord>> SqliteMetadataStore::ListUnfinishedJobs() {
  std::lock_guard lock(mutex_);
  std::vector<JobRecord> found;
  RETURN_IF_ERROR(QueryJobs("SELECT * FROM jobs WHERE state IN (1, 2, 3) ORDER BY priority DESC, sequence", {}, found));
  return found;
}

absl::Status SqliteMetadataStore::DeleteJob(const std::string& id) {
  return DeleteRow("DELETE FROM jobs WHERE id = ?", id, "JOB_NOT_FOUND");
}

absl::StatusOr<TaskRecord> SqliteMetadataStore::GetTask(const std::string& job, int32_t index) {
  std::lock_guard lock(mutex_);
  std::vector<TaskRecord> found;
  RETURN_IF_ERROR(QueryTasks("SELECT * FROM tasks WHERE job = ? AND position = ?", {job, index}, found));
  if (found.empty()) return NotFound("TASK_NOT_FOUND", "there is no task {} of job {}", index, job);
  RETURN_IF_ERROR(ReadTaskBlobs(job, found));
  return std::move(found.front());
}

absl::StatusOr<std::vector<TaskRecord>> SqliteMetadataStore::ListTasks(const std::string& job) {
  std::lock_guard lock(mutex_);
  std::vector<TaskRecord> found;
  RETURN_IF_ERROR(QueryTasks("SELECT * FROM tasks WHERE job = ? ORDER BY position", {job}, found));
  RETURN_IF_ERROR(ReadTaskBlobs(job, found));
  return found;
}

absl::Status SqliteMetadataStore::UpdateJob(const JobRecord& j) {
  const absl::Status status = db_->Run(
      "UPDATE jobs SET state = ?, display_name = ?, artifact = ?, quality_json = ?, load_as = ?, priority = ?,"
      " error_reason = ?, error_message = ?, error_code = ?, started_ms = ?, ended_ms = ?, version = version + 1"
      " WHERE id = ? AND version = ?",
      {j.state, j.display_name, j.artifact, j.quality_json, j.load_as, j.priority, j.error.reason, j.error.message,
       j.error.code, j.started_ms, j.ended_ms, j.id, j.version});
  if (absl::IsAlreadyExists(status)) {
    return AlreadyExists("JOB_EXISTS", "another unfinished job does the same work as job {}", j.id);
  }
  RETURN_IF_ERROR(status);
  if (db_->changed_rows() > 0) return absl::OkStatus();
  return Aborted("VERSION_CONFLICT", "job {} was changed since version {} was read", j.id, j.version);
}

absl::Status SqliteMetadataStore::UpdateTask(const TaskRecord& t) {
  RETURN_IF_ERROR(db_->Run(
      "UPDATE tasks SET state = ?, attempts = ?, not_before_ms = ?, worker = ?, lease_id = ?, lease_expires_ms = ?,"
      " outcome_json = ?, done_sequence = ?, seconds = ?, error_reason = ?, error_message = ?, error_code = ?,"
      " version = version + 1 WHERE job = ? AND position = ? AND version = ?",
      {t.state, t.attempts, t.not_before_ms, t.worker, t.lease_id, t.lease_expires_ms, t.outcome_json, t.done_sequence,
       t.seconds, t.error.reason, t.error.message, t.error.code, t.job, t.index, t.version}));
  if (db_->changed_rows() > 0) return PutTaskBlobs(t);
  return Aborted("VERSION_CONFLICT", "task {} of job {} was changed since version {} was read", t.index, t.job,
                 t.version);
}

absl::Status SqliteMetadataStore::Apply(const JobChange& change) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*db_));
  for (const JobRecord& job : change.jobs) RETURN_IF_ERROR(UpdateJob(job));
  for (const TaskRecord& task : change.tasks) RETURN_IF_ERROR(UpdateTask(task));
  for (const TaskRecord& task : change.new_tasks) RETURN_IF_ERROR(InsertTask(task));
  if (change.artifact) RETURN_IF_ERROR(InsertArtifact(*change.artifact));
  return transaction->Commit();
}

// Jobs come in order of importance; of each, only tasks of its first unfinished round and stage may start.
absl::StatusOr<std::optional<TaskRecord>> SqliteMetadataStore::FirstReadyTask(const TaskFilter& filter,
                                                                              int64_t now_ms) {
  std::vector<std::string> jobs;
  RETURN_IF_ERROR(
      db_->Query("SELECT id FROM jobs WHERE state IN (1, 2, 3) AND pool = ? ORDER BY priority DESC, sequence",
                 {filter.pool}, [&](SqlRow& row) { jobs.push_back(row.Text()); }));
  for (const std::string& job : jobs) {
    std::vector<TaskRecord> found;
    RETURN_IF_ERROR(
        QueryTasks("SELECT * FROM tasks WHERE job = ?1 AND state = 1 AND not_before_ms <= ?2"
                   " AND (round, stage) = (SELECT round, stage FROM tasks WHERE job = ?1 AND state <> 3"
                   "   ORDER BY round, stage LIMIT 1) ORDER BY position LIMIT 1",
                   {job, now_ms}, found));
    if (!found.empty() && (!filter.stage || *filter.stage == found.front().stage)) return std::move(found.front());
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<TaskRecord>> SqliteMetadataStore::LeaseTask(const std::string& worker,
                                                                         const TaskFilter& filter, int64_t now_ms,
                                                                         int64_t lease_ms) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*db_));
  ASSIGN_OR_RETURN(std::optional<TaskRecord> task, FirstReadyTask(filter, now_ms));
  if (!task) return std::nullopt;
  RETURN_IF_ERROR(db_->Run("UPDATE counters SET value = value + 1 WHERE name = 'lease'"));
  RETURN_IF_ERROR(db_->Query("SELECT value FROM counters WHERE name = 'lease'", {},
                             [&](SqlRow& row) { task->lease_id = row.Int(); }));
  task->state = TaskState::kLeased;
  task->worker = worker;
  task->lease_expires_ms = now_ms + lease_ms;
  ++task->attempts;
  RETURN_IF_ERROR(UpdateTask(*task));
  ++task->version;
  RETURN_IF_ERROR(transaction->Commit());
  return task;
}

absl::Status SqliteMetadataStore::RenewLease(const TaskLease& lease, int64_t expires_ms) {
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(
      db_->Run("UPDATE tasks SET lease_expires_ms = ? WHERE job = ? AND position = ? AND lease_id = ? AND state = 2",
               {expires_ms, lease.job, lease.index, lease.lease_id}));
  if (db_->changed_rows() > 0) return absl::OkStatus();
  return Aborted("LEASE_LOST", "worker {} no longer has the lease of task {} of job {}", lease.worker, lease.index,
                 lease.job);
}

absl::StatusOr<std::vector<TaskRecord>> SqliteMetadataStore::ListExpiredTasks(int64_t now_ms) {
  std::lock_guard lock(mutex_);
  std::vector<TaskRecord> found;
  RETURN_IF_ERROR(QueryTasks("SELECT * FROM tasks WHERE state = 2 AND lease_expires_ms <= ? ORDER BY job, position",
                             {now_ms}, found));
  return found;
}

absl::StatusOr<std::vector<TaskRecord>> SqliteMetadataStore::ListLeasedTasks() {
  std::lock_guard lock(mutex_);
  std::vector<TaskRecord> found;
  RETURN_IF_ERROR(QueryTasks("SELECT * FROM tasks WHERE state = 2 ORDER BY job, position", {}, found));
  return found;
}

absl::StatusOr<std::optional<int64_t>> SqliteMetadataStore::NextDeadline(int64_t now_ms) {
  std::lock_guard lock(mutex_);
  std::optional<int64_t> deadline;
  RETURN_IF_ERROR(
      db_->Query("SELECT MIN(at) FROM (SELECT MIN(lease_expires_ms) AS at FROM tasks WHERE state = 2 UNION ALL"
                 " SELECT MIN(not_before_ms) FROM tasks JOIN jobs ON job = id"
                 "   WHERE tasks.state = 1 AND jobs.state IN (1, 2, 3) AND not_before_ms > ?)",
                 {now_ms}, [&](SqlRow& row) {
                   if (!row.IsNull()) deadline = row.Int();
                 }));
  return deadline;
}

}  // namespace qamserve
