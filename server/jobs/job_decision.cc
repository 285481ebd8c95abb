#include "server/jobs/job_decision.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "server/jobs/job_teller.h"

namespace qamserve {
namespace {

// With the rests below they take about a second; whoever still met a conflict then is told, and may call again.
constexpr int kConflictAttempts = 30;
constexpr int64_t kMaxConflictRestMs = 64;

}  // namespace

bool IsConflict(const absl::Status& status) {
  if (!absl::IsAborted(status)) return false;
  const std::string reason = ReasonOf(status);
  return reason == "VERSION_CONFLICT" || reason == "STORE_CONFLICT";
}

JobNotice StateNotice(const JobRecord& job) {
  JobNotice notice;
  notice.kind = JobNotice::Kind::kJobState;
  notice.job = job;
  return notice;
}

JobNotice TaskNotice(JobNotice::Kind kind, const JobRecord& job, const TaskRecord& task, std::string reason) {
  JobNotice notice;
  notice.kind = kind;
  notice.job = job;
  notice.stage = task.stage;
  notice.reason = std::move(reason);
  notice.task = task.index;
  notice.task_name = task.name;
  notice.worker = task.worker;
  return notice;
}

absl::Status LeaseLost(const TaskLease& lease) {
  return Aborted("LEASE_LOST", "worker {} no longer has the lease of task {} of job {}", lease.worker, lease.index,
                 lease.job);
}

TaskLease LeaseOf(const TaskRecord& task) {
  return {.job = task.job, .index = task.index, .worker = task.worker, .lease_id = task.lease_id};
}

absl::StatusOr<bool> Advance(JobRecord& job, TaskStage stage, int64_t now_ms) {
  const JobState before = job.state;
  if (job.state == JobState::kQueued) RETURN_IF_ERROR(JobMachine(job).Apply(JobEvent::kStart, now_ms));
  if (job.state == JobState::kRunning && stage >= TaskStage::kAssemble) {
    RETURN_IF_ERROR(JobMachine(job).Apply(JobEvent::kGate, now_ms));
  }
  return job.state != before;
}

int64_t JobManager::Now() const { return options_.now_ms ? options_.now_ms() : store_.NowMs(); }

int64_t JobManager::Jitter(int64_t ms) {
  std::lock_guard lock(mutex_);
  return 1 + static_cast<int64_t>(jitter_.NextU64() % static_cast<uint64_t>(ms));
}

void JobManager::RestAfterConflict(int attempt) {
  const int64_t most = std::min(kMaxConflictRestMs, int64_t{1} << std::min(attempt, 16));
  std::this_thread::sleep_for(std::chrono::milliseconds(Jitter(most)));
}

absl::Status JobManager::Decide(absl::FunctionRef<absl::StatusOr<Decision>()> decide) {
  for (int attempt = 1;; ++attempt) {
    absl::Status status;
    {
      Teller teller(*this);
      std::lock_guard lock(jobs_mutex_);
      status = DecideLocked(decide);
    }
    if (!IsConflict(status) || attempt == kConflictAttempts) return status;
    RestAfterConflict(attempt);
  }
}

absl::Status JobManager::DecideLocked(absl::FunctionRef<absl::StatusOr<Decision>()> decide) {
  ASSIGN_OR_RETURN(Decision decision, decide());
  const JobChange& change = decision.change;
  if (!change.jobs.empty() || !change.tasks.empty() || !change.new_tasks.empty() || change.artifact) {
    RETURN_IF_ERROR(store_.Apply(change));
  }
  for (const int64_t lease : decision.ended_leases) StopLease(lease);
  for (JobNotice& notice : decision.notices) Notice(std::move(notice));
  if (!decision.job.empty()) Changed(decision.job);
  if (decision.work) WakeWorkers();
  if (decision.rest) WakeBackground();
  return decision.answer;
}

absl::Status JobManager::EndJob(JobRecord job, JobEvent event, const absl::Status& error, Decision& decision) {
  RETURN_IF_ERROR(JobMachine(job).Apply(event, Now(), error));
  // Written with the end of the job, so that whoever starts after a crash finds it.
  if (event == JobEvent::kSucceed && !job.load_as.empty()) job.load_as = LoadWish(job.load_as);
  ASSIGN_OR_RETURN(const auto all, store_.ListTasks(job.id));
  std::vector<TaskRecord>& changed = decision.change.tasks;
  for (TaskRecord task : all) {
    if (task.state != TaskState::kLeased) continue;
    decision.ended_leases.push_back(task.lease_id);
    if (std::any_of(changed.begin(), changed.end(), [&](const TaskRecord& t) { return t.index == task.index; })) {
      continue;
    }
    // Not this task's fault: its attempt does not count.
    --task.attempts;
    RETURN_IF_ERROR(
        TaskMachine(task).Apply(TaskEvent::kRelease, Cancelled("JOB_ENDED", "the job is {}", JobStateName(job.state))));
    changed.push_back(std::move(task));
  }
  decision.job = job.id;
  decision.notices.push_back(StateNotice(job));
  decision.change.jobs = {std::move(job)};
  return absl::OkStatus();
}

}  // namespace qamserve
