#include "server/jobs/job_manager.h"

#include <algorithm>
#include <functional>

#include "core/base/file.h"
#include "server/jobs/candidates.h"
#include "server/jobs/job_decision.h"
#include "server/store/request_ids.h"

namespace qamserve {

constexpr int32_t kMaxPriority = 1000;

JobManager::JobManager(JobManagerOptions options, MetadataStore& store, Catalog& catalog, TaskRunner& runner)
    : options_(std::move(options)),
      store_(store),
      catalog_(catalog),
      runner_(runner),
      shared_(options_.shared.value_or(store.shared())),
      // Processes that meet each other must not rest equally long.
      jitter_(std::hash<std::string>()(RandomId())) {}

JobManager::~JobManager() { Stop(); }

absl::Status JobManager::Start() {
  // Scratch files of an earlier process: what mattered of them is in the blobs.
  RETURN_IF_ERROR(RemoveAll(options_.work_dir));
  RETURN_IF_ERROR(CreateDirectories(options_.work_dir));
  RETURN_IF_ERROR(LoadRates());
  if (shared_) {
    Settle();
    listening_ = store_.Listen([this](const StoreEvent& event) { OnStoreEvent(event); });
  } else {
    ASSIGN_OR_RETURN(const auto leased, store_.ListLeasedTasks());
    for (const TaskRecord& task : leased) {
      RETURN_IF_ERROR(
          EndLease(LeaseOf(task), Unavailable("WORKER_LOST", "the server stopped during the task"), LeaseEnd::kLost));
    }
  }
  if (!options_.background) return absl::OkStatus();
  background_ = std::thread([this] { BackgroundLoop(); });
  if (shared_) refresher_ = std::thread([this] { RefreshLoop(); });
  return absl::OkStatus();
}

void JobManager::MarkStopped() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  work_.notify_all();
  changes_.notify_all();
  due_.notify_all();
  events_.notify_all();
}

bool JobManager::IsStopped() const {
  std::lock_guard lock(mutex_);
  return stopped_;
}

void JobManager::Stop() {
  MarkStopped();
  listening_ = nullptr;
  if (background_.joinable()) background_.join();
  if (refresher_.joinable()) refresher_.join();
}

// --- Create ---

namespace {

// Empty, or a name that can be a label of a metric or a machine.
bool IsName(std::string_view text, std::string_view others) {
  constexpr size_t kMaxBytes = 63;
  return text.size() <= kMaxBytes && std::all_of(text.begin(), text.end(), [&](unsigned char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                  others.find(static_cast<char>(c)) != std::string_view::npos;
         });
}

absl::Status CheckShare(const std::string& pool, const std::string& project) {
  if (!IsName(pool, "-")) return InvalidArgument("POOL", "pool must have 1 to 63 of a-z, 0-9 and '-'");
  if (!IsName(project, "-._")) {
    return InvalidArgument("PROJECT", "project must have 1 to 63 of a-z, 0-9, '-', '.' and '_'");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status JobManager::CheckWishes(const CreateQuantizeJobArgs& args) {
  if (args.priority < -kMaxPriority || args.priority > kMaxPriority) {
    return InvalidArgument("PRIORITY_RANGE", "priority is {}; it may be {} to {}", args.priority, -kMaxPriority,
                           kMaxPriority);
  }
  if (args.display_name.size() > kMaxDisplayNameBytes) {
    return InvalidArgument("DISPLAY_NAME", "display_name has {} bytes; the limit is {}", args.display_name.size(),
                           kMaxDisplayNameBytes);
  }
  if (!IsName(args.load_as, "-._")) {
    return InvalidArgument("LOAD_AS", "load_as must have 1 to 63 of a-z, 0-9, '-', '.' and '_'");
  }
  const bool one = args.spec.kind == JobKind::kQuantize && args.spec.ladder.empty();
  if (!args.load_as.empty() && !one) {
    return InvalidArgument("LOAD_AS", "load_as is for jobs that make one artifact, not for ladders and studies");
  }
  return CheckShare(args.pool, args.project);
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
  wishes.pool = args.pool;
  wishes.project = args.project;
  wishes.trace_parent = args.trace_parent;
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
  wishes.pool = args.pool;
  wishes.project = args.project;
  wishes.trace_parent = args.trace_parent;
  return Create(std::move(spec), wishes, args.request_id, "CreateQuantizeJob", args.validate_only);
}

absl::StatusOr<JobView> JobManager::CreateEvaluateJob(const CreateEvaluateJobArgs& args) {
  RETURN_IF_ERROR(CheckShare(args.pool, args.project));
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
  wishes.pool = args.pool;
  wishes.project = args.project;
  wishes.trace_parent = args.trace_parent;
  return Create(std::move(spec), wishes, args.request_id, "CreateEvaluateJob", args.validate_only);
}

absl::StatusOr<JobView> JobManager::Create(JobSpec spec, JobRecord job, const std::string& request_id,
                                           std::string_view method, bool validate_only) {
  const std::string payload = fmt::format("{}\n{}\n{}\n{}\n{}\n{}", JobSpecToJson(spec), job.display_name, job.priority,
                                          job.load_as, job.pool, job.project);
  job.kind = spec.kind;
  job.checkpoint = spec.checkpoint;
  job.artifact = spec.artifact;
  if (job.pool.empty()) job.pool = options_.pool;
  job.codec_version = kCodecVersion;
  job.created_ms = Now();
  auto plan_job = [&]() -> absl::StatusOr<JobPlan> {
    ASSIGN_OR_RETURN(JobPlan plan, runner_.Plan(spec, options_.threads));
    ASSIGN_OR_RETURN(const Capacity capacity, CapacityFor(job));
    plan.estimate.seconds = std::max(0.0, EstimateSeconds(job, plan.tasks, capacity, {}));
    RETURN_IF_ERROR(catalog_.blobs().CheckSpace(static_cast<uint64_t>(plan.estimate.disk_bytes)));
    return plan;
  };
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
    std::string id;
    RETURN_IF_ERROR(Decide([&] { return CreateDecision(plan, job, id); }));
    return id;
  };
  ASSIGN_OR_RETURN(const std::string id, RunOnce(store_, request_id, method, payload, Now(), action));
  return GetJob(id);
}

absl::StatusOr<std::optional<JobRecord>> JobManager::Reusable(const std::string& key) {
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

absl::StatusOr<JobManager::Decision> JobManager::CreateDecision(const JobPlan& plan, JobRecord job, std::string& id) {
  Decision decision;
  job.key = JobKey(plan.spec);
  ASSIGN_OR_RETURN(std::optional<JobRecord> known, Reusable(job.key));
  if (known) {
    id = known->id;
    const bool done = known->state == JobState::kSucceeded;
    if (job.load_as.empty() || (IsFinal(known->state) && !done)) return decision;
    const std::string load_as = done ? LoadWish(job.load_as) : job.load_as;
    if (known->load_as != load_as) {
      known->load_as = load_as;
      decision.job = known->id;
      decision.change.jobs = {*std::move(known)};
    }
    return decision;
  }
  id = job.id = RandomId();
  job.spec_json = JobSpecToJson(plan.spec);
  job.estimate_json = JobEstimateToJson(plan.estimate);
  std::vector<TaskRecord> tasks = plan.tasks;
  for (size_t i = 0; i < tasks.size(); ++i) {
    tasks[i].job = job.id;
    tasks[i].index = static_cast<int32_t>(i);
  }
  const absl::Status inserted = store_.InsertJob(job, tasks);
  // Another process was asked for the same work and was faster: its job is found on the next try.
  if (ReasonOf(inserted) == "JOB_EXISTS") return Aborted("VERSION_CONFLICT", "{}", MessageOf(inserted));
  RETURN_IF_ERROR(inserted);
  decision.notices = {StateNotice(job)};
  decision.job = job.id;
  decision.work = true;
  return decision;
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
  std::optional<std::vector<JobRecord>> queue;
  for (JobRecord& job : records.items) {
    auto view = ViewOf(std::move(job), std::nullopt, queue);
    // Deleted since it was listed.
    if (absl::IsNotFound(view.status())) continue;
    RETURN_IF_ERROR(view.status());
    views.items.push_back(*std::move(view));
  }
  return views;
}

absl::StatusOr<JobView> JobManager::CancelJob(const std::string& id, const std::string& request_id) {
  auto decide = [&]() -> absl::StatusOr<Decision> {
    Decision decision;
    ASSIGN_OR_RETURN(const JobRecord job, store_.GetJob(id));
    if (job.state == JobState::kCancelled) return decision;
    RETURN_IF_ERROR(EndJob(job, JobEvent::kCancel, absl::OkStatus(), decision));
    return decision;
  };
  auto action = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(Decide(decide));
    return id;
  };
  RETURN_IF_ERROR(RunOnce(store_, request_id, "CancelJob", id, Now(), action).status());
  return GetJob(id);
}

absl::StatusOr<std::set<std::string>> JobManager::LostBlobs(const std::string& id) {
  std::set<std::string> lost;
  ASSIGN_OR_RETURN(const auto tasks, store_.ListTasks(id));
  for (const TaskRecord& task : tasks) {
    for (const std::string& blob : task.blobs) {
      ASSIGN_OR_RETURN(const bool there, catalog_.blobs().Has(blob));
      if (!there) lost.insert(blob);
    }
  }
  ASSIGN_OR_RETURN(const JobRecord job, store_.GetJob(id));
  if (catalog_.KeepsBlobsOf(job)) {
    for (size_t i = 0; i < lost.size(); ++i) catalog_.NoteMissingBlob();
  }
  return lost;
}

absl::StatusOr<JobManager::Decision> JobManager::RetryDecision(const std::string& id,
                                                               const std::set<std::string>& lost_blobs) {
  Decision decision;
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(id));
  if (job.state == JobState::kFailed && job.error.reason == "TASK_NOT_DETERMINISTIC") {
    return FailedPrecondition(
        "TASK_NOT_DETERMINISTIC",
        "job {} cannot go on from outcomes that differ from one time to the next: create it again", id);
  }
  RETURN_IF_ERROR(JobMachine(job).Apply(JobEvent::kRetry, Now()));
  if (absl::IsNotFound(store_.GetCheckpoint(job.checkpoint).status())) {
    return FailedPrecondition("CHECKPOINT_NOT_FOUND", "checkpoint {} of job {} was deleted; upload it again",
                              job.checkpoint, id);
  }
  ASSIGN_OR_RETURN(const auto all, store_.ListTasks(id));
  for (TaskRecord task : all) {
    const bool lost = std::any_of(task.blobs.begin(), task.blobs.end(),
                                  [&](const std::string& blob) { return lost_blobs.contains(blob); });
    const bool leased = task.state == TaskState::kLeased;
    if (leased) {
      // Taken as the job ended. What its worker would read may be reset now.
      decision.ended_leases.push_back(task.lease_id);
      RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kRelease, Cancelled("JOB_RETRIED", "the job was retried")));
    }
    const bool rested = task.attempts > 0 || task.lapses > 0 || task.not_before_ms > 0;
    if (task.state == TaskState::kFailed || (task.state == TaskState::kDone && lost)) {
      RETURN_IF_ERROR(TaskMachine(task).Apply(TaskEvent::kReset));
    } else if (task.state == TaskState::kReady && (leased || rested)) {
      task.attempts = 0;
      task.lapses = 0;
      task.not_before_ms = 0;
    } else {
      continue;
    }
    decision.change.tasks.push_back(std::move(task));
  }
  decision.job = id;
  decision.notices = {StateNotice(job)};
  decision.work = true;
  decision.change.jobs = {std::move(job)};
  return decision;
}

absl::StatusOr<JobView> JobManager::RetryJob(const std::string& id, const std::string& request_id) {
  auto action = [&]() -> absl::StatusOr<std::string> {
    // A blob that is there must still be there when the job refers to it again.
    RETURN_IF_ERROR(catalog_.WithoutCollection([&]() -> absl::Status {
      ASSIGN_OR_RETURN(const std::set<std::string> lost, LostBlobs(id));
      return Decide([&] { return RetryDecision(id, lost); });
    }));
    return id;
  };
  RETURN_IF_ERROR(RunOnce(store_, request_id, "RetryJob", id, Now(), action).status());
  return GetJob(id);
}

absl::Status JobManager::DeleteJob(const std::string& id, const std::string& request_id) {
  auto decide = [&]() -> absl::StatusOr<Decision> {
    ASSIGN_OR_RETURN(const JobRecord job, store_.GetJob(id));
    if (!IsFinal(job.state)) {
      return FailedPrecondition("JOB_ACTIVE", "job {} is {}; cancel it first", id, JobStateName(job.state));
    }
    RETURN_IF_ERROR(store_.DeleteJob(id));
    Decision decision;
    decision.job = id;
    return decision;
  };
  auto action = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(Decide(decide));
    RETURN_IF_ERROR(catalog_.AfterDeletion());
    return std::string();
  };
  return RunOnce(store_, request_id, "DeleteJob", id, Now(), action).status();
}

absl::StatusOr<JobManager::QueueStats> JobManager::Stats() {
  ASSIGN_OR_RETURN(const QueueCounts counts, store_.CountQueue());
  const int64_t now = Now();
  QueueStats stats;
  for (const QueueCounts::Jobs& jobs : counts.jobs) {
    if (jobs.state != JobState::kQueued) {
      stats.running_jobs += jobs.count;
      continue;
    }
    stats.queued_jobs += jobs.count;
    const double age = static_cast<double>(now - jobs.oldest_created_ms) / 1000;
    stats.oldest_queued_seconds = std::max(stats.oldest_queued_seconds, age);
  }
  return stats;
}

}  // namespace qamserve
