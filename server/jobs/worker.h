// Does tasks: one thread that leases and runs them one after another, with a pool of `threads` for the work within a
// task, and one thread that renews the lease. Several workers may serve one manager.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "core/base/thread_pool.h"
#include "server/jobs/job_manager.h"

namespace qamserve {

struct WorkerOptions {
  std::string name;  // unique among workers; appears in leases
  std::string pool = "cpu";
  int threads = 1;
  int64_t lease_ms = 30'000;  // as the manager's; renewed after each third of it
};

class Worker {
 public:
  // Starts both threads. `manager` and `runner` must outlive the worker.
  Worker(WorkerOptions options, JobManager& manager, TaskRunner& runner);
  // As Stop.
  ~Worker();

  // Ends the running task at its next progress report and gives it back, then returns. Idempotent.
  void Stop();

 private:
  void TaskLoop();
  void RenewLoop();
  void RunTask(const TaskGrant& grant);
  // Tells the manager how it went; tries again while the store cannot be reached and the lease lasts.
  void Report(const TaskGrant& grant, const absl::StatusOr<TaskOutcome>& outcome, double seconds);
  // False if the worker is stopping.
  bool Pause(int64_t ms);

  const WorkerOptions options_;
  JobManager& manager_;
  TaskRunner& runner_;
  ThreadPool pool_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<TaskLease> lease_;  // of the running task
  std::atomic<bool> lease_lost_{false};
  std::thread renew_thread_;
  std::thread task_thread_;
};

}  // namespace qamserve
