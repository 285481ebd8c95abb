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
