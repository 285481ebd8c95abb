// Does tasks in `threads` lanes, each a thread that leases tasks and runs them one after another, and one more thread
// that renews the leases. A tensor to be quantized has one lane to itself, so that as many are done at once as there
// are lanes; every other task is taken by the first lane, with a pool of `threads` for the work within it. Several
// workers may serve one manager.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/base/thread_pool.h"
#include "server/jobs/job_manager.h"

namespace qamserve {

struct WorkerOptions {
  std::string name;                          // unique among the workers of all processes; appears in leases
  std::vector<std::string> pools = {"cpu"};  // whose tasks it takes
  int threads = 1;
  int64_t lease_ms = 30'000;  // as the manager's; renewed after each third of it, and of several processes more often
  // Priority of the threads that work on tasks (setpriority(2)), so that they take what serving leaves of a machine; 19
  // is the lowest. A process that is nicer already stays so.
  int nice = 10;
};

class Worker {
 public:
  // Starts all threads. `manager` and `runner` must outlive the worker.
  Worker(WorkerOptions options, JobManager& manager, TaskRunner& runner);
  // As Stop.
  ~Worker();

  // Ends the running tasks at their next progress report and gives them back, then returns. Idempotent.
  void Stop();

 private:
  struct Lane;

  void TaskLoop(Lane& lane);
  void RenewLoop();
  void RunTask(Lane& lane, const TaskGrant& grant, ThreadPool& pool);
  // Tells the manager how it went. While the store cannot be reached it goes on trying: an outcome is kept until it is
  // taken, or the lease is lost.
  void Report(const TaskGrant& grant, const absl::StatusOr<TaskOutcome>& outcome, double seconds);
  // False if the worker is stopping.
  bool Pause(int64_t ms);

  const WorkerOptions options_;
  JobManager& manager_;
  TaskRunner& runner_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::thread renew_thread_;
};

}  // namespace qamserve
