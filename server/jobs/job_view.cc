#include <absl/strings/str_join.h>

#include <algorithm>

#include "server/jobs/job_manager.h"

namespace qamserve {
namespace {

// Preparing the texts is no stage of its own to those who watch; an evaluate job calibrates nothing.
std::string ShownStage(JobKind kind, TaskStage stage) {
  if (stage > TaskStage::kCalibrate) return TaskStageName(stage);
  return kind == JobKind::kEvaluate ? "evaluate" : "calibrate";
}

}  // namespace

// --- Views ---

absl::StatusOr<JobView> JobManager::ViewOf(JobRecord job, std::optional<size_t> tensors_from) {
  std::optional<std::vector<JobRecord>> queue;
  return ViewOf(std::move(job), tensors_from, queue);
}

absl::StatusOr<JobView> JobManager::ViewOf(JobRecord job, std::optional<size_t> tensors_from,
                                           std::optional<std::vector<JobRecord>>& queue) {
  JobView view;
  view.change = ChangeOf(job.id);
  ASSIGN_OR_RETURN(view.spec, JobSpecFromJson(job.spec_json));
  ASSIGN_OR_RETURN(view.estimate, JobEstimateFromJson(job.estimate_json));
  if (!job.quality_json.empty()) {
    ASSIGN_OR_RETURN(view.quality, QualityReportFromJson(job.quality_json));
  }
  ASSIGN_OR_RETURN(std::vector<TaskRecord> tasks, store_.ListTasks(job.id));
  view.job = std::move(job);
  RETURN_IF_ERROR(FillProgress(tasks, view, queue));
  ASSIGN_OR_RETURN(view.candidates, CandidatesOf(tasks));
  // A search may accept a candidate that was measured before its last one.
  for (JobCandidate& candidate : view.candidates) {
    const bool accepted = QualityReportToJson(candidate.measured.quality) == view.job.quality_json;
    if (view.spec.target.any() && accepted) candidate.artifact = view.job.artifact;
  }
  if (!tensors_from) return view;
  std::erase_if(tasks,
                [](const TaskRecord& t) { return t.stage != TaskStage::kQuantize || t.state != TaskState::kDone; });
  std::sort(tasks.begin(), tasks.end(),
            [](const TaskRecord& a, const TaskRecord& b) { return a.done_sequence < b.done_sequence; });
  for (size_t i = *tensors_from; i < tasks.size(); ++i) {
    ASSIGN_OR_RETURN(TaskOutcome outcome, DecodeOutcome(tasks[i]));
    if (outcome.tensor) view.tensors.push_back(*std::move(outcome.tensor));
  }
  return view;
}

absl::Status JobManager::FillProgress(const std::vector<TaskRecord>& tasks, JobView& view,
                                      std::optional<std::vector<JobRecord>>& queue) {
  JobProgress& progress = view.progress;
  const int64_t now = Now();
  const JobRecord& job = view.job;
  std::map<int64_t, Running> leases;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [lease_id, running] : running_) {
      if (running.lease.job == job.id) leases[lease_id] = running;
    }
  }
  // Tasks that run elsewhere tell how far they are with each renewal of their leases.
  auto fraction_of = [&](const TaskRecord& task) {
    if (task.state == TaskState::kDone) return 1.0;
    if (task.state != TaskState::kLeased) return 0.0;
    const auto it = leases.find(task.lease_id);
    return it == leases.end() ? task.progress : it->second.fraction;
  };
  progress.tasks_total = static_cast<int32_t>(tasks.size());
  const TaskRecord* first_open = nullptr;
  const TaskRecord* resting = nullptr;
  bool leased = false;
  for (const TaskRecord& task : tasks) {
    progress.weights_total += task.weights;
    leased = leased || task.state == TaskState::kLeased;
    if (task.state == TaskState::kDone) {
      ++progress.tasks_done;
      progress.weights_done += task.weights;
    } else if (first_open == nullptr ||
               std::pair(task.round, task.stage) < std::pair(first_open->round, first_open->stage)) {
      first_open = &task;
    }
    if (task.state == TaskState::kReady && task.not_before_ms > now) resting = &task;
  }
  if (first_open == nullptr || IsFinal(job.state)) {
    progress.stage =
        first_open == nullptr ? ShownStage(job.kind, TaskStage::kEvaluate) : ShownStage(job.kind, first_open->stage);
    progress.stage_fraction = first_open == nullptr ? 1 : 0;
    progress.eta_seconds = 0;
    return absl::OkStatus();
  }
  progress.stage = ShownStage(job.kind, first_open->stage);
  double stage_cost = 0, stage_done = 0;
  for (const TaskRecord& task : tasks) {
    if (task.round != first_open->round || ShownStage(job.kind, task.stage) != progress.stage) continue;
    stage_cost += task.cost;
    stage_done += task.cost * fraction_of(task);
  }
  progress.stage_fraction = stage_cost > 0 ? stage_done / stage_cost : 0;
  ASSIGN_OR_RETURN(const Capacity capacity, CapacityFor(job));
  progress.eta_seconds = EstimateSeconds(job, tasks, capacity, leases);
  if (!leased) progress.waiting_for = WaitingFor(job, capacity, resting);
  if (job.state != JobState::kQueued) return absl::OkStatus();
  if (!queue) {
    ASSIGN_OR_RETURN(queue, store_.ListUnfinishedJobs());
  }
  progress.queue_position = QueuePosition(job, *queue);
  return absl::OkStatus();
}

// What a job of which no task runs needs to go on. `resting`: a task between two attempts, or null.
std::string JobManager::WaitingFor(const JobRecord& job, const Capacity& capacity, const TaskRecord* resting) {
  if (capacity.workers == 0 && !capacity.pool_known) {
    return fmt::format("a worker of pool {} (none is registered)", job.pool);
  }
  if (capacity.workers == 0) {
    return fmt::format("a worker of pool {} with codec {}; those registered have {}", job.pool, job.codec_version,
                       absl::StrJoin(capacity.other_codecs, ", "));
  }
  if (resting == nullptr) return fmt::format("a worker of pool {}", job.pool);
  return fmt::format("the next attempt at {}: {}", resting->name, resting->error.message);
}

// Among those that wait for the same pool, in the order in which they get its workers.
int32_t JobManager::QueuePosition(const JobRecord& job, const std::vector<JobRecord>& queue) {
  int32_t position = 0;
  for (const JobRecord& other : queue) {
    if (other.state == JobState::kQueued && other.pool == job.pool) ++position;
    if (other.id == job.id) break;
  }
  return position;
}

}  // namespace qamserve
