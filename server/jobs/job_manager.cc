#include "server/jobs/job_manager.h"

#include <algorithm>

#include "core/base/file.h"
#include "server/jobs/candidates.h"
#include "server/jobs/job_teller.h"
#include "server/store/request_ids.h"

namespace qamserve {

constexpr int32_t kMaxPriority = 1000;

JobManager::JobManager(JobManagerOptions options, MetadataStore& store, Catalog& catalog, TaskRunner& runner)
    : options_(std::move(options)), store_(store), catalog_(catalog), runner_(runner) {}

JobManager::~JobManager() { Stop(); }

absl::Status JobManager::Start() {
  // Scratch files of an earlier process: what mattered of them is in the blobs.
  if (options_.reclaim_leases_on_start) RETURN_IF_ERROR(RemoveAll(options_.work_dir));
  RETURN_IF_ERROR(CreateDirectories(options_.work_dir));
  RETURN_IF_ERROR(LoadRates());
  if (options_.reclaim_leases_on_start) {
    Teller teller(*this);
    std::lock_guard lock(jobs_mutex_);
    ASSIGN_OR_RETURN(const auto leased, store_.ListLeasedTasks());
    for (const TaskRecord& task : leased) {
      RETURN_IF_ERROR(EndLeaseLocked(task, Unavailable("WORKER_LOST", "the server stopped during the task"),
                                     JobNotice::Kind::kLeaseExpired, 0));
    }
  }
  if (options_.background) background_ = std::thread([this] { BackgroundLoop(); });
  return absl::OkStatus();
}

void JobManager::MarkStopped() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  work_.notify_all();
  changes_.notify_all();
  due_.notify_all();
}

bool JobManager::IsStopped() const {
  std::lock_guard lock(mutex_);
  return stopped_;
}

void JobManager::Stop() {
  MarkStopped();
  if (background_.joinable()) background_.join();
}

// --- Create ---

absl::Status JobManager::CheckWishes(const CreateQuantizeJobArgs& args) {
  if (args.priority < -kMaxPriority || args.priority > kMaxPriority) {
    return InvalidArgument("PRIORITY_RANGE", "priority is {}; it may be {} to {}", args.priority, -kMaxPriority,
                           kMaxPriority);
  }
  if (args.display_name.size() > kMaxDisplayNameBytes) {
    return InvalidArgument("DISPLAY_NAME", "display_name has {} bytes; the limit is {}", args.display_name.size(),
                           kMaxDisplayNameBytes);
  }
  const bool plain = std::all_of(args.load_as.begin(), args.load_as.end(), [](unsigned char c) {
    return std::islower(c) != 0 || std::isdigit(c) != 0 || c == '-' || c == '.' || c == '_';
  });
  if (!plain || args.load_as.size() > 63) {
    return InvalidArgument("LOAD_AS", "load_as must have 1 to 63 of a-z, 0-9, '-', '.' and '_'");
  }
  const bool one = args.spec.kind == JobKind::kQuantize && args.spec.ladder.empty();
  if (!args.load_as.empty() && !one) {
    return InvalidArgument("LOAD_AS", "load_as is for jobs that make one artifact, not for ladders and studies");
  }
  return absl::OkStatus();
}

absl::StatusOr<JobView> JobManager::CreateStudyJob(const CreateQuantizeJobArgs& args) {
  JobSpec spec = args.spec;
  spec.kind = JobKind::kStudy;
  CreateQuantizeJobArgs checked = args;
  checked.spec.kind = JobKind::kStudy;
  RETURN_IF_ERROR(CheckWishes(checked));
  if (spec.checkpoints.empty()) return InvalidArgument("STUDY_SIZE", "a study needs at least one checkpoint");
  for (const std::string& checkpoint : spec.checkpoints) RETURN_IF_ERROR(store_.GetCheckpoint(checkpoint).status());
  spec.checkpoint = spec.checkpoints.front();
  JobRecord wishes;
  wishes.display_name = args.display_name.empty() ? "study" : args.display_name;
  wishes.priority = args.priority;
  return Create(std::move(spec), wishes, args.request_id, "CreateStudyJob", args.validate_only);
}

absl::StatusOr<Study> JobManager::GetStudy(const std::string& id) {
  ASSIGN_OR_RETURN(const JobRecord job, store_.GetJob(id));
  ASSIGN_OR_RETURN(const JobSpec spec, JobSpecFromJson(job.spec_json));
  std::map<std::string, std::string> names;
  std::vector<std::string> checkpoints = spec.checkpoints;
  checkpoints.push_back(job.checkpoint);
  for (const std::string& digest : checkpoints) {
    const auto checkpoint = store_.GetCheckpoint(digest);
    if (checkpoint.ok()) names[digest] = checkpoint->display_name;
  }
  ASSIGN_OR_RETURN(const std::vector<TaskRecord> tasks, store_.ListTasks(id));
  return StudyOf(job.display_name, tasks, names);
}

absl::StatusOr<JobView> JobManager::CreateQuantizeJob(const CreateQuantizeJobArgs& args) {
  JobSpec spec = args.spec;
  spec.kind = JobKind::kQuantize;
  RETURN_IF_ERROR(CheckWishes(args));
  JobRecord wishes;
  ASSIGN_OR_RETURN(const CheckpointRecord checkpoint, store_.GetCheckpoint(spec.checkpoint));
  wishes.display_name = args.display_name.empty() ? checkpoint.display_name : args.display_name;
  wishes.priority = args.priority;
  wishes.load_as = args.load_as;
  return Create(std::move(spec), wishes, args.request_id, "CreateQuantizeJob", args.validate_only);
}

absl::StatusOr<JobView> JobManager::CreateEvaluateJob(const CreateEvaluateJobArgs& args) {
  ASSIGN_OR_RETURN(const ArtifactRecord artifact, store_.GetArtifact(args.artifact));
  const auto checkpoint = store_.GetCheckpoint(artifact.checkpoint);
  if (absl::IsNotFound(checkpoint.status())) {
    return FailedPrecondition("CHECKPOINT_NOT_FOUND",
                              "artifact {} was made from checkpoint {}, which was deleted; upload it again",
                              args.artifact, artifact.checkpoint);
  }
  RETURN_IF_ERROR(checkpoint.status());
  JobSpec spec;
  spec.kind = JobKind::kEvaluate;
  spec.checkpoint = artifact.checkpoint;
  spec.artifact = args.artifact;
  spec.evaluation = args.evaluation;
  JobRecord wishes;
  wishes.display_name = artifact.display_name;
  return Create(std::move(spec), wishes, args.request_id, "CreateEvaluateJob", args.validate_only);
}

absl::StatusOr<JobView> JobManager::Create(JobSpec spec, const JobRecord& wishes, const std::string& request_id,
                                           std::string_view method, bool validate_only) {
  const std::string payload =
      fmt::format("{}\n{}\n{}\n{}", JobSpecToJson(spec), wishes.display_name, wishes.priority, wishes.load_as);
  auto plan_job = [&]() -> absl::StatusOr<JobPlan> {
    ASSIGN_OR_RETURN(JobPlan plan, runner_.Plan(spec, options_.threads));
    double seconds = 0;
    for (const TaskRecord& task : plan.tasks) seconds += std::max(0.0, SecondsFor(task.stage, task.cost));
    plan.estimate.seconds = seconds;
    RETURN_IF_ERROR(catalog_.blobs().CheckSpace(static_cast<uint64_t>(plan.estimate.disk_bytes)));
    return plan;
  };
  JobRecord job = wishes;
  job.kind = spec.kind;
  job.checkpoint = spec.checkpoint;
  job.artifact = spec.artifact;
  job.pool = options_.pool;
  job.created_ms = options_.now_ms();
  if (validate_only) {
    ASSIGN_OR_RETURN(const JobPlan plan, plan_job());
    JobView view{.job = std::move(job),
                 .spec = plan.spec,
                 .estimate = plan.estimate,
                 .progress = {},
                 .tensors = {},
                 .candidates = {},
                 .quality = {}};
    view.progress.tasks_total = static_cast<int32_t>(plan.tasks.size());
    for (const TaskRecord& task : plan.tasks) view.progress.weights_total += task.weights;
    return view;
  }
  auto action = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const JobPlan plan, plan_job());
    Teller teller(*this);
    std::lock_guard lock(jobs_mutex_);
    return CreateLocked(plan, job);
  };
  ASSIGN_OR_RETURN(const std::string id, RunOnce(store_, request_id, method, payload, options_.now_ms(), action));
  return GetJob(id);
}

absl::StatusOr<std::optional<JobRecord>> JobManager::ReusableLocked(const std::string& key) {
  ASSIGN_OR_RETURN(std::optional<JobRecord> job, store_.FindJobByKey(key));
  if (!job || job->state == JobState::kFailed || job->state == JobState::kCancelled) return std::nullopt;
  if (job->state != JobState::kSucceeded) return job;
  std::vector<std::string> artifacts;
  if (!job->artifact.empty()) artifacts.push_back(job->artifact);
  ASSIGN_OR_RETURN(const std::vector<TaskRecord> tasks, store_.ListTasks(job->id));
  ASSIGN_OR_RETURN(const std::vector<JobCandidate> candidates, CandidatesOf(tasks));
  for (const JobCandidate& candidate : candidates) {
    if (!candidate.artifact.empty()) artifacts.push_back(candidate.artifact);
  }
  for (const std::string& digest : artifacts) {
    const auto artifact = store_.GetArtifact(digest);
    if (absl::IsNotFound(artifact.status())) return std::nullopt;
    RETURN_IF_ERROR(artifact.status());
  }
  return job;
}

absl::StatusOr<std::string> JobManager::CreateLocked(const JobPlan& plan, JobRecord job) {
  job.key = JobKey(plan.spec);
  ASSIGN_OR_RETURN(std::optional<JobRecord> known, ReusableLocked(job.key));
  if (known) {
    if (!IsFinal(known->state) && !job.load_as.empty() && known->load_as != job.load_as) {
      known->load_as = job.load_as;
      RETURN_IF_ERROR(store_.Apply({.jobs = {*known}, .tasks = {}, .artifact = {}}));
      Changed(known->id);
    }
    return known->id;
  }
  job.id = RandomId();
  job.spec_json = JobSpecToJson(plan.spec);
  job.estimate_json = JobEstimateToJson(plan.estimate);
  std::vector<TaskRecord> tasks = plan.tasks;
  for (size_t i = 0; i < tasks.size(); ++i) {
    tasks[i].job = job.id;
    tasks[i].index = static_cast<int32_t>(i);
  }
  RETURN_IF_ERROR(store_.InsertJob(job, tasks));
  Notice({.kind = JobNotice::Kind::kJobState, .job = job});
  Changed(job.id);
  WakeWorkers();
  return job.id;
}

// --- Get, list, cancel, retry, delete ---

absl::StatusOr<JobView> JobManager::GetJob(const std::string& id) {
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(id));
  return ViewOf(std::move(job), 0);
}

absl::StatusOr<Page<JobView>> JobManager::ListJobs(const PageRequest& page, const JobFilter& filter) {
  ASSIGN_OR_RETURN(Page<JobRecord> records, store_.ListJobs(page, filter));
  Page<JobView> views;
  views.next_page_token = std::move(records.next_page_token);
  for (JobRecord& job : records.items) {
    auto view = ViewOf(std::move(job), std::nullopt);
    // Deleted since it was listed.
    if (absl::IsNotFound(view.status())) continue;
    RETURN_IF_ERROR(view.status());
    views.items.push_back(*std::move(view));
  }
  return views;
}

absl::Status JobManager::EndJobLocked(JobRecord job, JobChange change, JobEvent event, const absl::Status& error) {
  RETURN_IF_ERROR(JobMachine(job).Apply(event, options_.now_ms(), error));
  ASSIGN_OR_RETURN(const auto all, store_.ListTasks(job.id));
  std::vector<int64_t> leases;
  for (TaskRecord task : all) {
    const bool given = std::any_of(change.tasks.begin(), change.tasks.end(),
                                   [&](const TaskRecord& t) { return t.index == task.index; });
    if (task.state != TaskState::kLeased) continue;
    leases.push_back(task.lease_id);
    if (given) continue;
    // Not this task's fault: its attempt does not count.
    --task.attempts;
    RETURN_IF_ERROR(
        TaskMachine(task).Apply(TaskEvent::kRelease, Cancelled("JOB_ENDED", "the job is {}", JobStateName(job.state))));
    change.tasks.push_back(std::move(task));
  }
  change.jobs = {job};
  RETURN_IF_ERROR(store_.Apply(change));
  for (int64_t lease : leases) StopLease(lease);
  Notice({.kind = JobNotice::Kind::kJobState, .job = job});
  Changed(job.id);
  return absl::OkStatus();
}

absl::StatusOr<JobView> JobManager::CancelJob(const std::string& id, const std::string& request_id) {
  auto action = [&]() -> absl::StatusOr<std::string> {
    Teller teller(*this);
    std::lock_guard lock(jobs_mutex_);
    ASSIGN_OR_RETURN(const JobRecord job, store_.GetJob(id));
    if (job.state == JobState::kCancelled) return id;
    RETURN_IF_ERROR(EndJobLocked(job, {}, JobEvent::kCancel, absl::OkStatus()));
    return id;
  };
  RETURN_IF_ERROR(RunOnce(store_, request_id, "CancelJob", id, options_.now_ms(), action).status());
  return GetJob(id);
}

absl::StatusOr<std::string> JobManager::RetryLocked(const std::string& id) {
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(id));
  RETURN_IF_ERROR(JobMachine(job).Apply(JobEvent::kRetry, options_.now_ms()));
  if (absl::IsNotFound(store_.GetCheckpoint(job.checkpoint).status())) {
    return FailedPrecondition("CHECKPOINT_NOT_FOUND", "checkpoint {} of job {} was deleted; upload it again",
                              job.checkpoint, id);
  }
  ASSIGN_OR_RETURN(const auto all, store_.ListTasks(id));
  std::vector<TaskRecord> changed;
  for (TaskRecord task : all) {
    bool reset = task.state == TaskState::kFailed;
    for (const std::string& blob : task.blobs) {
      ASSIGN_OR_RETURN(const bool there, catalog_.blobs().Has(blob));
      reset = reset || !there;
    }
    if (reset) {
      RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kReset));
    } else if (task.state == TaskState::kReady && (task.attempts > 0 || task.not_before_ms > 0)) {
      task.attempts = 0;
      task.not_before_ms = 0;
    } else {
      continue;
    }
    changed.push_back(std::move(task));
  }
  RETURN_IF_ERROR(store_.Apply({.jobs = {job}, .tasks = std::move(changed), .artifact = {}}));
  Notice({.kind = JobNotice::Kind::kJobState, .job = job});
  Changed(id);
  WakeWorkers();
  return id;
}

absl::StatusOr<JobView> JobManager::RetryJob(const std::string& id, const std::string& request_id) {
  auto action = [&]() -> absl::StatusOr<std::string> {
    Teller teller(*this);
    std::lock_guard lock(jobs_mutex_);
    return RetryLocked(id);
  };
  RETURN_IF_ERROR(RunOnce(store_, request_id, "RetryJob", id, options_.now_ms(), action).status());
  return GetJob(id);
}

absl::Status JobManager::DeleteJob(const std::string& id, const std::string& request_id) {
  auto action = [&]() -> absl::StatusOr<std::string> {
    Teller teller(*this);
    {
      std::lock_guard lock(jobs_mutex_);
      ASSIGN_OR_RETURN(const JobRecord job, store_.GetJob(id));
      if (!IsFinal(job.state)) {
        return FailedPrecondition("JOB_ACTIVE", "job {} is {}; cancel it first", id, JobStateName(job.state));
      }
      RETURN_IF_ERROR(store_.DeleteJob(id));
    }
    Changed(id);
    RETURN_IF_ERROR(catalog_.CollectGarbage().status());
    return std::string();
  };
  return RunOnce(store_, request_id, "DeleteJob", id, options_.now_ms(), action).status();
}

absl::StatusOr<JobManager::QueueStats> JobManager::Stats() {
  ASSIGN_OR_RETURN(const auto jobs, store_.ListUnfinishedJobs());
  QueueStats stats;
  for (const JobRecord& job : jobs) {
    if (job.state != JobState::kQueued) {
      ++stats.running_jobs;
      continue;
    }
    ++stats.queued_jobs;
    const double age = static_cast<double>(options_.now_ms() - job.created_ms) / 1000;
    stats.oldest_queued_seconds = std::max(stats.oldest_queued_seconds, age);
  }
  return stats;
}

}  // namespace qamserve
