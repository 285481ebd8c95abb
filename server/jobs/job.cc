#include "server/jobs/job.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "core/kernels/cuda/device.h"

namespace qamserve {
namespace {

// The last three of a PostgreSQL server that is connected to while another one is expected to take over.
constexpr std::array<std::string_view, 6> kStoreFaults = {"STORE_UNAVAILABLE", "STORE_READ_ONLY", "STORE_CREDENTIALS",
                                                          "STORE_MISSING",     "STORE_ENCODING",  "STORE_VERSION"};

// The arrows of the drawings; nothing if there is none.
std::optional<JobState> NextJobState(JobState from, JobEvent event) {
  const bool unfinished = !IsFinal(from);
  switch (event) {
    case JobEvent::kStart:
      if (from == JobState::kQueued) return JobState::kRunning;
      break;
    case JobEvent::kGate:
      if (from == JobState::kRunning) return JobState::kGating;
      break;
    case JobEvent::kLoseWorkers:
      if (from == JobState::kRunning) return JobState::kQueued;
      break;
    case JobEvent::kSucceed:
      if (from == JobState::kGating) return JobState::kSucceeded;
      break;
    case JobEvent::kReject:
      if (from == JobState::kGating) return JobState::kRejected;
      break;
    case JobEvent::kFail:
      if (unfinished) return JobState::kFailed;
      break;
    case JobEvent::kCancel:
      if (unfinished) return JobState::kCancelled;
      break;
    case JobEvent::kRetry:
      if (from == JobState::kFailed || from == JobState::kCancelled) return JobState::kQueued;
      break;
  }
  return std::nullopt;
}

std::optional<TaskState> NextTaskState(TaskState from, TaskEvent event) {
  switch (event) {
    case TaskEvent::kLease:
      if (from == TaskState::kReady) return TaskState::kLeased;
      break;
    case TaskEvent::kComplete:
      if (from == TaskState::kLeased) return TaskState::kDone;
      break;
    case TaskEvent::kRelease:
      if (from == TaskState::kLeased) return TaskState::kReady;
      break;
    case TaskEvent::kGiveUp:
      if (from == TaskState::kLeased) return TaskState::kFailed;
      break;
    case TaskEvent::kReset:
      if (from == TaskState::kFailed || from == TaskState::kDone) return TaskState::kReady;
      break;
  }
  return std::nullopt;
}

}  // namespace

const char* JobEventName(JobEvent event) {
  switch (event) {
    case JobEvent::kStart:
      return "start";
    case JobEvent::kGate:
      return "gate";
    case JobEvent::kLoseWorkers:
      return "lose workers";
    case JobEvent::kSucceed:
      return "succeed";
    case JobEvent::kReject:
      return "reject";
    case JobEvent::kFail:
      return "fail";
    case JobEvent::kCancel:
      return "cancel";
    case JobEvent::kRetry:
      return "retry";
  }
  return "unknown";
}

absl::Status JobMachine::Apply(JobEvent event, int64_t now_ms, const absl::Status& error) {
  const std::optional<JobState> next = NextJobState(job_.state, event);
  if (!next) {
    return FailedPrecondition("JOB_STATE", "job {} is {}: it cannot {}", job_.id, JobStateName(job_.state),
                              JobEventName(event));
  }
  job_.state = *next;
  if (event == JobEvent::kStart && job_.started_ms == 0) job_.started_ms = now_ms;
  if (event == JobEvent::kReject || event == JobEvent::kFail) job_.error = ErrorFromStatus(error);
  if (event == JobEvent::kCancel) job_.error = ErrorFromStatus(Cancelled("JOB_CANCELLED", "the job was cancelled"));
  if (event == JobEvent::kRetry) job_.error = ErrorRecord();
  job_.ended_ms = IsFinal(job_.state) ? now_ms : 0;
  return absl::OkStatus();
}

const char* TaskEventName(TaskEvent event) {
  switch (event) {
    case TaskEvent::kLease:
      return "be leased";
    case TaskEvent::kComplete:
      return "be completed";
    case TaskEvent::kRelease:
      return "be released";
    case TaskEvent::kGiveUp:
      return "be given up";
    case TaskEvent::kReset:
      return "be reset";
  }
  return "unknown";
}

absl::Status TaskMachine::Apply(TaskEvent event, const absl::Status& error) {
  const std::optional<TaskState> next = NextTaskState(task_.state, event);
  if (!next) {
    return FailedPrecondition("TASK_STATE", "task {} ({}) of job {} is {}: it cannot {}", task_.index, task_.name,
                              task_.job, TaskStateName(task_.state), TaskEventName(event));
  }
  task_.state = *next;
  if (task_.state != TaskState::kLeased) {
    task_.lease_expires_ms = 0;
    task_.progress = 0;
  }
  // Of a task that is done they stay: a worker that asks again whether its outcome was taken is told by them.
  if (task_.state != TaskState::kLeased && task_.state != TaskState::kDone) {
    task_.worker.clear();
    task_.lease_id = 0;
  }
  if (event == TaskEvent::kRelease || event == TaskEvent::kGiveUp) task_.error = ErrorFromStatus(error);
  if (event == TaskEvent::kComplete || event == TaskEvent::kReset) task_.error = ErrorRecord();
  if (event == TaskEvent::kReset) {
    task_.attempts = 0;
    task_.lapses = 0;
    task_.not_before_ms = 0;
    task_.outcome_json.clear();
    task_.blobs.clear();
    task_.done_sequence = 0;
    task_.seconds = 0;
  }
  return absl::OkStatus();
}

int32_t MaxTaskAttempts(const absl::Status& error) {
  return absl::IsUnavailable(error) ? kMaxUnavailableAttempts : kMaxTaskAttempts;
}

int64_t TaskBackoffMs(int32_t attempts) {
  // 2^16 s is beyond the longest rest.
  return std::min(kMaxTaskBackoffMs, int64_t{1000} << std::clamp(attempts - 1, 0, 16));
}

bool IsRetryable(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsAborted(status) || absl::IsResourceExhausted(status) ||
         absl::IsDeadlineExceeded(status) || IsCudaLost(status);
}

bool IsStoreFault(const absl::Status& status) {
  return !status.ok() && std::find(kStoreFaults.begin(), kStoreFaults.end(), ReasonOf(status)) != kStoreFaults.end();
}

}  // namespace qamserve
