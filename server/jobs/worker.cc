#include "server/jobs/worker.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/base/file.h"
#include "core/kernels/cuda/device.h"
#include "core/quantize/quantize.h"

namespace qamserve {
namespace {

constexpr int64_t kWaitMs = 60'000;
// Between two attempts at a store that does not answer, or takes nothing.
constexpr int64_t kPauseMs = 1000;
// Of several processes: watchers elsewhere hear of progress when the lease is renewed.
constexpr int64_t kSharedRenewMs = 5000;

// Of this thread, and of those that it starts.
void BeNice(int nice) {
  const auto thread = static_cast<id_t>(::gettid());
  const int now = ::getpriority(PRIO_PROCESS, thread);
  // More niceness is always allowed.
  if (nice > now) (void)::setpriority(PRIO_PROCESS, thread, nice);
}

}  // namespace

struct Worker::Lane {
  TaskFilter filter;
  int threads = 1;  // of the tasks that are not a tensor
  // Of the running task; guarded by the worker's mutex_.
  std::optional<TaskLease> lease;
  std::shared_ptr<const std::atomic<bool>> stop;
  bool lease_lost = false;  // the store says so, of a lease that nobody in this process had ended
  std::thread thread;
};

Worker::Worker(WorkerOptions options, JobManager& manager, TaskRunner& runner)
    : options_(std::move(options)), manager_(manager), runner_(runner) {
  for (int i = 0; i < options_.threads; ++i) {
    Lane& lane = *lanes_.emplace_back(std::make_unique<Lane>());
    lane.filter.pools = options_.pools;
    // Where there is one process, a job of another codec fails at its next task instead of waiting for ever.
    if (manager.shared()) lane.filter.codec_version = kCodecVersion;
    // One task that uses all threads at a time.
    if (i > 0) lane.filter.stage = TaskStage::kQuantize;
    if (i == 0) lane.threads = options_.threads;
  }
  renew_thread_ = std::thread([this] { RenewLoop(); });
  for (const auto& lane : lanes_) lane->thread = std::thread([this, &lane = *lane] { TaskLoop(lane); });
}

Worker::~Worker() { Stop(); }

void Worker::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    takes_nothing_ = true;
    wake_.notify_all();
  }
  manager_.WakeWorkers();
  for (const auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
  }
  if (renew_thread_.joinable()) renew_thread_.join();
}

void Worker::SetDraining(bool draining) {
  {
    std::lock_guard lock(mutex_);
    draining_ = draining;
    takes_nothing_ = stopping_ || draining || device_lost_;
    wake_.notify_all();
  }
  manager_.WakeWorkers();
}

void Worker::LoseDevice(const absl::Status& error) {
  {
    std::lock_guard lock(mutex_);
    if (device_lost_) return;
    device_lost_ = true;
    takes_nothing_ = true;
  }
  manager_.WakeWorkers();
  if (options_.on_device_lost) options_.on_device_lost(error);
}

bool Worker::AwaitTaking() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] { return stopping_ || (!draining_ && !device_lost_); });
  return !stopping_;
}

bool Worker::Pause(int64_t ms) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, std::chrono::milliseconds(ms), [&] { return stopping_.load(); });
}

void Worker::TaskLoop(Lane& lane) {
  BeNice(options_.nice);
  // Made here, so that their threads are as nice as this one.
  ThreadPool all(lane.threads);
  ThreadPool alone(1);
  bool told = false;
  while (AwaitTaking()) {
    const auto grant = manager_.WaitForTask(options_.name, lane.filter, kWaitMs, takes_nothing_);
    if (ReasonOf(grant.status()) == "SHUTTING_DOWN") return;
    if (!grant.ok()) {
      TellOfStore(grant.status(), nullptr, told);
      Pause(kPauseMs);
      continue;
    }
    told = false;
    if (grant->has_value()) RunTask(lane, **grant, (*grant)->input.task.stage == TaskStage::kQuantize ? alone : all);
  }
}

void Worker::TellOfStore(const absl::Status& error, const TaskLease* lease, bool& told) const {
  if (!IsStoreFault(error) || std::exchange(told, true)) return;
  if (options_.on_store_fault) options_.on_store_fault(error, lease);
}

void Worker::RunTask(Lane& lane, const TaskGrant& grant, ThreadPool& pool) {
  {
    std::lock_guard lock(mutex_);
    lane.lease = grant.lease;
    lane.stop = grant.stop;
    lane.lease_lost = false;
  }
  const auto start = std::chrono::steady_clock::now();
  auto progress = [&](double fraction) -> absl::Status {
    if (grant.stop->load()) return Aborted("LEASE_LOST", "the task was taken away");
    if (stopping_) return Cancelled("WORKER_STOPPING", "the worker stops");
    manager_.ReportProgress(grant.lease, fraction);
    return absl::OkStatus();
  };
  absl::StatusOr<TaskOutcome> outcome = runner_.Run(grant.input, pool, progress);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  // What must last is in the blobs; a leftover is removed at the next start.
  (void)RemoveAll(grant.input.work_dir);
  // Before the task is anybody's again.
  if (IsCudaLost(outcome.status())) LoseDevice(outcome.status());
  const absl::Status answer = Report(lane, grant, outcome, seconds);
  bool lost = false;
  {
    std::lock_guard lock(mutex_);
    lane.lease.reset();
    // A renewal that comes just after the outcome finds no lease either.
    lost = lane.lease_lost && !answer.ok();
  }
  if (lost && options_.on_lease_lost) options_.on_lease_lost(grant.lease);
}

void Worker::NoteLease(Lane& lane, const TaskLease& lease, const absl::Status& status, bool stopped) {
  if (stopped || ReasonOf(status) != "LEASE_LOST") return;
  std::lock_guard lock(mutex_);
  // The lane may be at its next task by now.
  if (lane.lease && lane.lease->lease_id == lease.lease_id) lane.lease_lost = true;
}

absl::Status Worker::Report(Lane& lane, const TaskGrant& grant, const absl::StatusOr<TaskOutcome>& outcome,
                            double seconds) {
  absl::Status error = outcome.status();
  for (bool told = false;;) {
    // Nobody wants the error of a task that was taken away. An outcome is still compared with the other worker's.
    const bool stopped = grant.stop->load();
    if (!error.ok() && stopped) return error;
    const absl::Status status =
        error.ok() ? manager_.CompleteTask(grant.lease, *outcome, seconds) : manager_.FailTask(grant.lease, error);
    NoteLease(lane, grant.lease, status, stopped);
    const std::string reason = ReasonOf(status);
    if (status.ok() || reason == "LEASE_LOST" || reason == "TASK_NOT_DETERMINISTIC") return status;
    TellOfStore(status, &grant.lease, told);
    if (IsRetryable(status) || IsStoreFault(status)) {
      if (!Pause(kPauseMs)) return status;
      continue;
    }
    if (!error.ok()) return status;
    // The outcome itself is refused: the job says so.
    error = status;
  }
}

void Worker::RenewLoop() {
  int64_t every_ms = options_.lease_ms / 3;
  if (manager_.shared()) every_ms = std::min(every_ms, kSharedRenewMs);
  int64_t rest_ms = every_ms;
  bool told = false;
  while (Pause(rest_ms)) {
    rest_ms = every_ms;
    bool refused = false;
    for (const auto& lane : lanes_) {
      std::optional<TaskLease> lease;
      std::shared_ptr<const std::atomic<bool>> stop;
      {
        std::lock_guard lock(mutex_);
        lease = lane->lease;
        stop = lane->stop;
      }
      if (!lease) continue;
      const bool stopped = stop->load();
      const absl::Status renewed = manager_.RenewLease(*lease);
      NoteLease(*lane, *lease, renewed, stopped);
      // A lease that is lost stops its task: the manager sets TaskGrant::stop. If the store is not to be had, each
      // further try would only take its time; once it is back, leases that have lapsed meanwhile must not wait.
      refused = absl::IsUnavailable(renewed) || IsStoreFault(renewed);
      if (!refused) continue;
      TellOfStore(renewed, &*lease, told);
      rest_ms = std::min(every_ms, kPauseMs);
      break;
    }
    if (!refused) told = false;
  }
}

}  // namespace qamserve
