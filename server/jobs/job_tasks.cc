#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/jobs/job_manager.h"
#include "server/jobs/job_teller.h"

namespace qamserve {
namespace {

// Watchers hear of progress within a task this often at most.
constexpr int64_t kProgressMs = 200;
constexpr int64_t kCollectMs = int64_t{3600} * 1000;

bool HasManyArtifacts(const JobRecord& job) {
  const auto spec = JobSpecFromJson(job.spec_json);
  return spec.ok() && !spec->ladder.empty();
}

}  // namespace

// --- Leases ---

absl::StatusOr<std::optional<TaskGrant>> JobManager::WaitForTask(const std::string& worker, const TaskFilter& filter,
                                                                 int64_t timeout_ms, const std::atomic<bool>& stop) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    uint64_t version = 0;
    {
      std::lock_guard lock(mutex_);
      version = work_version_;
    }
    if (stop) return std::nullopt;
    ASSIGN_OR_RETURN(std::optional<TaskGrant> grant, TryLease(worker, filter));
    if (grant) return grant;
    std::unique_lock lock(mutex_);
    if (!work_.wait_until(lock, deadline, [&] { return stopped_ || work_version_ != version; })) return std::nullopt;
  }
}

absl::StatusOr<std::optional<TaskGrant>> JobManager::TryLease(const std::string& worker, const TaskFilter& filter) {
  Teller teller(*this);
  std::lock_guard lock(jobs_mutex_);
  // Asked under the lock, so that nothing is leased behind PutBackTasks.
  if (IsStopped()) return Unavailable("SHUTTING_DOWN", "the server is shutting down");
  const int64_t now = options_.now_ms();
  ASSIGN_OR_RETURN(const std::optional<TaskRecord> task, store_.LeaseTask(worker, filter, now, options_.lease_ms));
  if (!task) return std::nullopt;
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(task->job));
  const JobState before = job.state;
  if (job.state == JobState::kQueued) RETURN_IF_ERROR(JobMachine(job).Apply(JobEvent::kStart, now));
  if (job.state == JobState::kRunning && task->stage >= TaskStage::kAssemble) {
    RETURN_IF_ERROR(JobMachine(job).Apply(JobEvent::kGate, now));
  }
  if (job.state != before) {
    RETURN_IF_ERROR(store_.Apply({.jobs = {job}, .tasks = {}, .artifact = {}}));
    Notice({.kind = JobNotice::Kind::kJobState, .job = job});
  }
  auto grant = GrantLocked(job, *task);
  if (!grant.ok()) {
    RETURN_IF_ERROR(
        EndLeaseLocked(*task, grant.status(), JobNotice::Kind::kTaskRetried, TaskBackoffMs(task->attempts)));
    return std::nullopt;
  }
  Changed(job.id);
  std::lock_guard memory(mutex_);
  due_changed_ = true;
  due_.notify_all();
  return std::optional<TaskGrant>(*std::move(grant));
}

absl::StatusOr<TaskGrant> JobManager::GrantLocked(const JobRecord& job, const TaskRecord& task) {
  TaskGrant grant;
  grant.lease = {.job = job.id, .index = task.index, .worker = task.worker, .lease_id = task.lease_id};
  grant.input.job = job;
  grant.input.task = task;
  ASSIGN_OR_RETURN(grant.input.spec, JobSpecFromJson(job.spec_json));
  ASSIGN_OR_RETURN(grant.input.tasks, store_.ListTasks(job.id));
  grant.input.work_dir = fmt::format("{}/{}-{}-{}", options_.work_dir, job.id, task.index, task.lease_id);
  RETURN_IF_ERROR(CreateDirectories(grant.input.work_dir));
  auto stop = std::make_shared<std::atomic<bool>>(false);
  grant.stop = stop;
  std::lock_guard lock(mutex_);
  running_[task.lease_id] = {
      .lease = grant.lease, .started_ms = options_.now_ms(), .fraction = 0, .told_ms = 0, .stop = std::move(stop)};
  return grant;
}

absl::Status JobManager::RenewLease(const TaskLease& lease) {
  return store_.RenewLease(lease, options_.now_ms() + options_.lease_ms);
}

void JobManager::ReportProgress(const TaskLease& lease, double fraction) {
  {
    std::lock_guard lock(mutex_);
    const auto it = running_.find(lease.lease_id);
    if (it == running_.end()) return;
    it->second.fraction = std::clamp(fraction, 0.0, 1.0);
    const int64_t now = options_.now_ms();
    // A clock that was set back must not silence it.
    if (now >= it->second.told_ms && now - it->second.told_ms < kProgressMs) return;
    it->second.told_ms = now;
  }
  Teller teller(*this);
  Changed(lease.job);
}

void JobManager::StopLease(int64_t lease_id) {
  std::lock_guard lock(mutex_);
  const auto it = running_.find(lease_id);
  if (it == running_.end()) return;
  it->second.stop->store(true);
  running_.erase(it);
}

absl::StatusOr<TaskRecord> JobManager::LeasedTask(const TaskLease& lease) {
  auto task = store_.GetTask(lease.job, lease.index);
  if (absl::IsNotFound(task.status()) ||
      (task.ok() && (task->state != TaskState::kLeased || task->lease_id != lease.lease_id))) {
    return Aborted("LEASE_LOST", "worker {} no longer has the lease of task {} of job {}", lease.worker, lease.index,
                   lease.job);
  }
  return task;
}

// --- Outcomes ---

absl::Status JobManager::CompleteTask(const TaskLease& lease, const TaskOutcome& outcome, double seconds) {
  Teller teller(*this);
  std::lock_guard lock(jobs_mutex_);
  ASSIGN_OR_RETURN(TaskRecord task, LeasedTask(lease));
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(lease.job));
  ASSIGN_OR_RETURN(const auto all, store_.ListTasks(lease.job));
  bool last = outcome.next_tasks.empty();
  for (const TaskRecord& other : all) {
    task.done_sequence = std::max(task.done_sequence, other.done_sequence);
    last = last && (other.index == task.index || other.state == TaskState::kDone);
  }
  ++task.done_sequence;
  task.seconds = seconds;
  task.outcome_json = EncodeOutcome(outcome);
  task.blobs = outcome.blobs;
  LearnRate(task.stage, task.cost, seconds);
  if (outcome.quality) job.quality_json = QualityReportToJson(*outcome.quality);
  if (!outcome.gate.ok()) return RejectLocked(std::move(job), std::move(task), outcome.gate);
  RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kComplete));
  JobChange change{.jobs = {}, .tasks = {task}, .artifact = outcome.artifact};
  if (change.artifact) {
    change.artifact->job = job.id;
    change.artifact->created_ms = options_.now_ms();
    // A ladder has several, which its candidates name.
    if (last && !HasManyArtifacts(job)) job.artifact = change.artifact->digest;
  }
  for (int32_t index : outcome.spent_tasks) {
    TaskRecord& spent = change.tasks.emplace_back(all.at(static_cast<size_t>(index)));
    spent.blobs.clear();
  }
  for (const TaskRecord& next : outcome.next_tasks) change.new_tasks.emplace_back(next).job = job.id;
  if (last) {
    RETURN_IF_ERROR(EndJobLocked(job, std::move(change), JobEvent::kSucceed, absl::OkStatus()));
    SaveRates();
  } else {
    change.jobs.push_back(job);
    RETURN_IF_ERROR(store_.Apply(change));
    StopLease(lease.lease_id);
    Changed(job.id);
  }
  if (!outcome.spent_tasks.empty()) RETURN_IF_ERROR(catalog_.CollectGarbage().status());
  Notice({.kind = JobNotice::Kind::kTaskDone,
          .job = job,
          .stage = task.stage,
          .task_seconds = seconds,
          .weights = task.weights,
          .reason = ""});
  WakeWorkers();
  return absl::OkStatus();
}

absl::Status JobManager::FailTask(const TaskLease& lease, const absl::Status& error) {
  Teller teller(*this);
  std::lock_guard lock(jobs_mutex_);
  ASSIGN_OR_RETURN(TaskRecord task, LeasedTask(lease));
  if (absl::IsCancelled(error)) {
    --task.attempts;
    return EndLeaseLocked(task, error, JobNotice::Kind::kTaskRetried, 0);
  }
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(lease.job));
  if (ReasonOf(error).starts_with("GATE_") && job.state == JobState::kGating) {
    return RejectLocked(std::move(job), std::move(task), error);
  }
  if (!IsRetryable(error)) task.attempts = kMaxTaskAttempts;
  return EndLeaseLocked(task, error, JobNotice::Kind::kTaskRetried, TaskBackoffMs(task.attempts));
}

absl::Status JobManager::RejectLocked(JobRecord job, TaskRecord task, const absl::Status& gate) {
  RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kGiveUp, gate));
  Notice({.kind = JobNotice::Kind::kGateRefused,
          .job = job,
          .stage = task.stage,
          .task_seconds = 0,
          .weights = 0,
          .reason = ReasonOf(gate)});
  return EndJobLocked(std::move(job), {.jobs = {}, .tasks = {std::move(task)}, .artifact = {}}, JobEvent::kReject,
                      gate);
}

absl::Status JobManager::EndLeaseLocked(TaskRecord task, const absl::Status& error, JobNotice::Kind kind,
                                        int64_t backoff_ms) {
  const int64_t lease_id = task.lease_id;
  ASSIGN_OR_RETURN(const JobRecord job, store_.GetJob(task.job));
  Notice({.kind = kind, .job = job, .stage = task.stage, .task_seconds = 0, .weights = 0, .reason = ReasonOf(error)});
  if (task.attempts >= kMaxTaskAttempts) {
    const absl::Status cause =
        Annotate(error, fmt::format("task {} ({}, {})", task.index, TaskStageName(task.stage), task.name));
    RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kGiveUp, error));
    return EndJobLocked(job, {.jobs = {}, .tasks = {task}, .artifact = {}}, JobEvent::kFail, cause);
  }
  RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kRelease, error));
  task.not_before_ms = backoff_ms == 0 ? 0 : options_.now_ms() + backoff_ms;
  RETURN_IF_ERROR(store_.Apply({.jobs = {}, .tasks = {task}, .artifact = {}}));
  StopLease(lease_id);
  // A worker that reported an error is still there; one that stopped or fell silent is not.
  if (backoff_ms == 0) RETURN_IF_ERROR(RequeueIfIdleLocked(task.job));
  Changed(task.job);
  WakeWorkers();
  std::lock_guard lock(mutex_);
  due_changed_ = true;
  due_.notify_all();
  return absl::OkStatus();
}

absl::Status JobManager::RequeueIfIdleLocked(const std::string& id) {
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(id));
  if (job.state != JobState::kRunning) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto tasks, store_.ListTasks(id));
  for (const TaskRecord& task : tasks) {
    if (task.state == TaskState::kLeased) return absl::OkStatus();
  }
  RETURN_IF_ERROR(JobMachine(job).Apply(JobEvent::kLoseWorkers, options_.now_ms()));
  RETURN_IF_ERROR(store_.Apply({.jobs = {job}, .tasks = {}, .artifact = {}}));
  Notice({.kind = JobNotice::Kind::kJobState, .job = job});
  return absl::OkStatus();
}

absl::Status JobManager::PutBackTasks() {
  MarkStopped();
  Teller teller(*this);
  std::lock_guard lock(jobs_mutex_);
  ASSIGN_OR_RETURN(const auto leased, store_.ListLeasedTasks());
  for (TaskRecord task : leased) {
    --task.attempts;
    RETURN_IF_ERROR(EndLeaseLocked(task, Cancelled("SERVER_STOPPED", "the server ended at once"),
                                   JobNotice::Kind::kTaskRetried, 0));
  }
  return absl::OkStatus();
}

// --- What falls due ---

absl::Status JobManager::Maintain() {
  {
    Teller teller(*this);
    std::lock_guard lock(jobs_mutex_);
    ASSIGN_OR_RETURN(const auto expired, store_.ListExpiredTasks(options_.now_ms()));
    for (const TaskRecord& task : expired) {
      RETURN_IF_ERROR(EndLeaseLocked(task,
                                     Unavailable("LEASE_LAPSED", "worker {} did not renew its lease", task.worker),
                                     JobNotice::Kind::kLeaseExpired, 0));
    }
    // A task may have left its backoff.
    WakeWorkers();
  }
  const int64_t now = options_.now_ms();
  {
    std::lock_guard lock(mutex_);
    if (collected_ms_ == 0) collected_ms_ = now;
    if (now - collected_ms_ < kCollectMs) return absl::OkStatus();
    collected_ms_ = now;
  }
  return catalog_.CollectGarbage().status();
}

void JobManager::BackgroundLoop() {
  for (;;) {
    const int64_t now = options_.now_ms();
    const auto next = store_.NextDeadline(now);
    // If the store cannot be asked, it is asked again after a second; if nothing is due, garbage still is now and then.
    int64_t wait_ms = kCollectMs;
    if (!next.ok()) wait_ms = 1000;
    if (next.ok() && next->has_value()) wait_ms = std::clamp<int64_t>(**next - now, 0, kCollectMs);
    {
      std::unique_lock lock(mutex_);
      due_.wait_for(lock, std::chrono::milliseconds(wait_ms), [&] { return stopped_ || due_changed_; });
      if (stopped_) return;
      if (std::exchange(due_changed_, false)) continue;
    }
    // An error shows in the jobs that do not move, and is met again at the next deadline; without a pause that would be
    // at once.
    if (!Maintain().ok()) {
      std::unique_lock lock(mutex_);
      due_.wait_for(lock, std::chrono::seconds(1), [&] { return stopped_; });
    }
  }
}

}  // namespace qamserve
