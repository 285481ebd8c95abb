// Several processes on a store that fails: what is asked for is done all the same, and once.
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "tests/server/jobs/shared_jobs_fixture.h"

namespace qamserve {
namespace {

using testing::Each;
using testing::SizeIs;

// 8 threads of two processes on one job of 200 tasks, while another is asked for and cancelled again and again; one
// call of the store in ten is refused, not begun, or done without an answer.
TEST_F(SharedJobsTest, EveryTaskIsDoneOnceWhateverTheStoreDoes) {
  Process::Options options;
  options.lease_ms = 600;
  auto a = Start("a", options), b = Start("b", options);
  for (Process* process : {a.get(), b.get()}) {
    process->runner().tensors = 197;
    process->runner().before_task = [](const TaskRecord&, ProgressFn) {
      Rest(2);
      return absl::OkStatus();
    };
  }
  const std::string id = Create(*a, Args());
  ASSERT_EQ(store_->ListTasks(id)->size(), 200u);
  faults_->conflicts_in_100 = 4;
  faults_->unavailable_in_100 = 3;
  faults_->lost_answers_in_100 = 3;
  a->StartWorker(4);
  b->StartWorker(4);
  for (int i = 0; !IsFinal(WaitFor(*b, id, [](const JobView&) { return true; }).job.state); ++i) {
    const auto other = a->jobs().CreateQuantizeJob(Args(static_cast<uint64_t>(i) + 2));
    if (other.ok()) (void)b->jobs().CancelJob(other->job.id, "");
    Rest(50);
  }
  faults_->conflicts_in_100 = 0;
  faults_->unavailable_in_100 = 0;
  faults_->lost_answers_in_100 = 0;
  const JobRecord job = store_->GetJob(id).value();
  EXPECT_EQ(job.state, JobState::kSucceeded) << job.error.message;
  EXPECT_GT(faults_->injected, 20);
  WorkersOf(id);
  EXPECT_EQ(store_->ListArtifacts({}, "")->items.size(), 1u);
  EXPECT_TRUE(a->NoticesOf(JobNotice::Kind::kNotDeterministic).empty());
  EXPECT_TRUE(b->NoticesOf(JobNotice::Kind::kNotDeterministic).empty());
}

// The store is away for longer than a lease, while a task is done: its outcome is kept until the store is back.
TEST_F(SharedJobsTest, WhatWasDoneWhileTheStoreWasAwayCounts) {
  Process::Options options;
  options.lease_ms = 600;
  options.settle_ms = 3000;
  auto a = Start("a", options), b = Start("b", options);
  std::atomic<bool> started{false};
  a->runner().before_task = [&](const TaskRecord& task, ProgressFn) {
    if (task.name == "texts") {
      started = true;
      Rest(300);
    }
    return absl::OkStatus();
  };
  const std::string id = Create(*b, Args());
  a->StartWorker();
  while (!started) Rest(5);
  faults_->away = true;
  Rest(2000);
  faults_->away = false;
  EXPECT_EQ(WaitFor(*b, id).job.state, JobState::kSucceeded);
  EXPECT_EQ(a->runner().runs("texts"), 1);
  EXPECT_EQ(TaskOf(id, 0).lapses, 0);
}

// The same of a store that still reads, as a standby that takes over does or a database that is set read-only.
TEST_F(SharedJobsTest, WhatWasDoneWhileTheStoreTookNoWritesCounts) {
  Process::Options options;
  options.lease_ms = 2000;
  options.settle_ms = 10'000;
  auto a = Start("a", options), b = Start("b", options);
  std::atomic<bool> done{false};
  a->runner().after_task = [&](const TaskInput&, TaskOutcome&) {
    if (!done.exchange(true)) faults_->read_only = true;
  };
  const std::string id = Create(*b, Args());
  a->StartWorker();
  // Until the worker has been refused, and its lease could have been taken by either process.
  while (a->store_faults().empty()) Rest(5);
  while (TaskOf(id, 0).lease_expires_ms + 1500 > store_->NowMs()) Rest(5);
  EXPECT_EQ(StateOf(id), JobState::kRunning);
  EXPECT_EQ(TaskOf(id, 0).state, TaskState::kLeased);
  EXPECT_EQ(ReasonOf(a->store_faults().front()), "STORE_READ_ONLY");
  EXPECT_LE(a->store_faults().size(), 2u) << "once for the outcome, once for the lease";
  faults_->read_only = false;
  EXPECT_EQ(WaitFor(*b, id).job.state, JobState::kSucceeded);
  EXPECT_EQ(a->runner().runs("texts"), 1);
  EXPECT_EQ(TaskOf(id, 0).attempts, 1);
  EXPECT_EQ(TaskOf(id, 0).lapses, 0);
}

// The task itself asks the store, which refuses, and then does not even take that error.
TEST_F(SharedJobsTest, AnErrorOfTheStoreWithinATaskIsWaitedOut) {
  Process::Options options;
  options.lease_ms = 5000;
  auto a = Start("a", options);
  std::atomic<bool> refused{false};
  a->runner().before_task = [&](const TaskRecord& task, ProgressFn) -> absl::Status {
    if (task.name != "texts" || refused.exchange(true)) return absl::OkStatus();
    faults_->read_only = true;
    return FailedPrecondition("STORE_READ_ONLY", "a standby");
  };
  const std::string id = Create(*a, Args());
  a->StartWorker();
  while (a->store_faults().empty()) Rest(5);
  EXPECT_EQ(TaskOf(id, 0).state, TaskState::kLeased);
  faults_->read_only = false;
  EXPECT_EQ(WaitFor(*a, id).job.state, JobState::kSucceeded);
  EXPECT_EQ(a->runner().runs("texts"), 2);
  EXPECT_EQ(TaskOf(id, 0).attempts, 1);
  const auto retried = a->NoticesOf(JobNotice::Kind::kTaskRetried);
  ASSERT_THAT(retried, SizeIs(1));
  EXPECT_EQ(retried[0].reason, "STORE_READ_ONLY");
}

TEST_F(SharedJobsTest, HoweverOftenTheStoreRefusesNoTaskFailsByIt) {
  auto a = StartByHand("a");
  const std::string id = Create(*a, Args());
  for (const absl::Status& error :
       {FailedPrecondition("STORE_READ_ONLY", "a standby"), FailedPrecondition("STORE_CREDENTIALS", "no such user")}) {
    for (int i = 0; i <= kMaxUnavailableAttempts; ++i) {
      const auto grant = a->Lease();
      ASSERT_TRUE(grant) << error << i;
      EXPECT_EQ(grant->input.task.attempts, 1) << error << i;
      ASSERT_TRUE(a->jobs().FailTask(grant->lease, error).ok());
      EXPECT_EQ(StateOf(id), JobState::kRunning) << "its worker is still there";
      skew_ms_ += 4900;
      EXPECT_FALSE(a->Lease()) << "no rest";
      skew_ms_ += 101;
    }
  }
  while (const auto grant = a->Lease()) ASSERT_TRUE(a->Finish(*grant).ok());
  EXPECT_EQ(StateOf(id), JobState::kSucceeded);
}

// The store refuses between the lease and the start of the job, and is there again before the lease is given back.
TEST_F(SharedJobsTest, ATaskThatWasLeasedAsTheStoreTookNoWritesIsGivenBack) {
  auto a = StartByHand("a");
  const std::string id = Create(*a, Args());
  faults_->refused_in = 2;
  const std::atomic<bool> never{false};
  EXPECT_EQ(ReasonOf(a->jobs().WaitForTask("a", FilterOf("cpu"), 0, never).status()), "STORE_READ_ONLY");
  EXPECT_EQ(faults_->refused_in, 0);
  EXPECT_EQ(StateOf(id), JobState::kQueued);
  EXPECT_EQ(TaskOf(id, 0).state, TaskState::kReady);
  EXPECT_EQ(TaskOf(id, 0).attempts, 0);
  while (const auto grant = a->Lease()) ASSERT_TRUE(a->Finish(*grant).ok());
  EXPECT_EQ(StateOf(id), JobState::kSucceeded);
}

TEST_F(SharedJobsTest, AWorkerThatFindsNothingSinceTheStoreTakesNoWritesSaysSoOnce) {
  auto a = Start("a");
  const std::string id = Create(*a, Args());
  faults_->read_only = true;
  a->StartWorker();
  while (a->idle_store_faults().empty()) Rest(5);
  faults_->read_only = false;
  EXPECT_EQ(WaitFor(*a, id).job.state, JobState::kSucceeded);
  EXPECT_THAT(a->idle_store_faults(), SizeIs(1));
  EXPECT_THAT(a->store_faults(), SizeIs(0));
}

TEST_F(SharedJobsTest, ALeaseThatCouldNotBeRenewedIsRenewedSoonOnceItCan) {
  Process::Options options;
  options.lease_ms = 30'000;  // renewed every 5 s
  auto a = Start("a", options);
  std::atomic<bool> renewed{false};
  a->runner().before_task = [&](const TaskRecord&, ProgressFn) {
    while (!renewed) Rest(5);
    return absl::OkStatus();
  };
  const std::string id = Create(*a, Args());
  a->StartWorker();
  while (TaskOf(id, 0).state != TaskState::kLeased || StateOf(id) != JobState::kRunning) Rest(5);
  const int64_t expires_ms = TaskOf(id, 0).lease_expires_ms;
  faults_->read_only = true;
  while (a->store_faults().empty()) Rest(5);
  faults_->read_only = false;
  const auto back = std::chrono::steady_clock::now();
  while (TaskOf(id, 0).lease_expires_ms == expires_ms) Rest(5);
  EXPECT_LT(std::chrono::steady_clock::now() - back, std::chrono::seconds(4));
  renewed = true;
  EXPECT_EQ(WaitFor(*a, id).job.state, JobState::kSucceeded);
}

// While nobody can renew, leases lapse; whoever sees that must not take them the moment the store takes writes again.
TEST_F(SharedJobsTest, LeasesThatLapsedWhileTheStoreTookNoWritesMayBeRenewed) {
  Process::Options options;
  options.background = false;
  options.settle_ms = 60'000;
  options.now_ms = [this] { return SystemNowMs() + skew_ms_; };
  auto a = Start("a", options), b = Start("b", options);
  const std::string id = Create(*a, Args());
  const auto grant = a->Lease();
  ASSERT_TRUE(grant);
  skew_ms_ += 65'000;
  faults_->read_only = true;
  EXPECT_EQ(ReasonOf(a->jobs().RenewLease(grant->lease)), "STORE_READ_ONLY");
  faults_->read_only = false;
  ASSERT_TRUE(a->jobs().Maintain().ok());
  EXPECT_EQ(TaskOf(id, 0).lease_id, grant->lease.lease_id) << "its own renewal was refused";
  faults_->read_only = true;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(ReasonOf(b->jobs().Maintain()), "STORE_READ_ONLY") << i;
    skew_ms_ += 5000;
  }
  faults_->read_only = false;
  ASSERT_TRUE(b->jobs().Maintain().ok());
  ASSERT_TRUE(b->jobs().Maintain().ok());
  EXPECT_EQ(TaskOf(id, 0).lease_id, grant->lease.lease_id);
  ASSERT_TRUE(a->jobs().RenewLease(grant->lease).ok());
  skew_ms_ += 60'001;
  ASSERT_TRUE(b->jobs().Maintain().ok());
  EXPECT_EQ(TaskOf(id, 0).lapses, 1) << "a worker that renews no more loses it";
}

// --- What is told of tasks that are given up ---

TEST_F(SharedJobsTest, ATaskThatIsGivenUpIsNotToldAsRetried) {
  auto a = StartByHand("a");
  const std::string lasting = Create(*a, Args(1));
  ASSERT_TRUE(a->jobs().FailTask(a->Lease()->lease, InvalidArgument("TENSOR_SHAPE", "wrong")).ok());
  EXPECT_EQ(StateOf(lasting), JobState::kFailed);
  EXPECT_THAT(a->NoticesOf(JobNotice::Kind::kTaskRetried), SizeIs(0));
  auto failed = a->NoticesOf(JobNotice::Kind::kTaskFailed);
  ASSERT_THAT(failed, SizeIs(1));
  EXPECT_EQ(failed[0].reason, "TENSOR_SHAPE");
  EXPECT_EQ(failed[0].worker, "a");
  EXPECT_EQ(failed[0].task, 0);

  const std::string passing = Create(*a, Args(2));
  for (int i = 0; i < kMaxUnavailableAttempts; ++i) {
    const auto grant = a->Lease();
    ASSERT_TRUE(grant) << i;
    ASSERT_TRUE(a->jobs().FailTask(grant->lease, Unavailable("FILE_IO", "the disk hiccups")).ok());
    skew_ms_ += kMaxTaskBackoffMs;
  }
  EXPECT_EQ(StateOf(passing), JobState::kFailed);
  EXPECT_THAT(a->NoticesOf(JobNotice::Kind::kTaskRetried), SizeIs(kMaxUnavailableAttempts - 1));
  EXPECT_THAT(a->NoticesOf(JobNotice::Kind::kTaskFailed), SizeIs(2));

  // A lapse is told as one, also the last.
  const std::string lapsing = Create(*a, Args(3));
  for (int i = 0; i < kMaxTaskLapses; ++i) {
    ASSERT_TRUE(a->Lease()) << i;
    skew_ms_ += 1001;
    ASSERT_TRUE(a->jobs().Maintain().ok());
  }
  EXPECT_EQ(StateOf(lapsing), JobState::kFailed);
  EXPECT_THAT(a->NoticesOf(JobNotice::Kind::kLeaseExpired), SizeIs(kMaxTaskLapses));
  EXPECT_THAT(a->NoticesOf(JobNotice::Kind::kTaskFailed), SizeIs(2));
}

TEST_F(SharedJobsTest, TasksRunAtALowerPriorityThanTheRest) {
  const int own = ::getpriority(PRIO_PROCESS, 0);
  std::mutex mutex;
  std::vector<int> seen, in_pool;
  auto a = Start("a");
  a->runner().before_task = [&](const TaskRecord&, ProgressFn) {
    std::lock_guard lock(mutex);
    seen.push_back(::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid())));
    return absl::OkStatus();
  };
  a->runner().with_pool = [&](ThreadPool& pool) {
    pool.ParallelFor(16, 1, [&](int64_t, int64_t) {
      Rest(2);
      std::lock_guard lock(mutex);
      in_pool.push_back(::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid())));
    });
  };
  a->StartWorker(3);
  EXPECT_EQ(WaitFor(*a, Create(*a, Args())).job.state, JobState::kSucceeded);
  a->StopWorker();
  EXPECT_THAT(seen, SizeIs(7));
  EXPECT_THAT(in_pool, SizeIs(7 * 16));
  if (own < 10) {
    EXPECT_THAT(seen, Each(10));
    EXPECT_THAT(in_pool, Each(10));
  }
  EXPECT_EQ(::getpriority(PRIO_PROCESS, 0), own);
}

}  // namespace
}  // namespace qamserve
