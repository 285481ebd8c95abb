// The two state machines of server/jobs. Start here, then job_manager.h (what a job does and who is told),
// task_runner.h (what a task does), worker.h (who does it).
#pragma once

#include "core/base/status.h"
#include "server/store/records.h"

namespace qamserve {

// What happens to a job:
//
//   QUEUED --start--> RUNNING --gate--> GATING --succeed--> SUCCEEDED
//     ^                  |                 |-----reject---> REJECTED
//     |<--lose workers---'                 |
//     |                                    |
//     |    (any of the three) ----fail-----+--------------> FAILED ----.
//     |                       ---cancel----+--------------> CANCELLED --+--retry--.
//     '---------------------------------------------------------------------------'
//
// GATING begins with the first task that can refuse an artifact (assemble) and lasts through all later rounds.
// SUCCEEDED and REJECTED are for good.
enum class JobEvent { kStart, kGate, kLoseWorkers, kSucceed, kReject, kFail, kCancel, kRetry };
const char* JobEventName(JobEvent event);

// The state, and the times and error that go with it, of one JobRecord. Not thread-safe; the caller stores the record.
class JobMachine {
 public:
  explicit JobMachine(JobRecord& job) : job_(job) {}
  // The only place where a job's state changes. FAILED_PRECONDITION (JOB_STATE) names state and event if the drawing
  // has no such arrow; the record is as before. `error` is kept for reject and fail.
  absl::Status Apply(JobEvent event, int64_t now_ms, const absl::Status& error = absl::OkStatus());

 private:
  JobRecord& job_;
};

// What happens to a task:
//
//   READY --lease--> LEASED --complete--> DONE ---.
//     ^  ^             |                          |
//     |  '---release---+--give up--> FAILED --.   |
//     '------------------reset----------------+---'
//
// Release: the lease lapsed, the worker met an error that may pass, or the job was cancelled. Reset: the job is retried
// (a DONE task only if its blobs are gone).
enum class TaskEvent { kLease, kComplete, kRelease, kGiveUp, kReset };
const char* TaskEventName(TaskEvent event);

class TaskMachine {
 public:
  explicit TaskMachine(TaskRecord& task) : task_(task) {}
  // The only place where a task's state changes, but for MetadataStore::LeaseTask, which must choose and lease at once.
  // FAILED_PRECONDITION (TASK_STATE) as above. `error` is kept for release and give up.
  absl::Status Apply(TaskEvent event, const absl::Status& error = absl::OkStatus());

 private:
  TaskRecord& task_;
};

// After how many failed attempts a task is given up, by its last error. What is UNAVAILABLE (an object store, a disk)
// may be for minutes: with the rests between them 12 attempts bridge six. Other errors get 5.
inline constexpr int32_t kMaxTaskAttempts = 5;
inline constexpr int32_t kMaxUnavailableAttempts = 12;
int32_t MaxTaskAttempts(const absl::Status& error);
// How long it rests before the next one: 1 s, 2 s, 4 s, ... up to kMaxTaskBackoffMs.
inline constexpr int64_t kMaxTaskBackoffMs = 60'000;
int64_t TaskBackoffMs(int32_t attempts);
// Leases that end without a word of their worker are counted for themselves: machines come and go, and that is not the
// task's fault. A task that kills each of its workers still ends its job.
inline constexpr int32_t kMaxTaskLapses = 20;
// Errors of the machine rather than of the input: UNAVAILABLE, ABORTED, RESOURCE_EXHAUSTED (a full disk may be
// emptied), DEADLINE_EXCEEDED, and a GPU that is lost (IsCudaLost): another worker may have one.
bool IsRetryable(const absl::Status& status);
// Errors of the metadata store's own state, whatever was asked of it: it cannot be reached, takes no writes (a standby
// that is not promoted yet), or does not let this process in. Workers wait for its end with what they have done. What
// is wrong with single rows (STORE_CORRUPT) or with what was to be written (STORE_CONSTRAINT, STORE_VALUE) is none of
// them. STORE_UNAVAILABLE is also what an error of a statement is told as that has no name: not for ever the store's.
bool IsStoreFault(const absl::Status& status);

}  // namespace qamserve
