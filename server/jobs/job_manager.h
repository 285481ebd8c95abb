// Jobs from request to result: creates them, hands their tasks to workers, takes outcomes, tells watchers. Thread-safe.
// All state is in the metadata store; the manager adds what need not survive a restart (progress within a task, who
// watches). Construct, Start, use; the destructor stops its thread and wakes every waiter.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/base/status.h"
#include "core/evaluate/evaluate.h"
#include "server/jobs/candidates.h"
#include "server/jobs/job.h"
#include "server/jobs/job_spec.h"
#include "server/jobs/task_runner.h"
#include "server/store/catalog.h"
#include "server/store/metadata_store.h"

namespace qamserve {

// For metrics, logs, and for loading a finished artifact (JobRecord::load_as). Sent after the change is durable.
struct JobNotice {
  enum class Kind { kJobState, kTaskDone, kTaskRetried, kLeaseExpired, kGateRefused };
  Kind kind = Kind::kJobState;
  JobRecord job;
  // Tasks only.
  TaskStage stage = TaskStage::kPrepare;
  double task_seconds = 0;
  int64_t weights = 0;
  std::string reason;  // GATE_*, or why the task is tried again
};

struct JobManagerOptions {
  std::string work_dir;      // <data>/work; scratch files of running tasks, emptied by Start
  std::string pool = "cpu";  // of the jobs that are created
  int threads = 1;           // that a worker has; for estimates only
  int64_t lease_ms = 30'000;
  // This process owns the metadata store, so a lease that is there at Start belongs to a dead worker.
  bool reclaim_leases_on_start = true;
  // Runs lease expiry and garbage collection on a thread of its own. Tests that set the clock call Maintain instead.
  bool background = true;
  std::function<int64_t()> now_ms = SystemNowMs;
  // Called without any lock held, from any thread, in order for each job; must not block for long.
  std::function<void(const JobNotice&)> on_notice;
};

struct JobProgress {
  int32_t tasks_done = 0;
  int32_t tasks_total = 0;
  std::string stage;  // calibrate, quantize, assemble, evaluate; of the first task that is not done
  int64_t weights_done = 0;
  int64_t weights_total = 0;
  double eta_seconds = -1;     // < 0: not known yet
  int32_t queue_position = 0;  // 0 when it runs or is over; 1 = next
  std::string waiting_for;     // empty when it waits for nothing
  double stage_fraction = 0;   // of the running stage, 0..1
};

struct JobView {
  JobRecord job;
  JobSpec spec;
  JobEstimate estimate;
  JobProgress progress;
  std::vector<TensorOutcome> tensors;    // in the order in which they were done
  std::vector<JobCandidate> candidates;  // artifacts that were measured, in order
  std::optional<QualityReport> quality;
  uint64_t change = 0;  // see WaitForChange
  std::string etag() const { return std::to_string(job.version); }
};

struct CreateQuantizeJobArgs {
  JobSpec spec;  // of quantize and study jobs; the kind follows from the call
  std::string display_name;
  int32_t priority = 0;  // -1000..1000
  std::string load_as;
  std::string request_id;
  bool validate_only = false;
};
struct CreateEvaluateJobArgs {
  std::string artifact;  // digest
  TextSelection evaluation;
  std::string request_id;
  bool validate_only = false;
};

// What a worker holds while it works.
struct TaskGrant {
  TaskInput input;
  TaskLease lease;
  // Set when the job was cancelled or the lease was lost: the worker must stop.
  std::shared_ptr<const std::atomic<bool>> stop;
};

class JobManager {
 public:
  // All references must outlive the manager.
  JobManager(JobManagerOptions options, MetadataStore& store, Catalog& catalog, TaskRunner& runner);
  ~JobManager();

  // Takes up what an earlier process left: leases of dead workers end, jobs go on, finished tasks are not redone.
  absl::Status Start();
  // Wakes all waiters; WaitForChange and WaitForTask return UNAVAILABLE (SHUTTING_DOWN) from now on.
  void Stop();

  // --- Calls of the API ---
  // The unfinished or succeeded job with the same key if there is one (of a rejected job too: the gates would refuse
  // again). A succeeded job whose artifact was deleted does not count. With validate_only the view has no id and
  // nothing is stored. NOT_FOUND (CHECKPOINT_NOT_FOUND, TEXT_NOT_FOUND, ARTIFACT_NOT_FOUND); INVALID_ARGUMENT (see
  // NormalizeJobSpec, PlanQuantization, PRIORITY_RANGE, DISPLAY_NAME, LOAD_AS); RESOURCE_EXHAUSTED (DISK_FULL).
  absl::StatusOr<JobView> CreateQuantizeJob(const CreateQuantizeJobArgs& args);
  // Methods on checkpoints, measured side by side: checkpoints, methods, calibration and evaluation of args.spec.
  absl::StatusOr<JobView> CreateStudyJob(const CreateQuantizeJobArgs& args);
  // The table of what a job has measured so far: of any job that makes artifacts, finished or not.
  absl::StatusOr<Study> GetStudy(const std::string& id);
  // FAILED_PRECONDITION (CHECKPOINT_NOT_FOUND) if the artifact's checkpoint was deleted.
  absl::StatusOr<JobView> CreateEvaluateJob(const CreateEvaluateJobArgs& args);
  absl::StatusOr<JobView> GetJob(const std::string& id);
  // Views without tensors.
  absl::StatusOr<Page<JobView>> ListJobs(const PageRequest& page, const JobFilter& filter);
  // Idempotent. FAILED_PRECONDITION (JOB_STATE) for a job that ended otherwise.
  absl::StatusOr<JobView> CancelJob(const std::string& id, const std::string& request_id);
  // A FAILED or CANCELLED job goes on from the tasks that are done; FAILED_PRECONDITION (JOB_STATE) for others.
  absl::StatusOr<JobView> RetryJob(const std::string& id, const std::string& request_id);
  // FAILED_PRECONDITION (JOB_ACTIVE) unless the job has ended. Its artifact stays.
  absl::Status DeleteJob(const std::string& id, const std::string& request_id);

  // --- Watching ---
  // Returns as soon as the job's `change` differs from `seen` (start with 0, then pass the view's), or after
  // `timeout_ms` with the view as it is. `tensors` of the view starts at index `tensors_from`. Ends with the view whose
  // job IsFinal; NOT_FOUND (JOB_NOT_FOUND) if the job is deleted meanwhile. Progress within a task is told at most 5
  // times a second.
  absl::StatusOr<JobView> WaitForChange(const std::string& id, uint64_t seen, size_t tensors_from, int64_t timeout_ms);
  // For callers that have no thread to block: `on_change` is called, without locks, after each change until the
  // returned handle is destroyed (which waits for a running call). It then reads GetJob or WaitForChange with timeout
  // 0.
  std::shared_ptr<void> Subscribe(const std::string& id, std::function<void()> on_change);

  // --- Calls of workers ---
  // Blocks until a task that `filter` lets through is leased to `worker`; no value if `timeout_ms` passed or `stop` was
  // set (look again after setting it: WakeWorkers).
  absl::StatusOr<std::optional<TaskGrant>> WaitForTask(const std::string& worker, const TaskFilter& filter,
                                                       int64_t timeout_ms, const std::atomic<bool>& stop);
  // Everyone in WaitForTask looks for work again.
  void WakeWorkers();
  // ABORTED (LEASE_LOST): stop.
  absl::Status RenewLease(const TaskLease& lease);
  void ReportProgress(const TaskLease& lease, double fraction);
  // The task is DONE, what it adds to the job is there, an artifact that it finished is registered and, if it was the
  // last one, the job ends, all in one transaction. If a gate refused (TaskOutcome::gate), the job is rejected.
  // `seconds` is what the attempt took. ABORTED (LEASE_LOST) if the lease is gone: the outcome is ignored.
  absl::Status CompleteTask(const TaskLease& lease, const TaskOutcome& outcome, double seconds);
  // By `error`: the job is rejected (GATE_*), the task is tried again later (IsRetryable), or the job fails. CANCELLED
  // is what a stopping worker says: the task is READY again at once and the attempt does not count.
  absl::Status FailTask(const TaskLease& lease, const absl::Status& error);

  // Stop, and every leased task is READY again without waiting for its worker; the attempt does not count. For a process
  // that is about to end: no task is leased any more, and what workers still report is refused (LEASE_LOST).
  absl::Status PutBackTasks();

  // Ends lapsed leases; frees what nobody refers to. Called by the background thread when something is due.
  absl::Status Maintain();

  // Jobs and tasks by state, for metrics: queued jobs, running jobs, age of the oldest queued job in seconds.
  struct QueueStats {
    int64_t queued_jobs = 0;
    int64_t running_jobs = 0;
    double oldest_queued_seconds = 0;
  };
  absl::StatusOr<QueueStats> Stats();

 private:
  // What is known of a leased task beyond its row.
  struct Running {
    TaskLease lease;
    int64_t started_ms = 0;
    double fraction = 0;
    int64_t told_ms = 0;
    std::shared_ptr<std::atomic<bool>> stop;
  };
  struct Listener;
  // Declared before a lock of jobs_mutex_: tells what happened once the lock is released.
  class Teller;

  // job_manager.cc. Names that end in Locked: jobs_mutex_ is held.
  void MarkStopped();
  bool IsStopped() const;
  absl::StatusOr<JobView> Create(JobSpec spec, const JobRecord& wishes, const std::string& request_id,
                                 std::string_view method, bool validate_only);
  absl::StatusOr<std::string> CreateLocked(const JobPlan& plan, JobRecord job);
  absl::StatusOr<std::optional<JobRecord>> ReusableLocked(const std::string& key);
  absl::StatusOr<std::string> RetryLocked(const std::string& id);
  // Ends the job and takes the leases of its tasks, those in `change` (already changed) apart, in one transaction.
  absl::Status EndJobLocked(JobRecord job, JobChange change, JobEvent event, const absl::Status& error);
  static absl::Status CheckWishes(const CreateQuantizeJobArgs& args);

  // job_tasks.cc
  absl::StatusOr<std::optional<TaskGrant>> TryLease(const std::string& worker, const TaskFilter& filter);
  absl::StatusOr<TaskGrant> GrantLocked(const JobRecord& job, const TaskRecord& task);
  absl::StatusOr<TaskRecord> LeasedTask(const TaskLease& lease);
  // The lease of `task` is over without an outcome: it goes back or, after too many attempts, the job fails.
  absl::Status EndLeaseLocked(TaskRecord task, const absl::Status& error, JobNotice::Kind kind, int64_t backoff_ms);
  absl::Status RejectLocked(JobRecord job, TaskRecord task, const absl::Status& gate);
  absl::Status RequeueIfIdleLocked(const std::string& job);
  void StopLease(int64_t lease_id);
  void BackgroundLoop();

  // job_view.cc
  absl::StatusOr<JobView> ViewOf(JobRecord job, std::optional<size_t> tensors_from);
  absl::Status FillProgress(const std::vector<TaskRecord>& tasks, JobView& view);
  absl::StatusOr<int32_t> QueuePosition(const JobRecord& job);
  uint64_t ChangeOf(const std::string& job) const;
  void Changed(const std::string& job);
  void Notice(JobNotice notice);
  void Tell();
  void LearnRate(TaskStage stage, double cost, double seconds);
  // Seconds that `cost` of a stage takes on this machine, with its tensors side by side; < 0 if nothing was measured
  // yet.
  double SecondsFor(TaskStage stage, double cost) const;
  // Seconds that are left of `task`; what it has done so far says more than other tasks do.
  double SecondsLeft(const TaskRecord& task, const Running* running) const;
  absl::Status LoadRates();
  void SaveRates();

  const JobManagerOptions options_;
  MetadataStore& store_;
  Catalog& catalog_;
  TaskRunner& runner_;

  // One change of a job at a time: read, decide, write. Taken before mutex_.
  std::mutex jobs_mutex_;

  // Guards what is below, which is in memory only. Never held while store, runner or callbacks are called.
  mutable std::mutex mutex_;
  std::condition_variable work_;     // there may be a task to lease
  std::condition_variable changes_;  // some job changed
  std::condition_variable due_;      // the background thread must look again
  bool stopped_ = false;
  bool due_changed_ = false;
  uint64_t work_version_ = 1;
  uint64_t next_change_ = 2;
  std::map<std::string, uint64_t> change_of_;                      // by job; 1 if not there
  std::map<int64_t, Running> running_;                             // by lease id
  std::multimap<std::string, std::weak_ptr<Listener>> listeners_;  // by job
  std::deque<JobNotice> notices_;                                  // not told yet, in order
  std::set<std::string> changed_;                                  // jobs whose listeners were not told yet
  bool telling_ = false;                                           // some thread is in Tell
  std::map<TaskStage, double> seconds_per_cost_;
  int64_t collected_ms_ = 0;  // of the last garbage collection
  std::thread background_;
};

}  // namespace qamserve
