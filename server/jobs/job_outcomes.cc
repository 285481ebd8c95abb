// What becomes of a task that was done, or failed.
#include <algorithm>
#include <memory>

#include "server/jobs/job_decision.h"

namespace qamserve {
namespace {

// Of a digest in a message: enough to tell two apart.
constexpr size_t kShownDigits = 16;

bool HasManyArtifacts(const JobRecord& job) {
  const auto spec = JobSpecFromJson(job.spec_json);
  return spec.ok() && !spec->ladder.empty();
}

JobNotice DoneNotice(const JobRecord& job, const TaskRecord& task, const TaskOutcome& outcome) {
  JobNotice notice = TaskNotice(JobNotice::Kind::kTaskDone, job, task, "");
  notice.task_seconds = task.seconds;
  notice.weights = task.weights;
  if (outcome.artifact) notice.artifact = std::make_shared<const ArtifactRecord>(*outcome.artifact);
  return notice;
}

}  // namespace

absl::Status JobManager::CompleteTask(const TaskLease& lease, const TaskOutcome& outcome, double seconds) {
  bool done_now = false;
  TaskRecord task;
  JobRecord job;
  RETURN_IF_ERROR(Decide([&]() -> absl::StatusOr<Decision> {
    ASSIGN_OR_RETURN(Decision decision, CompleteDecision(lease, outcome, seconds));
    done_now = !decision.change.tasks.empty() && decision.answer.ok();
    if (!done_now) return decision;
    task = decision.change.tasks.front();
    job = decision.change.jobs.front();
    return decision;
  }));
  if (!done_now) return absl::OkStatus();
  LearnRate(job.pool, task.stage, task.cost, seconds);
  if (IsFinal(job.state)) SaveRates();
  // What this frees is collected in the hour at the latest, so an error is no matter of the task's.
  if (!outcome.spent_tasks.empty()) (void)catalog_.AfterDeletion();
  return absl::OkStatus();
}

// Each completion writes the job's row, too, so that those of one job exclude each other. What was read of the other
// tasks after the row is then what they are when this is written: no two tasks get one done_sequence, watchers find new
// tasks behind those that they know, and exactly one completion is the last.
absl::StatusOr<JobManager::Decision> JobManager::CompleteDecision(const TaskLease& lease, const TaskOutcome& outcome,
                                                                  double seconds) {
  auto found = store_.GetTask(lease.job, lease.index);
  if (absl::IsNotFound(found.status())) return LeaseLost(lease);
  ASSIGN_OR_RETURN(TaskRecord task, std::move(found));
  if (task.state == TaskState::kDone) return DuplicateDecision(lease, task, outcome);
  if (task.state != TaskState::kLeased || task.lease_id != lease.lease_id) return LeaseLost(lease);
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(lease.job));
  if (IsFinal(job.state)) {
    // The job ended as the task was leased.
    const absl::Status ended = Cancelled("JOB_ENDED", "the job is {}", JobStateName(job.state));
    ASSIGN_OR_RETURN(Decision decision, EndLeaseDecision(lease, ended, LeaseEnd::kGivenBack));
    decision.answer = LeaseLost(lease);
    return decision;
  }
  ASSIGN_OR_RETURN(const auto all, store_.ListTasks(lease.job));
  RETURN_IF_ERROR(Advance(job, task.stage, Now()).status());
  bool last = outcome.next_tasks.empty();
  for (const TaskRecord& other : all) {
    task.done_sequence = std::max(task.done_sequence, other.done_sequence);
    last = last && (other.index == task.index || other.state == TaskState::kDone);
  }
  ++task.done_sequence;
  task.seconds = seconds;
  task.outcome_json = EncodeOutcome(outcome);
  task.blobs = outcome.blobs;
  if (outcome.quality) job.quality_json = QualityReportToJson(*outcome.quality);
  Decision decision;
  if (!outcome.gate.ok()) {
    RETURN_IF_ERROR(Reject(job, std::move(task), outcome.gate, decision));
    return decision;
  }
  RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kComplete));
  decision.ended_leases = {lease.lease_id};
  decision.job = job.id;
  decision.work = true;
  decision.change.artifact = outcome.artifact;
  if (outcome.artifact) {
    decision.change.artifact->job = job.id;
    decision.change.artifact->created_ms = Now();
    // A ladder has several, which its candidates name.
    if (last && !HasManyArtifacts(job)) job.artifact = outcome.artifact->digest;
  }
  decision.notices = {DoneNotice(job, task, outcome)};
  decision.change.tasks = {std::move(task)};
  for (const int32_t index : outcome.spent_tasks) {
    TaskRecord& spent = decision.change.tasks.emplace_back(all.at(static_cast<size_t>(index)));
    spent.blobs.clear();
  }
  for (const TaskRecord& next : outcome.next_tasks) decision.change.new_tasks.emplace_back(next).job = job.id;
  if (last) {
    RETURN_IF_ERROR(EndJob(std::move(job), JobEvent::kSucceed, absl::OkStatus(), decision));
  } else {
    decision.change.jobs = {std::move(job)};
  }
  return decision;
}

// `done` was completed before: under this very lease, if the store's answer was lost on the way, or by another worker
// after this lease had lapsed. Tasks are deterministic, so the outcomes must be the same to the last byte.
absl::StatusOr<JobManager::Decision> JobManager::DuplicateDecision(const TaskLease& lease, const TaskRecord& done,
                                                                   const TaskOutcome& outcome) {
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(lease.job));
  Decision decision;
  decision.ended_leases = {lease.lease_id};
  if (done.lease_id == lease.lease_id) {
    // Nobody was told of it yet.
    decision.job = job.id;
    decision.work = true;
    decision.notices = {DoneNotice(job, done, outcome)};
    ASSIGN_OR_RETURN(const auto all, store_.ListTasks(lease.job));
    const bool last = std::all_of(all.begin(), all.end(),
                                  [&](const TaskRecord& task) { return task.done_sequence <= done.done_sequence; });
    if (last && IsFinal(job.state)) decision.notices.push_back(StateNotice(job));
    return decision;
  }
  ASSIGN_OR_RETURN(const std::string recorded, OutcomeDigest(done));
  const std::string repeated = OutcomeDigest(outcome);
  // Programs that kept no digest knew of one process only, where there are no duplicates.
  if (recorded.empty() || recorded == repeated) {
    decision.notices = {TaskNotice(JobNotice::Kind::kDuplicate, job, done, "")};
    return decision;
  }
  decision.answer = DataLoss("TASK_NOT_DETERMINISTIC",
                             "task {} ({}, {}) of job {} was done by worker {} with outcome {} and by worker {} with "
                             "outcome {}; they should be the same",
                             done.index, TaskStageName(done.stage), done.name, job.id, done.worker,
                             recorded.substr(0, kShownDigits), lease.worker, repeated.substr(0, kShownDigits));
  decision.notices = {TaskNotice(JobNotice::Kind::kNotDeterministic, job, done, MessageOf(decision.answer))};
  if (IsFinal(job.state)) return decision;
  RETURN_IF_ERROR(EndJob(std::move(job), JobEvent::kFail, decision.answer, decision));
  return decision;
}

absl::Status JobManager::FailTask(const TaskLease& lease, const absl::Status& error) {
  // What another task of the job had made. The catalog has counted files of its own, which are DATA_LOSS.
  if (absl::IsNotFound(error) && ReasonOf(error) == "BLOB_NOT_FOUND") catalog_.NoteMissingBlob();
  return Decide([&] { return FailDecision(lease, error); });
}

absl::StatusOr<JobManager::Decision> JobManager::FailDecision(const TaskLease& lease, const absl::Status& error) {
  if (absl::IsCancelled(error)) return EndLeaseDecision(lease, error, LeaseEnd::kGivenBack);
  // What is UNAVAILABLE has attempts enough (kMaxUnavailableAttempts), and may be the task's own fault after all.
  if (IsStoreFault(error) && !absl::IsUnavailable(error)) return EndLeaseDecision(lease, error, LeaseEnd::kPutOff);
  if (!ReasonOf(error).starts_with("GATE_")) return EndLeaseDecision(lease, error, LeaseEnd::kFailed);
  ASSIGN_OR_RETURN(TaskRecord task, LeasedTask(lease));
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(lease.job));
  if (!IsFinal(job.state)) RETURN_IF_ERROR(Advance(job, task.stage, Now()).status());
  if (job.state != JobState::kGating) return EndLeaseDecision(lease, error, LeaseEnd::kFailed);
  Decision decision;
  RETURN_IF_ERROR(Reject(job, std::move(task), error, decision));
  return decision;
}

absl::Status JobManager::Reject(const JobRecord& job, TaskRecord task, const absl::Status& gate, Decision& decision) {
  RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kGiveUp, gate));
  decision.notices.push_back(TaskNotice(JobNotice::Kind::kGateRefused, job, task, ReasonOf(gate)));
  decision.change.tasks = {std::move(task)};
  return EndJob(job, JobEvent::kReject, gate, decision);
}

}  // namespace qamserve
