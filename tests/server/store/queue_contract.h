// The test suite of every MetadataStore's queue: in which order tasks are leased, to whom, and how leases end. See
// metadata_store_fixture.h for how an engine plugs in.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/store/queue_order.h"
#include "tests/server/store/metadata_store_fixture.h"

namespace qamserve {

template <typename Factory>
class QueueContract : public MetadataStoreFixture<Factory> {
 protected:
  // A job with tasks of one stage.
  void Insert(const JobRecord& job, int tasks, TaskStage stage = TaskStage::kQuantize) {
    std::vector<TaskRecord> rows;
    rows.reserve(static_cast<size_t>(tasks));
    for (int i = 0; i < tasks; ++i) rows.push_back(SomeTask(job.id, i, stage));
    const absl::Status status = this->store_->InsertJob(job, rows);
    ASSERT_TRUE(status.ok()) << status;
  }
  // Applies `change` to a job as it is now, as long as others change it in between.
  template <typename Change>
  absl::Status ChangeJob(MetadataStore& store, const std::string& id, Change&& change) {
    for (;;) {
      JobChange changed;
      changed.jobs = {*store.GetJob(id)};
      change(changed);
      const absl::Status status = store.Apply(changed);
      if (ReasonOf(status) != "VERSION_CONFLICT") return status;
    }
  }
};
TYPED_TEST_SUITE_P(QueueContract);

TYPED_TEST_P(QueueContract, LeasesByPriorityAgeAndStage) {
  auto tasks = [](const std::string& job) {
    return std::vector<TaskRecord>{SomeTask(job, 0, TaskStage::kPrepare), SomeTask(job, 1, TaskStage::kQuantize),
                                   SomeTask(job, 2, TaskStage::kQuantize), SomeTask(job, 3, TaskStage::kAssemble)};
  };
  ASSERT_TRUE(this->store_->InsertJob(SomeJob("old"), tasks("old")).ok());
  ASSERT_TRUE(this->store_->InsertJob(SomeJob("young"), tasks("young")).ok());
  ASSERT_TRUE(this->store_->InsertJob(SomeJob("urgent", 5), tasks("urgent")).ok());
  auto lease = [&]() { return *this->store_->LeaseTask("w", {.pools = {"cpu"}}, 100, 50); };
  EXPECT_FALSE(this->store_->LeaseTask("w", {.pools = {"cuda"}}, 100, 50)->has_value());
  const auto first = lease();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->job, "urgent");
  EXPECT_EQ(first->state, TaskState::kLeased);
  EXPECT_EQ(first->attempts, 1);
  EXPECT_EQ(first->lease_expires_ms, 150);
  // The urgent job's next stage waits for its first, so the oldest of the others is next.
  EXPECT_EQ(lease()->job, "old");
  this->Finish(*first);
  EXPECT_FALSE(this->store_->LeaseTask("w", {.pools = {"cpu"}, .stage = TaskStage::kEvaluate}, 100, 50)->has_value());
  auto second = *this->store_->LeaseTask("w", {.pools = {"cpu"}, .stage = TaskStage::kQuantize}, 100, 50);
  EXPECT_EQ(second->job, "urgent");
  EXPECT_EQ(second->index, 1);
  EXPECT_NE(second->lease_id, first->lease_id);
  EXPECT_EQ(lease()->index, 2);
  EXPECT_EQ(lease()->job, "young") << "assemble must wait for both tensors";
  EXPECT_FALSE(lease());
}

TYPED_TEST_P(QueueContract, RoundsFollowOneAnotherAndMayBeAdded) {
  std::vector<TaskRecord> tasks = {SomeTask("j1", 0, TaskStage::kEvaluate), SomeTask("j1", 1, TaskStage::kQuantize)};
  tasks[1].round = 1;
  ASSERT_TRUE(this->store_->InsertJob(SomeJob("j1"), tasks).ok());
  auto lease = [&]() { return *this->store_->LeaseTask("w", {.pools = {"cpu"}}, 100, 50); };
  auto first = lease();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->index, 0) << "a lower stage of a later round must wait";
  EXPECT_FALSE(lease().has_value());
  first->state = TaskState::kDone;
  TaskRecord added = SomeTask("j1", 2, TaskStage::kPrepare);
  added.round = 2;
  ASSERT_TRUE(this->store_->Apply({.jobs = {}, .tasks = {*first}, .artifact = {}, .new_tasks = {added}}).ok());
  const auto stored = this->store_->ListTasks("j1");
  ASSERT_EQ(stored->size(), 3u);
  EXPECT_EQ(stored->at(2).round, 2);
  auto second = lease();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->index, 1);
  EXPECT_EQ(second->round, 1);
  // All or nothing holds for added tasks, too.
  second->version += 7;
  TaskRecord lost = SomeTask("j1", 3, TaskStage::kPrepare);
  EXPECT_FALSE(this->store_->Apply({.jobs = {}, .tasks = {*second}, .artifact = {}, .new_tasks = {lost}}).ok());
  EXPECT_EQ(this->store_->ListTasks("j1")->size(), 3u);
}

TYPED_TEST_P(QueueContract, RenewsAndExpiresLeases) {
  ASSERT_TRUE(this->store_->InsertJob(SomeJob("j1"), {SomeTask("j1", 0, TaskStage::kPrepare)}).ok());
  const auto task = *this->store_->LeaseTask("w", {.pools = {"cpu"}}, 100, 50);
  const TaskLease lease{.job = "j1", .index = 0, .worker = "w", .lease_id = task->lease_id};
  EXPECT_EQ(*this->store_->NextDeadline(100), 150);
  EXPECT_TRUE(this->store_->ListExpiredTasks(149)->empty());
  EXPECT_EQ(this->store_->ListExpiredTasks(150)->size(), 1u);
  ASSERT_TRUE(this->store_->RenewLease(lease, 300, 0.5).ok());
  EXPECT_TRUE(this->store_->ListExpiredTasks(150)->empty());
  EXPECT_EQ(this->store_->ListLeasedTasks()->size(), 1u);
  TaskLease other = lease;
  ++other.lease_id;
  EXPECT_EQ(ReasonOf(this->store_->RenewLease(other, 300, 0.5)), "LEASE_LOST");
  TaskRecord rested = *this->store_->GetTask("j1", 0);
  rested.state = TaskState::kReady;
  rested.not_before_ms = 500;
  ASSERT_TRUE(this->store_->Apply({.jobs = {}, .tasks = {rested}, .artifact = {}}).ok());
  EXPECT_EQ(ReasonOf(this->store_->RenewLease(lease, 300, 0.5)), "LEASE_LOST");
  EXPECT_EQ(*this->store_->NextDeadline(100), 500);
  EXPECT_FALSE(this->store_->NextDeadline(500)->has_value());
  EXPECT_FALSE(this->store_->LeaseTask("w", {.pools = {"cpu"}}, 499, 50)->has_value());
  EXPECT_EQ((*this->store_->LeaseTask("w", {.pools = {"cpu"}}, 500, 50))->attempts, 2);
}

TYPED_TEST_P(QueueContract, TwoWorkersNeverGetTheSameTask) {
  std::vector<TaskRecord> tasks;
  tasks.reserve(40);
  for (int i = 0; i < 40; ++i) tasks.push_back(SomeTask("j1", i, TaskStage::kQuantize));
  ASSERT_TRUE(this->store_->InsertJob(SomeJob("j1"), tasks).ok());
  std::vector<int> leased[2];
  std::vector<std::thread> threads;
  threads.reserve(2);
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      for (;;) {
        const auto task = this->store_->LeaseTask("w" + std::to_string(t), {.pools = {"cpu"}}, 0, 50);
        if (!task.ok() || !task->has_value()) return;
        leased[t].push_back((*task)->index);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<int> all(leased[0].begin(), leased[0].end());
  all.insert(leased[1].begin(), leased[1].end());
  EXPECT_EQ(leased[0].size() + leased[1].size(), 40u);
  EXPECT_EQ(all.size(), 40u);
}

TYPED_TEST_P(QueueContract, KeepsWhatWorkersAndOthersSayOfATask) {
  JobRecord job = SomeJob("j1");
  job.project = "p1";
  job.codec_version = "codec-1";
  job.trace_parent = "00-1-2-01";
  TaskRecord task = SomeTask("j1", 0, TaskStage::kQuantize);
  task.lapses = 2;
  ASSERT_TRUE(this->store_->InsertJob(job, {task}).ok());
  this->Reopen();
  EXPECT_EQ(this->store_->GetJob("j1")->project, "p1");
  EXPECT_EQ(this->store_->GetJob("j1")->codec_version, "codec-1");
  EXPECT_EQ(this->store_->GetJob("j1")->trace_parent, "00-1-2-01");
  const auto first = this->Lease();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->lapses, 2);
  TaskLease lease{.job = "j1", .index = 0, .worker = "w", .lease_id = first->lease_id};
  ASSERT_TRUE(this->store_->RenewLease(lease, 300, 0.25).ok());
  TaskRecord renewed = *this->store_->GetTask("j1", 0);
  EXPECT_EQ(renewed.progress, 0.25);
  EXPECT_EQ(renewed.lease_expires_ms, 300);
  EXPECT_EQ(renewed.version, first->version) << "a renewal is no change that others would run into";
  renewed.state = TaskState::kReady;
  renewed.lapses = 3;
  ASSERT_TRUE(this->store_->Apply({.jobs = {}, .tasks = {renewed}, .artifact = {}}).ok());
  const auto second = this->Lease();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->progress, 0);
  EXPECT_EQ(second->lapses, 3);
  EXPECT_EQ(this->store_->GetTask("j1", 0)->progress, 0) << "each attempt begins anew";
  EXPECT_EQ(ReasonOf(this->store_->RenewLease(lease, 900, 0.5)), "LEASE_LOST") << "the lease before";
}

TYPED_TEST_P(QueueContract, LeasesFromItsPoolsAndOfItsCodec) {
  for (const char* pool : {"a", "b", "c"}) {
    JobRecord job = SomeJob(std::string("job-") + pool);
    job.pool = pool;
    job.codec_version = pool == std::string("c") ? "" : std::string("codec-") + pool;
    this->Insert(job, 1);
  }
  const auto lease = [&](const TaskFilter& filter) {
    const auto task = *this->store_->LeaseTask("w", filter, 100, 50);
    return task ? task->job : "";
  };
  EXPECT_EQ(lease({.pools = {}}), "");
  EXPECT_EQ(lease({.pools = {"none", "a"}, .codec_version = "codec-b"}), "");
  EXPECT_EQ(lease({.pools = {"b", "a", "b"}, .codec_version = "codec-b"}), "job-b") << "a is older, its codec another";
  EXPECT_EQ(lease({.pools = {"c"}, .codec_version = "codec-z"}), "job-c") << "a job of earlier programs takes any";
  EXPECT_EQ(lease({.pools = {"a", "b", "c"}}), "job-a");
}

TYPED_TEST_P(QueueContract, ProjectsShareWorkers) {
  for (const auto& [id, project] : std::vector<std::pair<std::string, std::string>>{
           {"many1", "many"}, {"many2", "many"}, {"few1", "few"}, {"none1", ""}}) {
    JobRecord job = SomeJob(id);
    job.project = project;
    job.created_ms = this->store_->NowMs();
    this->Insert(job, 3);
  }
  const int64_t now = this->store_->NowMs();
  const auto order = [&] {
    std::string ids;
    const std::vector<JobRecord> jobs = *this->store_->ListUnfinishedJobs();
    for (const JobRecord& job : jobs) ids += job.id + " ";
    return ids;
  };
  EXPECT_EQ(order(), "many1 many2 few1 none1 ");
  EXPECT_EQ(this->LeasedName(now), "many1/0");
  EXPECT_EQ(order(), "few1 none1 many1 many2 ");
  EXPECT_EQ(this->LeasedName(now), "few1/0");
  EXPECT_EQ(this->LeasedName(now), "none1/0") << "jobs without a project are one project";
  EXPECT_EQ(this->LeasedName(now), "many1/1");
  EXPECT_EQ(this->LeasedName(now), "few1/1");
  EXPECT_EQ(order(), "none1 many1 many2 few1 ");
  // What a task held is free again when it is done.
  const std::vector<TaskRecord> leased = *this->store_->ListLeasedTasks();
  for (const TaskRecord& task : leased) {
    if (task.job == "many1") this->Finish(task);
  }
  EXPECT_EQ(order(), "many1 many2 none1 few1 ");
}

TYPED_TEST_P(QueueContract, WaitingMakesAJobMoreImportant) {
  JobRecord patient = SomeJob("patient");
  patient.created_ms = 0;
  this->Insert(patient, 3);
  JobRecord urgent = SomeJob("urgent", 2);
  urgent.created_ms = 2 * kAgingMs;
  this->Insert(urgent, 3);
  EXPECT_EQ(this->LeasedName(2 * kAgingMs - 1), "urgent/0");
  EXPECT_EQ(this->LeasedName(2 * kAgingMs), "patient/0") << "as important by now, and older";
}

TYPED_TEST_P(QueueContract, LooksBehindJobsThatHaveNothingToLease) {
  // More than are looked at in one go.
  for (int i = 0; i < 40; ++i) this->Insert(SomeJob("busy" + std::to_string(i)), 1);
  for (int i = 0; i < 40; ++i) ASSERT_NE(this->LeasedName(), "");
  this->Insert(SomeJob("last"), 1);
  EXPECT_EQ(this->LeasedName(), "last/0");
  EXPECT_EQ(this->LeasedName(), "");
}

TYPED_TEST_P(QueueContract, JobsThatEndedHaveNoLeases) {
  this->Insert(SomeJob("j1"), 3);
  const auto seen = this->Lease();
  const JobRecord before = *this->store_->GetJob("j1");
  const auto unseen = this->Lease();
  ASSERT_TRUE(seen && unseen);
  // As cancelling does: from what was read before the second lease was given.
  JobRecord job = before;
  job.state = JobState::kCancelled;
  TaskRecord released = *seen;
  released.state = TaskState::kReady;
  released.lease_id = 0;
  ASSERT_TRUE(this->store_->Apply({.jobs = {job}, .tasks = {released}, .artifact = {}}).ok());
  EXPECT_TRUE(this->store_->ListLeasedTasks()->empty());
  EXPECT_EQ(this->store_->GetTask("j1", 1)->attempts, 0);
  const TaskLease lease{.job = "j1", .index = 1, .worker = "w", .lease_id = unseen->lease_id};
  EXPECT_EQ(ReasonOf(this->store_->RenewLease(lease, 900, 0.5)), "LEASE_LOST");
  EXPECT_EQ(this->LeasedName(), "");
}

TYPED_TEST_P(QueueContract, NobodyLeasesWhileOthersEndTheJob) {
  constexpr int kJobs = 12;
  for (int j = 0; j < kJobs; ++j) this->Insert(SomeJob("j" + std::to_string(j)), 8);
  std::atomic<bool> stop{false};
  MetadataStore& other = this->Other();
  std::vector<std::thread> workers;
  workers.reserve(3);
  for (int w = 0; w < 3; ++w) {
    workers.emplace_back([&, w] {
      MetadataStore& store = w == 0 ? *this->store_ : other;
      while (!stop) {
        if (!store.LeaseTask("w" + std::to_string(w), {.pools = {"cpu"}}, 100, 50).ok()) return;
      }
    });
  }
  for (int j = 0; j < kJobs; ++j) {
    const absl::Status status = this->ChangeJob(*this->store_, "j" + std::to_string(j),
                                                [](JobChange& change) { change.jobs[0].state = JobState::kCancelled; });
    EXPECT_TRUE(status.ok()) << status;
  }
  stop = true;
  for (std::thread& worker : workers) worker.join();
  EXPECT_TRUE(this->store_->ListLeasedTasks()->empty());
}

// Many workers, several jobs of several stages, half of the workers in what may be another process: each task is done
// once, and none begins before all of the stage before are done.
TYPED_TEST_P(QueueContract, ManyWorkersDoEachTaskOnceAndInOrder) {
  constexpr int kJobs = 5;
  constexpr int kPerStage = 6;
  const std::vector<TaskStage> stages = {TaskStage::kPrepare, TaskStage::kQuantize, TaskStage::kAssemble};
  for (int j = 0; j < kJobs; ++j) {
    const std::string id = "j" + std::to_string(j);
    std::vector<TaskRecord> tasks;
    tasks.reserve(stages.size() * kPerStage);
    for (const TaskStage stage : stages) {
      for (int i = 0; i < kPerStage; ++i) tasks.push_back(SomeTask(id, static_cast<int32_t>(tasks.size()), stage));
    }
    JobRecord job = SomeJob(id);
    job.project = j % 2 == 0 ? "even" : "odd";
    ASSERT_TRUE(this->store_->InsertJob(job, tasks).ok());
  }
  absl::Mutex mutex;
  std::map<std::string, int> ended;  // tasks whose end was begun to be written, by job and stage
  std::set<std::pair<std::string, int32_t>> leased;
  std::vector<std::string> wrong;
  std::vector<std::thread> workers;
  workers.reserve(6);
  MetadataStore& other = this->Other();
  for (int w = 0; w < 6; ++w) {
    workers.emplace_back([&, w] {
      MetadataStore& store = w % 2 == 0 ? *this->store_ : other;
      for (;;) {
        const auto lease = store.LeaseTask("w" + std::to_string(w), {.pools = {"cpu"}}, 100, 50);
        if (!lease.ok()) {
          absl::MutexLock lock(&mutex);
          wrong.push_back(lease.status().ToString());
          return;
        }
        if (!lease->has_value()) {
          // The others may have the last tasks of a stage.
          absl::MutexLock lock(&mutex);
          if (leased.size() == kJobs * kPerStage * stages.size() || !wrong.empty()) return;
          continue;
        }
        TaskRecord task = **lease;
        {
          absl::MutexLock lock(&mutex);
          if (!leased.emplace(task.job, task.index).second) wrong.push_back("leased twice: " + task.name);
          const size_t stage = static_cast<size_t>(task.index) / kPerStage;
          if (stage > 0 && ended[task.job + std::to_string(stage - 1)] < kPerStage) {
            wrong.push_back(task.job + " " + task.name + " began too early");
          }
          ++ended[task.job + std::to_string(stage)];
        }
        task.state = TaskState::kDone;
        const absl::Status status = this->ChangeJob(store, task.job, [&](JobChange& change) {
          change.jobs[0].state = JobState::kRunning;
          change.tasks = {task};
        });
        if (status.ok()) continue;
        absl::MutexLock lock(&mutex);
        wrong.push_back(status.ToString());
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  EXPECT_THAT(wrong, testing::IsEmpty());
  EXPECT_EQ(leased.size(), kJobs * kPerStage * stages.size());
  EXPECT_TRUE(this->store_->ListLeasedTasks()->empty());
}

TYPED_TEST_P(QueueContract, CountsWhatIsUnfinished) {
  JobRecord a = SomeJob("a");
  a.created_ms = 7;
  this->Insert(a, 3);
  JobRecord b = SomeJob("b");
  b.created_ms = 5;
  this->Insert(b, 2);
  JobRecord c = SomeJob("c");
  c.pool = "cuda";
  c.codec_version = "codec-1";
  this->Insert(c, 1);
  JobRecord gone = SomeJob("gone");
  gone.state = JobState::kSucceeded;
  this->Insert(gone, 4);
  this->Finish(*this->Lease());
  ASSERT_TRUE(this->Lease());
  const auto counts = this->store_->CountQueue();
  ASSERT_TRUE(counts.ok()) << counts.status();
  std::vector<std::string> jobs;
  jobs.reserve(counts->jobs.size());
  for (const auto& row : counts->jobs) {
    jobs.push_back(row.pool + " " + row.codec_version + " " + JobStateName(row.state) + " " +
                   std::to_string(row.count) + " " + std::to_string(row.oldest_created_ms));
  }
  EXPECT_THAT(jobs, testing::ElementsAre("cpu  QUEUED 2 5", "cuda codec-1 QUEUED 1 1000"));
  std::vector<std::string> tasks;
  tasks.reserve(counts->tasks.size());
  for (const auto& row : counts->tasks) {
    tasks.push_back(row.pool + " " + TaskStateName(row.state) + " " + std::to_string(row.count));
  }
  EXPECT_THAT(tasks, testing::ElementsAre("cpu READY 3", "cpu LEASED 1", "cpu DONE 1", "cuda READY 1"));
}

TYPED_TEST_P(QueueContract, TellsOfJobsAndWork) {
  using Kind = StoreEvent::Kind;
  EventLog log(this->Other());
  ASSERT_TRUE(log.Settle(*this->store_));
  ASSERT_TRUE(
      this->store_
          ->InsertJob(SomeJob("j1"), {SomeTask("j1", 0, TaskStage::kPrepare), SomeTask("j1", 1, TaskStage::kPrepare),
                                      SomeTask("j1", 2, TaskStage::kQuantize)})
          .ok());
  EXPECT_TRUE(log.Await(Kind::kJob, "j1"));
  EXPECT_TRUE(log.Await(Kind::kWork));
  auto first = this->Lease();
  ASSERT_TRUE(first);
  EXPECT_TRUE(log.Await(Kind::kJob, "j1"));
  const TaskLease lease{.job = "j1", .index = 0, .worker = "w", .lease_id = first->lease_id};
  ASSERT_TRUE(this->store_->RenewLease(lease, 300, 0).ok());
  EXPECT_THAT(log.Barrier(*this->store_), testing::IsEmpty()) << "nothing has moved";
  ASSERT_TRUE(this->store_->RenewLease(lease, 300, 0.5).ok());
  EXPECT_THAT(log.Barrier(*this->store_), testing::ElementsAre(Kind::kJob));
  // The first of two is done: nothing new can begin. A task that is put back can.
  const auto second = this->Lease();
  ASSERT_TRUE(second);
  log.Barrier(*this->store_);
  this->Finish(*first);
  EXPECT_THAT(log.Barrier(*this->store_), testing::ElementsAre(Kind::kJob));
  TaskRecord back = *second;
  back.state = TaskState::kReady;
  ASSERT_TRUE(this->store_->Apply({.jobs = {}, .tasks = {back}, .artifact = {}}).ok());
  EXPECT_THAT(log.Barrier(*this->store_), testing::UnorderedElementsAre(Kind::kJob, Kind::kWork));
  const auto again = this->Lease();
  ASSERT_TRUE(again);
  log.Barrier(*this->store_);
  this->Finish(*again);
  EXPECT_THAT(log.Barrier(*this->store_), testing::UnorderedElementsAre(Kind::kJob, Kind::kWork))
      << "the last of its stage lets the next one begin";
  // What fails tells nothing.
  EXPECT_FALSE(this->store_->Apply({.jobs = {}, .tasks = {back}, .artifact = {}}).ok());
  EXPECT_THAT(log.Barrier(*this->store_), testing::IsEmpty());
  ASSERT_TRUE(this->store_->DeleteJob("j1").ok());
  EXPECT_THAT(log.Barrier(*this->store_), testing::ElementsAre(Kind::kJob));
}

REGISTER_TYPED_TEST_SUITE_P(QueueContract, LeasesByPriorityAgeAndStage, RoundsFollowOneAnotherAndMayBeAdded,
                            RenewsAndExpiresLeases, TwoWorkersNeverGetTheSameTask, KeepsWhatWorkersAndOthersSayOfATask,
                            LeasesFromItsPoolsAndOfItsCodec, ProjectsShareWorkers, WaitingMakesAJobMoreImportant,
                            LooksBehindJobsThatHaveNothingToLease, JobsThatEndedHaveNoLeases,
                            NobodyLeasesWhileOthersEndTheJob, ManyWorkersDoEachTaskOnceAndInOrder,
                            CountsWhatIsUnfinished, TellsOfJobsAndWork);

}  // namespace qamserve
