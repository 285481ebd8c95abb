// Does tasks in `threads` lanes, each a thread that leases tasks and runs them one after another, and one more thread
// that renews the leases. A tensor to be quantized has one lane to itself, so that as many are done at once as there
// are lanes; every other task is taken by the first lane, with a pool of `threads` for the work within it. Several
// workers may serve one manager.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
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
  // Called, on the task's thread, after a task that was found to be another's now: the lease had lapsed, or the task
  // was taken away or its job ended by another process. Null: nobody is told.
  std::function<void(const TaskLease& lease)> on_lease_lost = nullptr;
  // Called, from any of the worker's threads, when the metadata store itself is why something cannot be done
  // (IsStoreFault) and the worker waits for it: once for each wait. `lease`: of the task whose outcome, error or lease
  // it is about; null if the worker looks for a task. Null: nobody is told.
  std::function<void(const absl::Status& error, const TaskLease* lease)> on_store_fault = nullptr;
  // Called once, on a task's thread, when a task has found the GPU lost (IsCudaLost): the worker takes no further task,
  // since none would succeed before the process is started again. Null: nobody is told.
  std::function<void(const absl::Status& error)> on_device_lost = nullptr;
};

class Worker {
 public:
  // Starts all threads. `manager` and `runner` must outlive the worker.
  Worker(WorkerOptions options, JobManager& manager, TaskRunner& runner);
  // As Stop.
  ~Worker();

  // While true no task is taken; those under way go on to their ends. False brings none back that lost its device.
  void SetDraining(bool draining);
  // Ends the running tasks at their next progress report and gives them back, then returns. Idempotent.
  void Stop();

 private:
  struct Lane;

  void TaskLoop(Lane& lane);
  void RenewLoop();
  void RunTask(Lane& lane, const TaskGrant& grant, ThreadPool& pool);
  // Tells the manager how it went. While the store is not to be had (IsRetryable, IsStoreFault) it goes on trying: an
  // outcome is kept until it is taken, or the lease is lost. Returns the manager's answer, or that there was no use in
  // asking.
  absl::Status Report(Lane& lane, const TaskGrant& grant, const absl::StatusOr<TaskOutcome>& outcome, double seconds);
  // `status` is what the manager says of a lease of the lane, and `stopped` what TaskGrant::stop was before.
  void NoteLease(Lane& lane, const TaskLease& lease, const absl::Status& status, bool stopped);
  // `told`: whether this wait was told of before.
  void TellOfStore(const absl::Status& error, const TaskLease* lease, bool& told) const;
  // False if the worker is stopping.
  bool Pause(int64_t ms);
  void LoseDevice(const absl::Status& error);
  // Waits while tasks are not to be taken. False if the worker is stopping.
  bool AwaitTaking();

  const WorkerOptions options_;
  JobManager& manager_;
  TaskRunner& runner_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> takes_nothing_{false};  // stopping, draining or without its device
  std::mutex mutex_;
  std::condition_variable wake_;
  bool draining_ = false;     // guarded by mutex_
  bool device_lost_ = false;  // guarded by mutex_
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::thread renew_thread_;
};

}  // namespace qamserve
