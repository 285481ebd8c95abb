// Who works on what: leases, how they end without an outcome, and what falls due.
#include <algorithm>
#include <chrono>

#include "core/base/file.h"
#include "core/kernels/cuda/device.h"
#include "server/jobs/job_decision.h"
#include "server/jobs/job_teller.h"
#include "server/store/request_ids.h"

namespace qamserve {
namespace {

using Clock = std::chrono::steady_clock;

// Watchers hear of progress within a task this often at most.
constexpr int64_t kProgressMs = 200;
constexpr int64_t kCollectMs = int64_t{3600} * 1000;
// How long a task rests for which the store was not to be had: it may be tried so for hours.
constexpr int64_t kPutOffMs = 5000;
// Of several processes: the leases of the others are looked for so often, and each process waits a little longer than
// it must, by chance, so that they do not all do the same at once.
constexpr int64_t kSharedWaitMs = 5000;
constexpr int64_t kSharedJitterMs = 250;
// A call that takes so long has met a store that was away. Workers could not renew their leases meanwhile.
constexpr std::chrono::seconds kAwayTime(2);

std::string KeyOf(const TaskFilter& filter) {
  std::string key = fmt::format("{}/{}", filter.codec_version, filter.stage ? TaskStageName(*filter.stage) : "");
  for (const std::string& pool : filter.pools) key += "/" + pool;
  return key;
}

}  // namespace

// --- Taking a task ---

absl::StatusOr<std::optional<TaskGrant>> JobManager::WaitForTask(const std::string& worker, const TaskFilter& filter,
                                                                 int64_t timeout_ms, const std::atomic<bool>& stop) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  for (bool again = false;; again = true) {
    uint64_t version = 0;
    {
      std::lock_guard lock(mutex_);
      version = work_version_;
    }
    if (stop) return std::nullopt;
    ASSIGN_OR_RETURN(std::optional<TaskGrant> grant, TryLease(worker, filter, version, again));
    if (grant) return grant;
    std::unique_lock lock(mutex_);
    if (!work_.wait_until(lock, deadline, [&] { return stopped_ || work_version_ != version; })) return std::nullopt;
  }
}

absl::StatusOr<std::optional<TaskGrant>> JobManager::TryLease(const std::string& worker, const TaskFilter& filter,
                                                              uint64_t work_version, bool again) {
  const std::string key = KeyOf(filter);
  std::optional<TaskRecord> task;
  absl::StatusOr<TaskGrant> grant;
  {
    Teller teller(*this);
    std::lock_guard lock(jobs_mutex_);
    // Asked under the lock, so that nothing is leased behind PutBackTasks.
    if (IsStopped()) return Unavailable("SHUTTING_DOWN", "the server is shutting down");
    if (again) {
      // All lanes wake together; where one has found nothing, the others need not ask.
      std::lock_guard memory(mutex_);
      const auto idle = idle_at_.find(key);
      if (idle != idle_at_.end() && idle->second == work_version) return std::nullopt;
    }
    ASSIGN_OR_RETURN(task, store_.LeaseTask(worker, filter, Now(), options_.lease_ms));
    if (!task) {
      std::lock_guard memory(mutex_);
      idle_at_[key] = work_version;
      return std::nullopt;
    }
    grant = GrantLocked(*task);
    if (grant.ok()) {
      Changed(task->job);
      // Of several processes the loop looks often enough to see this lease before it can lapse.
      if (!shared_) WakeBackground();
      return std::optional<TaskGrant>(*std::move(grant));
    }
  }
  // The job ended as the task was leased, other processes change it faster than this one can, or the store is away or
  // takes no writes: none of it is the task's fault.
  const absl::Status& error = grant.status();
  const bool store_fault = IsStoreFault(error);
  const LeaseEnd how = absl::IsAborted(error) || store_fault ? LeaseEnd::kGivenBack : LeaseEnd::kFailed;
  const absl::Status ended = EndLease(LeaseOf(*task), error, how);
  if (!ended.ok() && ReasonOf(ended) != "LEASE_LOST") return ended;
  if (store_fault) return error;
  return std::nullopt;
}

// Brings the job's state up to a task of it that was leased.
absl::StatusOr<JobRecord> JobManager::BeginLocked(const TaskRecord& task) {
  JobRecord job;
  absl::Status applied;
  // Conflicts are few: it is done once or twice for each job.
  constexpr int kAttempts = 5;
  for (int attempt = 1; attempt <= kAttempts; ++attempt) {
    ASSIGN_OR_RETURN(job, store_.GetJob(task.job));
    if (IsFinal(job.state)) return Aborted("JOB_ENDED", "job {} is {}", job.id, JobStateName(job.state));
    ASSIGN_OR_RETURN(const bool changed, Advance(job, task.stage, Now()));
    if (!changed) return job;
    applied = store_.Apply({.jobs = {job}, .tasks = {}, .artifact = {}});
    if (applied.ok()) {
      Notice(StateNotice(job));
      return job;
    }
    if (!IsConflict(applied)) return applied;
    RestAfterConflict(attempt);
  }
  return applied;
}

absl::StatusOr<TaskGrant> JobManager::GrantLocked(const TaskRecord& task) {
  TaskGrant grant;
  grant.lease = LeaseOf(task);
  grant.input.task = task;
  ASSIGN_OR_RETURN(grant.input.job, BeginLocked(task));
  ASSIGN_OR_RETURN(grant.input.spec, JobSpecFromJson(grant.input.job.spec_json));
  ASSIGN_OR_RETURN(grant.input.tasks, store_.ListTasks(task.job));
  grant.input.work_dir = fmt::format("{}/{}-{}-{}", options_.work_dir, task.job, task.index, task.lease_id);
  RETURN_IF_ERROR(CreateDirectories(grant.input.work_dir));
  auto stop = std::make_shared<std::atomic<bool>>(false);
  grant.stop = stop;
  const int64_t now = Now();
  std::lock_guard lock(mutex_);
  running_[task.lease_id] = {
      .lease = grant.lease, .started_ms = now, .fraction = 0, .told_ms = 0, .stop = std::move(stop)};
  return grant;
}

// --- Keeping it ---

absl::Status JobManager::RenewLease(const TaskLease& lease) {
  double fraction = 0;
  {
    std::lock_guard lock(mutex_);
    const auto it = running_.find(lease.lease_id);
    if (it != running_.end()) fraction = it->second.fraction;
  }
  const absl::Status status = store_.RenewLease(lease, Now() + options_.lease_ms, fraction);
  if (ReasonOf(status) == "LEASE_LOST") StopLease(lease.lease_id);
  // Nobody can renew now.
  if (IsStoreFault(status)) Settle();
  return status;
}

void JobManager::ReportProgress(const TaskLease& lease, double fraction) {
  {
    const int64_t now = Now();
    std::lock_guard lock(mutex_);
    const auto it = running_.find(lease.lease_id);
    if (it == running_.end()) return;
    it->second.fraction = std::clamp(fraction, 0.0, 1.0);
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
    return LeaseLost(lease);
  }
  return task;
}

// --- Losing it ---

absl::Status JobManager::EndLease(const TaskLease& lease, const absl::Status& error, LeaseEnd how) {
  return Decide([&] { return EndLeaseDecision(lease, error, how); });
}

absl::StatusOr<JobManager::Decision> JobManager::EndLeaseDecision(const TaskLease& lease, const absl::Status& error,
                                                                  LeaseEnd how) {
  Decision decision;
  ASSIGN_OR_RETURN(TaskRecord task, LeasedTask(lease));
  const int64_t now = Now();
  if (how == LeaseEnd::kLapsed && task.lease_expires_ms > now) return decision;
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(task.job));
  const bool lapsed = how == LeaseEnd::kLapsed || how == LeaseEnd::kLost;
  decision.ended_leases = {lease.lease_id};
  bool give_up = false;
  if (how == LeaseEnd::kGivenBack || how == LeaseEnd::kPutOff || IsFinal(job.state)) {
    --task.attempts;
  } else if (lapsed) {
    --task.attempts;
    ++task.lapses;
    // Where there is one process, it is the server itself that the task brings down.
    give_up = task.lapses >= (shared_ ? kMaxTaskLapses : kMaxTaskAttempts);
  } else {
    give_up = !IsRetryable(error) || task.attempts >= MaxTaskAttempts(error);
  }
  auto kind = give_up ? JobNotice::Kind::kTaskFailed : JobNotice::Kind::kTaskRetried;
  if (lapsed) kind = JobNotice::Kind::kLeaseExpired;
  decision.notices = {TaskNotice(kind, job, task, ReasonOf(error))};
  if (give_up) {
    const absl::Status cause =
        Annotate(error, fmt::format("task {} ({}, {})", task.index, TaskStageName(task.stage), task.name));
    RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kGiveUp, error));
    decision.change.tasks = {std::move(task)};
    RETURN_IF_ERROR(EndJob(std::move(job), JobEvent::kFail, cause, decision));
    return decision;
  }
  RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kRelease, error));
  const bool rest = how == LeaseEnd::kFailed || how == LeaseEnd::kPutOff;
  const int64_t rest_ms = how == LeaseEnd::kPutOff ? kPutOffMs : TaskBackoffMs(task.attempts);
  task.not_before_ms = rest ? now + rest_ms : 0;
  // A worker that reported an error is still there; one that stopped, fell silent or lost its device is not.
  if (!rest || IsCudaLost(error)) RETURN_IF_ERROR(RequeueIfIdle(job, task.index, decision));
  decision.change.tasks = {std::move(task)};
  decision.job = job.id;
  decision.work = true;
  decision.rest = rest;
  return decision;
}

absl::Status JobManager::RequeueIfIdle(JobRecord job, int32_t released, Decision& decision) {
  if (job.state != JobState::kRunning) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto tasks, store_.ListTasks(job.id));
  for (const TaskRecord& task : tasks) {
    if (task.index != released && task.state == TaskState::kLeased) return absl::OkStatus();
  }
  RETURN_IF_ERROR(JobMachine(job).Apply(JobEvent::kLoseWorkers, Now()));
  decision.notices.push_back(StateNotice(job));
  decision.change.jobs = {std::move(job)};
  return absl::OkStatus();
}

absl::Status JobManager::ReleaseTask(const std::string& job, int32_t index, const std::string& request_id) {
  auto action = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(store_.GetJob(job).status());
    ASSIGN_OR_RETURN(const TaskRecord task, store_.GetTask(job, index));
    const absl::Status not_leased =
        FailedPrecondition("TASK_STATE", "task {} of job {} is {}, not LEASED", index, job, TaskStateName(task.state));
    if (task.state != TaskState::kLeased) return not_leased;
    const absl::Status ended =
        EndLease(LeaseOf(task), Cancelled("LEASE_RELEASED", "the lease was ended by hand"), LeaseEnd::kGivenBack);
    if (ReasonOf(ended) == "LEASE_LOST") return not_leased;  // done, or ended, just before
    RETURN_IF_ERROR(ended);
    return std::string();
  };
  const std::string payload = fmt::format("{} {}", job, index);
  return RunOnce(store_, request_id, "ReleaseLease", payload, Now(), action).status();
}

absl::Status JobManager::PutBackTasks() {
  MarkStopped();
  std::vector<TaskLease> leases;
  {
    // Whoever is leasing a task just now has finished.
    std::lock_guard jobs(jobs_mutex_);
    std::lock_guard lock(mutex_);
    leases.reserve(running_.size());
    for (const auto& [lease_id, running] : running_) leases.push_back(running.lease);
  }
  absl::Status first;
  for (const TaskLease& lease : leases) {
    const absl::Status status =
        EndLease(lease, Cancelled("SERVER_STOPPED", "the server ended at once"), LeaseEnd::kGivenBack);
    if (ReasonOf(status) != "LEASE_LOST") first.Update(status);
    // The leases lapse; a process that ends must not wait for the store once for each.
    if (absl::IsUnavailable(status) || IsStoreFault(status)) break;
  }
  return first;
}

// --- What falls due ---

void JobManager::Settle() {
  const int64_t now = Now();
  std::lock_guard lock(mutex_);
  expire_from_ms_ = now + options_.settle_ms;
}

// Asked with a row that nobody reads: the end of a lease would take it from a worker that could not renew it.
absl::Status JobManager::TryWrite() {
  RETURN_IF_ERROR(store_.PutSetting("writes_tried_ms", fmt::to_string(Now())));
  std::lock_guard lock(mutex_);
  refused_ = false;
  return absl::OkStatus();
}

absl::Status JobManager::EndLapsedLeases() {
  const auto start = Clock::now();
  ASSIGN_OR_RETURN(const auto expired, store_.ListExpiredTasks(Now()));
  if (Clock::now() - start >= kAwayTime) {
    Settle();
    return absl::OkStatus();
  }
  bool refused = false;
  {
    std::lock_guard lock(mutex_);
    // What had lapsed was renewed, or ended by others.
    if (expired.empty()) refused_ = false;
    refused = refused_;
  }
  if (refused) {
    RETURN_IF_ERROR(TryWrite());
    Settle();
    return absl::OkStatus();
  }
  absl::Status first;
  for (const TaskRecord& task : expired) {
    const absl::Status status =
        EndLease(LeaseOf(task), Unavailable("LEASE_LAPSED", "worker {} did not renew its lease", task.worker),
                 LeaseEnd::kLapsed);
    if (IsStoreFault(status)) {
      // A store that only reads still says what has lapsed.
      std::lock_guard lock(mutex_);
      refused_ = true;
      return status;
    }
    // Another process, or the worker itself, was faster.
    if (ReasonOf(status) != "LEASE_LOST") first.Update(status);
  }
  return first;
}

absl::Status JobManager::Maintain() {
  const int64_t now = Now();
  bool settled = false;
  {
    std::lock_guard lock(mutex_);
    settled = now >= expire_from_ms_;
  }
  if (settled) RETURN_IF_ERROR(EndLapsedLeases());
  // A task may have left its backoff.
  WakeWorkers();
  {
    std::lock_guard lock(mutex_);
    if (collected_ms_ == 0) collected_ms_ = now;
    if (now - collected_ms_ < kCollectMs) return absl::OkStatus();
    collected_ms_ = now;
  }
  // Of several processes one does it, once an hour.
  return catalog_.CollectGarbageIfDue(kCollectMs).status();
}

void JobManager::BackgroundLoop() {
  for (;;) {
    const int64_t now = Now();
    const auto start = Clock::now();
    const auto next = store_.NextDeadline(now);
    if (!next.ok() || Clock::now() - start >= kAwayTime) Settle();
    // If the store cannot be asked, it is asked again after a second; if nothing is due, garbage still is now and then.
    int64_t wait_ms = shared_ ? std::min(kSharedWaitMs, options_.lease_ms) : kCollectMs;
    if (!next.ok()) wait_ms = 1000;
    if (next.ok() && next->has_value()) {
      const int64_t jitter = shared_ ? Jitter(kSharedJitterMs) : 0;
      wait_ms = std::clamp<int64_t>(**next + jitter - now, 0, wait_ms);
    }
    {
      std::unique_lock lock(mutex_);
      wait_ms = std::max(wait_ms, std::min(expire_from_ms_ - now, options_.settle_ms));
      due_.wait_for(lock, std::chrono::milliseconds(wait_ms), [&] { return stopped_ || due_changed_; });
      if (stopped_) return;
      // What is overdue is not put off.
      if (std::exchange(due_changed_, false) && wait_ms > 0) continue;
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
