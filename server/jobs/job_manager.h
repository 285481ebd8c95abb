// Jobs from request to result: creates them, hands their tasks to workers, takes outcomes, tells watchers. Thread-safe.
// All state is in the metadata store; the manager adds what need not survive a restart (progress within a task, who
// watches). Construct, Start, use; the destructor stops its threads and wakes every waiter.
//
// Managers of several processes may share one store. Each change is read, decided and written as one: what another
// process wrote meanwhile makes the write fail (VERSION_CONFLICT), and it is decided anew. The store's events, and a
// look now and then in case one is lost, tell a manager what the others did.
#pragma once

#include <absl/functional/function_ref.h>

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
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/rng.h"
#include "core/base/status.h"
#include "core/evaluate/evaluate.h"
#include "server/jobs/candidates.h"
#include "server/jobs/job.h"
#include "server/jobs/job_spec.h"
#include "server/jobs/task_runner.h"
#include "server/store/catalog.h"
#include "server/store/metadata_store.h"

namespace qamserve {

// For metrics, logs, and for loading a finished artifact at once (HasLoadWish). Sent after the change is durable.
struct JobNotice {
  enum class Kind {
    kJobState,
    kTaskDone,
    kTaskRetried,
    kTaskFailed,  // given up after an error, and its job with it; a last lapse is told as kLeaseExpired
    kLeaseExpired,
    kGateRefused,
    kDuplicate,         // a task was done again, after its lease had lapsed, with the same outcome
    kNotDeterministic,  // the same with another outcome: the job fails, if it has not ended yet
  };
  Kind kind = Kind::kJobState;
  JobRecord job;
  // Tasks only.
  TaskStage stage = TaskStage::kPrepare;
  double task_seconds = 0;
  int64_t weights = 0;
  // GATE_*, or why the task is tried again or given up; of kNotDeterministic what differs, in words.
  std::string reason;
  int32_t task = -1;  // its index
  std::string task_name;
  std::string worker;
  // Of kTaskDone: what the task finished and the job keeps, as TaskOutcome::artifact; else null.
  std::shared_ptr<const ArtifactRecord> artifact;
};

struct JobManagerOptions {
  std::string work_dir;      // <data>/work; scratch files of running tasks, emptied by Start; of this process alone
  std::string pool = "cpu";  // of jobs that name none
  int threads = 1;           // that a worker has; for estimates only
  int64_t lease_ms = 30'000;
  // Whether other processes work on the same store; not given: what the store says. If not, a lease that is there at
  // Start belongs to a dead worker.
  std::optional<bool> shared = std::nullopt;
  // What workers get to renew their leases in, before those that have lapsed are taken, once the store is there again
  // after it was not to be had. Of several processes one that starts gives it, too.
  int64_t settle_ms = 10'000;
  int64_t poll_ms = 2000;  // of several processes: how often to look for what events did not tell
  // Runs lease expiry, garbage collection and the looking on threads of its own. Tests that set the clock call Maintain
  // instead.
  bool background = true;
  std::function<int64_t()> now_ms = nullptr;  // null: the store's clock
  // Called without any lock held, from any thread, in order for each job; must not block for long.
  std::function<void(const JobNotice&)> on_notice = nullptr;
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
  std::string pool;          // whose workers do it: a-z, 0-9 and '-', 63 at most; empty = options.pool
  std::string project;       // shares the workers fairly with others: a-z, 0-9, '-', '_' and '.', 63 at most
  std::string trace_parent;  // W3C traceparent of the call
};
struct CreateEvaluateJobArgs {
  std::string artifact;  // digest
  TextSelection evaluation;
  std::string request_id;
  bool validate_only = false;
  std::string pool;
  std::string project;
  std::string trace_parent;
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
  // again). A succeeded job whose artifact was deleted does not count. That job then has the load_as of this call, if
  // it has one; of a succeeded job no notice tells so, but its HasLoadWish does. With validate_only the view has no id
  // and nothing is stored. NOT_FOUND (CHECKPOINT_NOT_FOUND, TEXT_NOT_FOUND, ARTIFACT_NOT_FOUND); INVALID_ARGUMENT (see
  // NormalizeJobSpec, PlanQuantization, PRIORITY_RANGE, DISPLAY_NAME, LOAD_AS, POOL, PROJECT); RESOURCE_EXHAUSTED
  // (DISK_FULL).
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
  // A FAILED or CANCELLED job goes on from the tasks that are done; FAILED_PRECONDITION (JOB_STATE) for others, and
  // (TASK_NOT_DETERMINISTIC) for one whose outcomes cannot be trusted.
  absl::StatusOr<JobView> RetryJob(const std::string& id, const std::string& request_id);
  // FAILED_PRECONDITION (JOB_ACTIVE) unless the job has ended. Its artifact stays.
  absl::Status DeleteJob(const std::string& id, const std::string& request_id);
  // Takes a leased task from its worker, whoever that is: READY again at once, and the attempt does not count.
  // FAILED_PRECONDITION (TASK_STATE) if it is not leased.
  absl::Status ReleaseTask(const std::string& job, int32_t index, const std::string& request_id);

  // --- Watching ---
  // Returns as soon as the job's `change` differs from `seen` (start with 0, then pass the view's), which it now and
  // then does although nothing happened, or after `timeout_ms` with the view as it is. `tensors` of the view starts at
  // index `tensors_from`. Ends with the view whose job IsFinal; NOT_FOUND (JOB_NOT_FOUND) if the job is deleted
  // meanwhile. Progress within a task is told at most 5 times a second.
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
  // With the progress that was last reported. ABORTED (LEASE_LOST): stop.
  absl::Status RenewLease(const TaskLease& lease);
  void ReportProgress(const TaskLease& lease, double fraction);
  // The task is DONE, what it adds to the job is there, an artifact that it finished is registered and, if it was the
  // last one, the job ends, all in one transaction. If a gate refused (TaskOutcome::gate), the job is rejected.
  // `seconds` is what the attempt took. ABORTED (LEASE_LOST) if the lease is gone: the outcome is ignored. If another
  // worker has done the task meanwhile, the two outcomes must be the same, and OK is returned; else the job fails if it
  // has not ended yet, with the error returned: DATA_LOSS (TASK_NOT_DETERMINISTIC). Call it again after UNAVAILABLE and
  // other errors that pass, however often: what was written already is not written twice.
  absl::Status CompleteTask(const TaskLease& lease, const TaskOutcome& outcome, double seconds);
  // By `error`: the job is rejected (GATE_*), the task is tried again later (IsRetryable), or the job fails. After an
  // error of the metadata store (IsStoreFault) it is tried again and, unless that is UNAVAILABLE, the attempt does not
  // count. CANCELLED is what a stopping worker says: the task is READY again at once and the attempt does not count.
  absl::Status FailTask(const TaskLease& lease, const absl::Status& error);

  // Stop, and every task that was leased here is READY again without waiting for its worker; the attempt does not
  // count. For a process that is about to end: no task is leased any more, and what workers still report is refused
  // (LEASE_LOST).
  absl::Status PutBackTasks();

  // Ends lapsed leases, whoever has them; frees what nobody refers to. Called by a background thread when something is
  // due.
  absl::Status Maintain();

  // Whether other processes work on the same store.
  bool shared() const { return shared_; }

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
  // Workers that may take a job's tasks.
  struct Capacity {
    int64_t workers = 0;
    int64_t threads = 0;
    bool pool_known = false;                  // there is a worker of its pool
    std::set<std::string> other_codecs = {};  // of those of its pool that must not take it
  };
  struct Listener;
  // Declared before a lock of jobs_mutex_: tells what happened once the lock is released.
  class Teller;
  // What a change comes to (job_decision.h).
  struct Decision;
  // How a lease ends without an outcome.
  enum class LeaseEnd {
    kGivenBack,  // not the task's fault: does not count
    kFailed,     // with an error: an attempt
    kPutOff,     // with an error that is not the task's: does not count, but it rests
    kLapsed,     // unless it was renewed meanwhile: a lapse
    kLost,       // whether or not its time is up: a lapse
  };

  int64_t Now() const;
  // job_decision.cc. Names that end in Locked: jobs_mutex_ is held.
  // Reads and decides, writes, tells; again and again while other processes are faster. `decide` may thus be called
  // several times. Returns its error, that of writing, or Decision::answer.
  absl::Status Decide(absl::FunctionRef<absl::StatusOr<Decision>()> decide);
  absl::Status DecideLocked(absl::FunctionRef<absl::StatusOr<Decision>()> decide);
  // Before the next try after `attempt` conflicts.
  void RestAfterConflict(int attempt);
  int64_t Jitter(int64_t ms);  // 1..ms
  // Ends the job and takes the leases of its tasks, those that `decision` has changed already apart.
  absl::Status EndJob(JobRecord job, JobEvent event, const absl::Status& error, Decision& decision);

  // job_manager.cc
  void MarkStopped();
  bool IsStopped() const;
  absl::StatusOr<JobView> Create(JobSpec spec, JobRecord wishes, const std::string& request_id, std::string_view method,
                                 bool validate_only);
  absl::StatusOr<Decision> CreateDecision(const JobPlan& plan, JobRecord job, std::string& id);
  absl::StatusOr<std::optional<JobRecord>> Reusable(const std::string& key);
  absl::StatusOr<Decision> RetryDecision(const std::string& id, const std::set<std::string>& lost_blobs);
  absl::StatusOr<std::set<std::string>> LostBlobs(const std::string& id);
  static absl::Status CheckWishes(const CreateQuantizeJobArgs& args);

  // job_leases.cc
  absl::StatusOr<std::optional<TaskGrant>> TryLease(const std::string& worker, const TaskFilter& filter,
                                                    uint64_t work_version, bool again);
  absl::StatusOr<TaskGrant> GrantLocked(const TaskRecord& task);
  absl::StatusOr<JobRecord> BeginLocked(const TaskRecord& task);
  absl::StatusOr<TaskRecord> LeasedTask(const TaskLease& lease);
  // The lease is over without an outcome: the task goes back or, after too many attempts, the job fails. ABORTED
  // (LEASE_LOST) if it is gone already.
  absl::Status EndLease(const TaskLease& lease, const absl::Status& error, LeaseEnd how);
  absl::StatusOr<Decision> EndLeaseDecision(const TaskLease& lease, const absl::Status& error, LeaseEnd how);
  absl::Status RequeueIfIdle(JobRecord job, int32_t released, Decision& decision);
  void StopLease(int64_t lease_id);
  absl::Status EndLapsedLeases();
  // Workers get time to renew their leases before those that have lapsed are taken.
  void Settle();
  // Of a store that refused a write: whether it takes one.
  absl::Status TryWrite();
  void BackgroundLoop();

  // job_outcomes.cc
  absl::StatusOr<Decision> CompleteDecision(const TaskLease& lease, const TaskOutcome& outcome, double seconds);
  absl::StatusOr<Decision> DuplicateDecision(const TaskLease& lease, const TaskRecord& done,
                                             const TaskOutcome& outcome);
  absl::StatusOr<Decision> FailDecision(const TaskLease& lease, const absl::Status& error);
  absl::Status Reject(const JobRecord& job, TaskRecord task, const absl::Status& gate, Decision& decision);

  // job_events.cc
  void OnStoreEvent(const StoreEvent& event);
  void RefreshLoop();
  // Stops the leases that this process has of a job that ended.
  void StopLeasesIfEnded(const std::string& job);
  std::vector<TaskLease> RunningOf(const std::string& job) const;
  bool IsKnownLocked(const std::string& job) const;
  std::set<std::string> WatchedLocked() const;
  void Changed(const std::string& job);
  void WakeBackground();
  void Notice(JobNotice notice);
  void Tell();
  uint64_t ChangeOf(const std::string& job) const;
  uint64_t ChangeOfLocked(const std::string& job) const;
  void ForgetChangesLocked();

  // job_view.cc
  // `queue`: the unfinished jobs in their order, read when they are first needed.
  absl::StatusOr<JobView> ViewOf(JobRecord job, std::optional<size_t> tensors_from);
  absl::StatusOr<JobView> ViewOf(JobRecord job, std::optional<size_t> tensors_from,
                                 std::optional<std::vector<JobRecord>>& queue);
  absl::Status FillProgress(const std::vector<TaskRecord>& tasks, JobView& view,
                            std::optional<std::vector<JobRecord>>& queue);
  static std::string WaitingFor(const JobRecord& job, const Capacity& capacity, const TaskRecord* resting);
  static int32_t QueuePosition(const JobRecord& job, const std::vector<JobRecord>& queue);

  // job_rates.cc
  absl::StatusOr<Capacity> CapacityFor(const JobRecord& job);
  absl::StatusOr<std::shared_ptr<const std::vector<InstanceRecord>>> Instances();
  void LearnRate(const std::string& pool, TaskStage stage, double cost, double seconds);
  // Seconds that `cost` of a stage takes a worker of the pool on one of its lanes; < 0 if nothing was measured yet.
  double SecondsFor(const std::string& pool, TaskStage stage, double cost) const;
  // Seconds that are left of `task`; what it has done so far says more than other tasks do. `running`: null if it does
  // not run here.
  double SecondsLeft(const std::string& pool, const TaskRecord& task, const Running* running) const;
  // Seconds of all `tasks` with the workers that there are; < 0 if nothing was measured yet.
  double EstimateSeconds(const JobRecord& job, const std::vector<TaskRecord>& tasks, const Capacity& capacity,
                         const std::map<int64_t, Running>& leases) const;
  absl::Status LoadRates();
  void SaveRates();

  const JobManagerOptions options_;
  MetadataStore& store_;
  Catalog& catalog_;
  TaskRunner& runner_;
  const bool shared_;

  // Of this process one change at a time: read, decide, write. Taken before mutex_.
  std::mutex jobs_mutex_;

  // Guards what is below, which is in memory only. Never held while store, runner or callbacks are called.
  mutable std::mutex mutex_;
  std::condition_variable work_;     // there may be a task to lease
  std::condition_variable changes_;  // some job changed
  std::condition_variable due_;      // BackgroundLoop must look again
  std::condition_variable events_;   // RefreshLoop must look again
  bool stopped_ = false;
  bool due_changed_ = false;
  uint64_t work_version_ = 1;
  std::map<std::string, uint64_t> idle_at_;  // by filter: the work version at which there was no task
  uint64_t next_change_ = 2;
  std::map<std::string, uint64_t> change_of_;                             // by job; else forgotten_change_
  uint64_t forgotten_change_ = 1;                                         // the highest that change_of_ has no more
  static constexpr size_t kForgetAt = 256;                                // some 30 KB
  size_t forget_at_ = kForgetAt;                                          // size of change_of_ at which to forget
  std::map<int64_t, Running> running_;                                    // by lease id
  std::multimap<std::string, std::weak_ptr<Listener>> listeners_;         // by job
  std::map<std::string, int> waiting_;                                    // callers in WaitForChange, by job
  std::set<std::string> stale_;                                           // jobs that an event was about
  bool missed_ = false;                                                   // events may have been lost
  std::deque<JobNotice> notices_;                                         // not told yet, in order
  std::set<std::string> changed_;                                         // jobs whose listeners were not told yet
  bool telling_ = false;                                                  // some thread is in Tell
  std::map<std::pair<std::string, TaskStage>, double> seconds_per_cost_;  // by pool and stage
  std::shared_ptr<const std::vector<InstanceRecord>> instances_;          // as of instances_ms_
  int64_t instances_ms_ = 0;
  int64_t collected_ms_ = 0;    // of the last garbage collection
  int64_t expire_from_ms_ = 0;  // lapsed leases are left alone until then
  bool refused_ = false;        // the store refused to end one, and has taken no write since
  Rng jitter_;

  std::shared_ptr<void> listening_;  // to the store
  std::thread background_;
  std::thread refresher_;
};

}  // namespace qamserve
