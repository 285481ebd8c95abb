#include "server/jobs/worker.h"

#include <chrono>

#include "core/base/file.h"

namespace qamserve {
namespace {

constexpr int64_t kWaitMs = 60'000;
// Between two attempts to reach a store that does not answer.
constexpr int64_t kPauseMs = 1000;
constexpr int kReportAttempts = 5;

}  // namespace

struct Worker::Lane {
  TaskFilter filter;
  ThreadPool alone{1};
  std::optional<TaskLease> lease;  // of the running task; guarded by the worker's mutex_
  std::atomic<bool> lease_lost{false};
  std::thread thread;
};

Worker::Worker(WorkerOptions options, JobManager& manager, TaskRunner& runner)
    : options_(std::move(options)), manager_(manager), runner_(runner), pool_(options_.threads) {
  for (int i = 0; i < options_.threads; ++i) {
    Lane& lane = *lanes_.emplace_back(std::make_unique<Lane>());
    lane.filter.pool = options_.pool;
    // One task that uses all threads at a time.
    if (i > 0) lane.filter.stage = TaskStage::kQuantize;
  }
  renew_thread_ = std::thread([this] { RenewLoop(); });
  for (const auto& lane : lanes_) lane->thread = std::thread([this, &lane = *lane] { TaskLoop(lane); });
}

Worker::~Worker() { Stop(); }

void Worker::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  manager_.WakeWorkers();
  for (const auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
  }
  if (renew_thread_.joinable()) renew_thread_.join();
}

bool Worker::Pause(int64_t ms) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, std::chrono::milliseconds(ms), [&] { return stopping_.load(); });
}

void Worker::TaskLoop(Lane& lane) {
  while (!stopping_) {
    const auto grant = manager_.WaitForTask(options_.name, lane.filter, kWaitMs, stopping_);
    if (ReasonOf(grant.status()) == "SHUTTING_DOWN") return;
    if (!grant.ok()) {
      Pause(kPauseMs);
    } else if (grant->has_value()) {
      RunTask(lane, **grant);
    }
  }
}

void Worker::RunTask(Lane& lane, const TaskGrant& grant) {
  {
    std::lock_guard lock(mutex_);
    lane.lease = grant.lease;
    lane.lease_lost = false;
  }
  const auto start = std::chrono::steady_clock::now();
  auto progress = [&](double fraction) -> absl::Status {
    if (grant.stop->load() || lane.lease_lost) return Aborted("LEASE_LOST", "the task was taken away");
    if (stopping_) return Cancelled("WORKER_STOPPING", "the worker stops");
    manager_.ReportProgress(grant.lease, fraction);
    return absl::OkStatus();
  };
  ThreadPool& pool = grant.input.task.stage == TaskStage::kQuantize ? lane.alone : pool_;
  absl::StatusOr<TaskOutcome> outcome = runner_.Run(grant.input, pool, progress);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  // What must last is in the blobs; a leftover is removed at the next start.
  (void)RemoveAll(grant.input.work_dir);
  Report(grant, outcome, seconds);
  std::lock_guard lock(mutex_);
  lane.lease.reset();
}

void Worker::Report(const TaskGrant& grant, const absl::StatusOr<TaskOutcome>& outcome, double seconds) {
  for (int i = 0; i < kReportAttempts; ++i) {
    if (grant.stop->load()) return;
    const absl::Status status = outcome.ok() ? manager_.CompleteTask(grant.lease, *outcome, seconds)
                                             : manager_.FailTask(grant.lease, outcome.status());
    // If it never gets through, the lease lapses and the task is done again.
    if (status.ok() || !absl::IsUnavailable(status) || !Pause(kPauseMs)) return;
  }
}

void Worker::RenewLoop() {
  while (Pause(options_.lease_ms / 3)) {
    for (const auto& lane : lanes_) {
      std::optional<TaskLease> lease;
      {
        std::lock_guard lock(mutex_);
        lease = lane->lease;
      }
      if (!lease) continue;
      const absl::Status status = manager_.RenewLease(*lease);
      std::lock_guard lock(mutex_);
      if (absl::IsAborted(status) && lane->lease && lane->lease->lease_id == lease->lease_id) lane->lease_lost = true;
    }
  }
}

}  // namespace qamserve
