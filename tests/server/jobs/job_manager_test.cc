#include "server/jobs/job_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>

#include "core/base/digest.h"
#include "server/jobs/worker.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/jobs/fake_runner.h"
#include "tests/server/store/temp_dir.h"

namespace qamserve {
namespace {

TaskFilter Of(const std::string& pool) {
  TaskFilter filter;
  filter.pools = {pool};
  return filter;
}

struct MissingBlobs : StoreObserver {
  void OnMissingBlob() override { ++missing; }
  std::atomic<int> missing{0};
};

class JobManagerTest : public testing::Test {
 protected:
  void SetUp() override {
    Open();
    checkpoint_ = std::string(64, 'c');
    ASSERT_TRUE(store_->PutCheckpoint({.digest = checkpoint_, .display_name = "tiny"}).ok());
  }
  void TearDown() override { Close(); }

  // As a process that starts.
  void Open() {
    blobs_ =
        DirectoryBlobStore::Open({.root = dir_ / "data",
                                  .reserve_bytes = 0,
                                  .free_bytes = [this](const auto&) { return absl::StatusOr<uint64_t>(free_bytes_); }})
            .value();
    store_ = OpenSqliteMetadataStore(dir_ / "meta").value();
    CatalogOptions catalog_options;
    catalog_options.garbage_grace_ms = -10'000;
    catalog_options.observer = observer_;
    catalog_ = std::make_unique<Catalog>(catalog_options, *store_, *blobs_);
    runner_ = std::make_unique<FakeRunner>(*catalog_);
    JobManagerOptions options;
    options.work_dir = dir_ / "work";
    options.lease_ms = 1000;
    options.background = background_;
    options.now_ms = [this] { return SystemNowMs() + skew_ms_; };
    options.on_notice = [this](const JobNotice& notice) {
      std::lock_guard lock(notices_mutex_);
      notices_.push_back(notice);
    };
    manager_ = std::make_unique<JobManager>(options, *store_, *catalog_, *runner_);
    ASSERT_TRUE(manager_->Start().ok());
  }

  void Close() {
    worker_.reset();
    manager_.reset();
    runner_.reset();
    catalog_.reset();
    store_.reset();
    blobs_.reset();
  }

  void StartWorker(int threads = 1) {
    worker_ = std::make_unique<Worker>(WorkerOptions{.name = "w1", .threads = threads, .lease_ms = 1000}, *manager_,
                                       *runner_);
  }

  JobView Create(const std::string& request_id = "", uint64_t seed = 1) {
    CreateQuantizeJobArgs args;
    args.spec.checkpoint = checkpoint_;
    args.spec.quantize.seed = seed;
    args.request_id = request_id;
    auto view = manager_->CreateQuantizeJob(args);
    EXPECT_TRUE(view.ok()) << view.status();
    return view.ok() ? *std::move(view) : JobView();
  }

  // Watches until `done` or a final state.
  JobView WaitFor(
      const std::string& id, std::function<bool(const JobView&)> done = [](const JobView&) { return false; }) {
    uint64_t seen = 0;
    for (int i = 0; i < 1000; ++i) {
      const auto view = manager_->WaitForChange(id, seen, 0, kLongMs);
      EXPECT_TRUE(view.ok()) << view.status();
      if (!view.ok() || IsFinal(view->job.state) || done(*view)) return view.ok() ? *view : JobView();
      EXPECT_NE(view->change, seen) << "nothing happened";
      if (view->change == seen) return *view;
      seen = view->change;
    }
    return JobView();
  }

  std::optional<TaskGrant> Lease(const std::string& worker = "hand") {
    const auto grant = manager_->WaitForTask(worker, Of("cpu"), 0, never_);
    EXPECT_TRUE(grant.ok()) << grant.status();
    return grant.ok() ? *grant : std::nullopt;
  }
  absl::Status Run(const TaskGrant& grant) {
    ThreadPool pool(1);
    auto outcome = runner_->Run(grant.input, pool, [](double) { return absl::OkStatus(); });
    return outcome.ok() ? manager_->CompleteTask(grant.lease, *outcome, 0.5)
                        : manager_->FailTask(grant.lease, outcome.status());
  }

  TempDir dir_;
  std::shared_ptr<MissingBlobs> observer_ = std::make_shared<MissingBlobs>();
  std::atomic<uint64_t> free_bytes_{1 << 20};
  std::atomic<int64_t> skew_ms_{0};
  std::atomic<bool> never_{false};
  bool background_ = false;
  std::string checkpoint_;
  std::mutex notices_mutex_;
  std::vector<JobNotice> notices_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<MetadataStore> store_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<FakeRunner> runner_;
  std::unique_ptr<JobManager> manager_;
  std::unique_ptr<Worker> worker_;
};

TEST_F(JobManagerTest, RunsAJobToItsArtifact) {
  const JobView created = Create();
  EXPECT_EQ(created.job.state, JobState::kQueued);
  EXPECT_EQ(created.progress.queue_position, 1);
  EXPECT_EQ(created.progress.tasks_total, 7);
  EXPECT_EQ(created.progress.weights_total, 400);
  EXPECT_EQ(created.progress.stage, "calibrate");
  EXPECT_LT(created.progress.eta_seconds, 0) << "nothing was measured yet";
  EXPECT_EQ(created.job.display_name, "tiny");
  StartWorker();
  const JobView done = WaitFor(created.job.id);
  EXPECT_EQ(done.job.state, JobState::kSucceeded);
  EXPECT_EQ(done.tensors.size(), 4u);
  EXPECT_EQ(done.progress.tasks_done, 7);
  EXPECT_EQ(done.progress.weights_done, 400);
  EXPECT_TRUE(done.quality.has_value());
  EXPECT_GE(done.job.ended_ms, done.job.started_ms);
  const auto artifact = catalog_->GetArtifact(done.job.artifact);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_EQ(artifact->job, created.job.id);
  EXPECT_EQ(runner_->all_runs(), 7);
  // Only what the artifact needs is kept.
  worker_.reset();
  ASSERT_TRUE(catalog_->CollectGarbage().ok());
  EXPECT_EQ(blobs_->List()->size(), 1u);
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "work"));
  std::vector<JobState> states;
  std::lock_guard lock(notices_mutex_);
  for (const JobNotice& notice : notices_) {
    if (notice.kind == JobNotice::Kind::kJobState) states.push_back(notice.job.state);
  }
  EXPECT_THAT(states,
              testing::ElementsAre(JobState::kQueued, JobState::kRunning, JobState::kGating, JobState::kSucceeded));
}

TEST_F(JobManagerTest, SameRequestSameJob) {
  const JobView first = Create("id-1");
  EXPECT_EQ(Create("id-1").job.id, first.job.id);
  EXPECT_EQ(Create("id-2").job.id, first.job.id) << "the same work";
  EXPECT_NE(Create("", 2).job.id, first.job.id);
  CreateQuantizeJobArgs other;
  other.spec.checkpoint = checkpoint_;
  other.spec.quantize.seed = 3;
  other.request_id = "id-1";
  EXPECT_EQ(ReasonOf(manager_->CreateQuantizeJob(other).status()), "REQUEST_ID_REUSED");
  StartWorker();
  const JobView done = WaitFor(first.job.id);
  EXPECT_EQ(Create().job.id, first.job.id);
  EXPECT_EQ(Create().job.state, JobState::kSucceeded);
  // Without its artifact the work must be done again.
  ASSERT_TRUE(catalog_->DeleteArtifact(done.job.artifact, "").ok());
  EXPECT_NE(Create().job.id, first.job.id);
}

TEST_F(JobManagerTest, ValidateOnlyStoresNothing) {
  CreateQuantizeJobArgs args;
  args.spec.checkpoint = checkpoint_;
  args.validate_only = true;
  const auto view = manager_->CreateQuantizeJob(args);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->estimate.artifact_bytes, 10);
  EXPECT_TRUE(view->job.id.empty());
  EXPECT_TRUE(manager_->ListJobs({}, {})->items.empty());
  runner_->disk_bytes = 2 << 20;
  EXPECT_EQ(ReasonOf(manager_->CreateQuantizeJob(args).status()), "DISK_FULL");
  args.validate_only = false;
  EXPECT_EQ(ReasonOf(manager_->CreateQuantizeJob(args).status()), "DISK_FULL");
  EXPECT_TRUE(manager_->ListJobs({}, {})->items.empty());
  args.priority = 1001;
  EXPECT_EQ(ReasonOf(manager_->CreateQuantizeJob(args).status()), "PRIORITY_RANGE");
  args.priority = 0;
  args.load_as = "No Good";
  EXPECT_EQ(ReasonOf(manager_->CreateQuantizeJob(args).status()), "LOAD_AS");
  args.load_as = "";
  args.spec.checkpoint = std::string(64, '0');
  EXPECT_EQ(ReasonOf(manager_->CreateQuantizeJob(args).status()), "CHECKPOINT_NOT_FOUND");
}

// Written with the end of the job: nothing depends on who hears of it, or on whether anybody does.
TEST_F(JobManagerTest, TheWishToLoadIsWrittenWithTheEndOfTheJob) {
  CreateQuantizeJobArgs args;
  args.spec.checkpoint = checkpoint_;
  args.load_as = "m";
  const auto created = manager_->CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_TRUE(store_->ListLoadWishes()->empty()) << "there is nothing to load yet";
  StartWorker();
  const JobRecord done = WaitFor(created->job.id).job;
  ASSERT_EQ(done.state, JobState::kSucceeded);
  Close();
  Open();
  auto wishes = store_->ListLoadWishes();
  ASSERT_TRUE(wishes.ok()) << wishes.status();
  ASSERT_EQ(wishes->size(), 1u);
  EXPECT_EQ(wishes->front().load_as, LoadWish("m"));
  EXPECT_EQ(wishes->front().artifact, done.artifact);
  EXPECT_TRUE(*store_->AnswerLoadWish(wishes->front(), std::nullopt));
  // The same job for another name, and without one.
  args.load_as = "";
  EXPECT_EQ(manager_->CreateQuantizeJob(args)->job.id, done.id);
  EXPECT_TRUE(store_->ListLoadWishes()->empty());
  args.load_as = "n";
  EXPECT_EQ(manager_->CreateQuantizeJob(args)->job.id, done.id);
  wishes = store_->ListLoadWishes();
  ASSERT_EQ(wishes->size(), 1u);
  EXPECT_EQ(wishes->front().load_as, LoadWish("n"));
}

TEST_F(JobManagerTest, AJobThatMadeNothingWishesNothing) {
  runner_->gate = FailedPrecondition("GATE_KL", "too far off");
  CreateQuantizeJobArgs args;
  args.spec.checkpoint = checkpoint_;
  args.load_as = "m";
  const auto created = manager_->CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  StartWorker();
  EXPECT_EQ(WaitFor(created->job.id).job.state, JobState::kRejected);
  ASSERT_TRUE(manager_->CreateQuantizeJob(args).ok());
  EXPECT_TRUE(store_->ListLoadWishes()->empty());
}

// The server dies with one task leased and two done; the next one goes on without doing those again.
TEST_F(JobManagerTest, GoesOnAfterARestart) {
  const std::string id = Create().job.id;
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(Run(*Lease()).ok());
  const auto lost = Lease();
  ASSERT_TRUE(lost);
  EXPECT_TRUE(std::filesystem::exists(lost->input.work_dir));
  EXPECT_EQ(runner_->all_runs(), 2);
  Close();
  Open();
  EXPECT_FALSE(std::filesystem::exists(lost->input.work_dir));
  const auto view = manager_->GetJob(id);
  EXPECT_EQ(view->job.state, JobState::kQueued) << "its workers are lost";
  EXPECT_EQ(view->progress.tasks_done, 2);
  EXPECT_EQ(view->tensors.size(), 1u);
  EXPECT_EQ(ReasonOf(manager_->RenewLease(lost->lease)), "LEASE_LOST");
  StartWorker();
  EXPECT_EQ(WaitFor(id).job.state, JobState::kSucceeded);
  EXPECT_EQ(runner_->all_runs(), 5);
  EXPECT_EQ(runner_->runs("texts"), 0);
}

TEST_F(JobManagerTest, LapsedLeaseGoesToAnotherWorker) {
  const std::string id = Create().job.id;
  const auto first = Lease("silent");
  ASSERT_TRUE(first);
  EXPECT_FALSE(Lease("other")) << "leased twice";
  skew_ms_ = 900;
  ASSERT_TRUE(manager_->RenewLease(first->lease).ok());
  skew_ms_ = 1500;
  ASSERT_TRUE(manager_->Maintain().ok());
  EXPECT_FALSE(first->stop->load()) << "it was renewed";
  skew_ms_ = 3000;
  ASSERT_TRUE(manager_->Maintain().ok());
  EXPECT_TRUE(first->stop->load());
  EXPECT_EQ(manager_->GetJob(id)->job.state, JobState::kQueued);
  const auto second = Lease("other");
  ASSERT_TRUE(second);
  EXPECT_EQ(second->input.task.index, first->input.task.index);
  // The first worker was only slow; its outcome comes too late.
  EXPECT_EQ(ReasonOf(Run(*first)), "LEASE_LOST");
  EXPECT_TRUE(Run(*second).ok());
  EXPECT_EQ(manager_->GetJob(id)->progress.tasks_done, 1);
}

TEST_F(JobManagerTest, TaskThatKillsItsWorkersFailsTheJob) {
  const std::string id = Create().job.id;
  for (int i = 0; i < kMaxTaskAttempts; ++i) {
    ASSERT_TRUE(Lease()) << i;
    Close();
    Open();
  }
  const auto view = manager_->GetJob(id);
  EXPECT_EQ(view->job.state, JobState::kFailed);
  EXPECT_EQ(view->job.error.reason, "WORKER_LOST");
  EXPECT_NE(view->job.error.message.find("texts"), std::string::npos);
  EXPECT_FALSE(Lease());
}

TEST_F(JobManagerTest, RetryableErrorsRestAndThenFail) {
  const std::string id = Create().job.id;
  for (int i = 0; i < kMaxUnavailableAttempts; ++i) {
    const auto grant = Lease();
    ASSERT_TRUE(grant) << i;
    ASSERT_TRUE(manager_->FailTask(grant->lease, Unavailable("FILE_IO", "the disk hiccups")).ok());
    EXPECT_FALSE(Lease()) << "no rest";
    if (i == 0) {
      EXPECT_NE(manager_->GetJob(id)->progress.waiting_for.find("the disk hiccups"), std::string::npos);
    }
    skew_ms_ += 60'000;
  }
  EXPECT_EQ(manager_->GetJob(id)->job.state, JobState::kFailed);
  EXPECT_EQ(manager_->GetJob(id)->job.error.reason, "FILE_IO");
  // Retried, it goes on.
  ASSERT_TRUE(manager_->RetryJob(id, "").ok());
  EXPECT_EQ(manager_->GetJob(id)->job.state, JobState::kQueued);
  StartWorker();
  EXPECT_EQ(WaitFor(id).job.state, JobState::kSucceeded);
  EXPECT_EQ(ReasonOf(manager_->RetryJob(id, "").status()), "JOB_STATE");
}

TEST_F(JobManagerTest, OtherErrorsFailAtOnce) {
  const std::string id = Create().job.id;
  ASSERT_TRUE(manager_->FailTask(Lease()->lease, InvalidArgument("TEXT_TOO_SHORT", "3 tokens, 8 are needed")).ok());
  const auto view = manager_->GetJob(id);
  EXPECT_EQ(view->job.state, JobState::kFailed);
  EXPECT_EQ(view->job.error.reason, "TEXT_TOO_SHORT");
  EXPECT_EQ(view->progress.eta_seconds, 0);
  EXPECT_NE(Create().job.id, id) << "a failed job is no answer";
  EXPECT_EQ(ReasonOf(manager_->RetryJob(id, "").status()), "JOB_EXISTS");
}

TEST_F(JobManagerTest, ATaskThatMissesABlobOfAnotherOneIsCounted) {
  Create();
  ASSERT_TRUE(manager_->FailTask(Lease()->lease, NotFound("BLOB_NOT_FOUND", "there is no blob")).ok());
  EXPECT_EQ(observer_->missing, 1);
}

TEST_F(JobManagerTest, RetryDoesNotRedoWhatIsDone) {
  const std::string id = Create().job.id;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Run(*Lease()).ok());
  ASSERT_TRUE(manager_->CancelJob(id, "").ok());
  ASSERT_TRUE(catalog_->CollectGarbage().ok());
  // One of the outcomes is lost meanwhile.
  ASSERT_TRUE(blobs_->Delete(Sha256Hex(checkpoint_ + "tensor 0")).ok());
  EXPECT_EQ(observer_->missing, 0);
  ASSERT_TRUE(manager_->RetryJob(id, "again").ok());
  EXPECT_EQ(observer_->missing, 1);
  StartWorker();
  EXPECT_EQ(WaitFor(id).job.state, JobState::kSucceeded);
  EXPECT_EQ(runner_->runs("texts"), 1);
  EXPECT_EQ(runner_->runs("tensor 0"), 2);
  EXPECT_EQ(runner_->runs("tensor 1"), 1);
  EXPECT_TRUE(manager_->RetryJob(id, "again").ok()) << "the same request again";
}

TEST_F(JobManagerTest, CancelStopsTheRunningTaskSoon) {
  std::atomic<bool> started{false};
  runner_->before_task = [&](const TaskRecord&, ProgressFn progress) -> absl::Status {
    started = true;
    for (int i = 0; i < 2000; ++i) {
      RETURN_IF_ERROR(progress(0));
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return Internal("NEVER_STOPPED", "");
  };
  StartWorker();
  const std::string id = Create().job.id;
  WaitFor(id, [&](const JobView& view) { return view.job.state == JobState::kRunning && started; });
  const auto start = std::chrono::steady_clock::now();
  const auto view = manager_->CancelJob(id, "");
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->job.state, JobState::kCancelled);
  EXPECT_TRUE(manager_->CancelJob(id, "").ok());
  // The worker is free for other work.
  runner_->before_task = nullptr;
  worker_->Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_EQ(manager_->GetJob(id)->job.error.reason, "JOB_CANCELLED");
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "work"));
}

TEST_F(JobManagerTest, WorkerQuantizesAsManyTensorsAtOnceAsItHasThreads) {
  std::mutex mutex;
  std::condition_variable change;
  int running = 0, most = 0, most_wide = 0;
  runner_->tensors = 6;
  // Tensors wait for each other, so that the test fails if the lanes take turns.
  runner_->before_task = [&](const TaskRecord& task, ProgressFn) -> absl::Status {
    std::unique_lock lock(mutex);
    ++running;
    int& peak = task.stage == TaskStage::kQuantize ? most : most_wide;
    peak = std::max(peak, running);
    change.notify_all();
    if (task.stage == TaskStage::kQuantize) {
      change.wait_for(lock, std::chrono::milliseconds(kLongMs), [&] { return most >= 3; });
    }
    --running;
    return absl::OkStatus();
  };
  StartWorker(3);
  EXPECT_EQ(WaitFor(Create().job.id).job.state, JobState::kSucceeded);
  EXPECT_EQ(most, 3);
  EXPECT_EQ(most_wide, 1);
  EXPECT_EQ(runner_->all_runs(), 9);
}

TEST_F(JobManagerTest, StoppingWorkerGivesItsTaskBack) {
  std::atomic<bool> started{false};
  runner_->before_task = [&](const TaskRecord&, ProgressFn progress) -> absl::Status {
    started = true;
    for (;;) {
      RETURN_IF_ERROR(progress(0));
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  };
  StartWorker();
  const std::string id = Create().job.id;
  WaitFor(id, [&](const JobView&) { return started.load(); });
  worker_->Stop();
  EXPECT_EQ(manager_->GetJob(id)->job.state, JobState::kQueued);
  EXPECT_EQ(store_->GetTask(id, 0)->attempts, 0) << "not the task's fault";
  EXPECT_TRUE(Lease());
}

TEST_F(JobManagerTest, TasksArePutBackWithoutTheirWorker) {
  const std::string id = Create().job.id;
  // As often as would fail the job if the attempts counted.
  for (int i = 0; i <= kMaxTaskAttempts; ++i) {
    const auto grant = Lease();
    ASSERT_TRUE(grant) << i;
    ASSERT_TRUE(manager_->PutBackTasks().ok());
    EXPECT_TRUE(*grant->stop) << "the worker is told";
    EXPECT_EQ(ReasonOf(Run(*grant)), "LEASE_LOST");
    EXPECT_EQ(ReasonOf(manager_->WaitForTask("late", Of("cpu"), kLongMs, never_).status()), "SHUTTING_DOWN");
    EXPECT_EQ(manager_->GetJob(id)->job.state, JobState::kQueued);
    EXPECT_EQ(store_->GetTask(id, 0)->attempts, 0) << "not the task's fault";
    Close();
    Open();
  }
  StartWorker();
  EXPECT_EQ(WaitFor(id).job.state, JobState::kSucceeded);
}

TEST_F(JobManagerTest, GatesReject) {
  runner_->gate = FailedPrecondition("GATE_QUALITY", "mean KL 0.5 is above max_kl 0.1");
  const std::string id = Create().job.id;
  StartWorker();
  const JobView view = WaitFor(id);
  EXPECT_EQ(view.job.state, JobState::kRejected);
  EXPECT_EQ(view.job.error.reason, "GATE_QUALITY");
  EXPECT_TRUE(view.quality.has_value()) << "what was measured is told";
  EXPECT_TRUE(view.job.artifact.empty());
  EXPECT_TRUE(catalog_->ListArtifacts({}, "")->items.empty());
  EXPECT_EQ(Create().job.id, id) << "the gate would refuse again";
  EXPECT_EQ(ReasonOf(manager_->RetryJob(id, "").status()), "JOB_STATE");
}

TEST_F(JobManagerTest, AssembleGateRejects) {
  runner_->before_task = [](const TaskRecord& task, ProgressFn) -> absl::Status {
    if (task.stage != TaskStage::kAssemble) return absl::OkStatus();
    return FailedPrecondition("GATE_RECONSTRUCTION", "row 3 of tensor x");
  };
  StartWorker();
  const JobView view = WaitFor(Create().job.id);
  EXPECT_EQ(view.job.state, JobState::kRejected);
  EXPECT_EQ(view.job.error.reason, "GATE_RECONSTRUCTION");
}

TEST_F(JobManagerTest, EvaluateJobsMeasureAnArtifact) {
  StartWorker();
  const JobView quantized = WaitFor(Create().job.id);
  const auto job =
      manager_->CreateEvaluateJob({.artifact = quantized.job.artifact, .evaluation = {}, .request_id = ""});
  ASSERT_TRUE(job.ok()) << job.status();
  const JobView view = WaitFor(job->job.id);
  EXPECT_EQ(view.job.state, JobState::kSucceeded);
  EXPECT_TRUE(view.quality.has_value());
  EXPECT_EQ(view.job.artifact, quantized.job.artifact);
  ASSERT_TRUE(manager_->DeleteJob(view.job.id, "").ok());
  ASSERT_TRUE(catalog_->DeleteCheckpoint(checkpoint_, "").ok());
  EXPECT_EQ(ReasonOf(manager_->CreateEvaluateJob({.artifact = quantized.job.artifact}).status()),
            "CHECKPOINT_NOT_FOUND");
  EXPECT_EQ(ReasonOf(manager_->CreateEvaluateJob({.artifact = "x"}).status()), "ARTIFACT_NOT_FOUND");
}

TEST_F(JobManagerTest, DeletesOnlyWhatHasEnded) {
  const std::string id = Create().job.id;
  EXPECT_EQ(ReasonOf(manager_->DeleteJob(id, "")), "JOB_ACTIVE");
  ASSERT_TRUE(manager_->CancelJob(id, "").ok());
  EXPECT_TRUE(manager_->DeleteJob(id, "d").ok());
  EXPECT_TRUE(manager_->DeleteJob(id, "d").ok());
  EXPECT_EQ(ReasonOf(manager_->DeleteJob(id, "")), "JOB_NOT_FOUND");
  EXPECT_EQ(ReasonOf(manager_->WaitForChange(id, 0, 0, 0).status()), "JOB_NOT_FOUND");
}

TEST_F(JobManagerTest, WatchingSendsEachTensorOnce) {
  const std::string id = Create().job.id;
  StartWorker();
  uint64_t seen = 0;
  std::vector<std::string> tensors;
  for (;;) {
    const auto view = manager_->WaitForChange(id, seen, tensors.size(), kLongMs);
    ASSERT_TRUE(view.ok()) << view.status();
    ASSERT_NE(view->change, seen);
    seen = view->change;
    for (const TensorOutcome& tensor : view->tensors) tensors.push_back(tensor.name);
    if (IsFinal(view->job.state)) break;
  }
  EXPECT_THAT(tensors, testing::ElementsAre("tensor 0", "tensor 1", "tensor 2", "tensor 3"));
}

TEST_F(JobManagerTest, SubscribersAreCalledUntilTheyLeave) {
  const std::string id = Create().job.id;
  std::atomic<int> calls{0};
  auto handle = manager_->Subscribe(id, [&] { ++calls; });
  ASSERT_TRUE(Run(*Lease()).ok());
  const int before = calls;
  EXPECT_GE(before, 2);
  handle.reset();
  ASSERT_TRUE(Run(*Lease()).ok());
  EXPECT_EQ(calls, before);
}

// A server that runs for years does not remember every job, and yet nobody waits for what has happened.
TEST_F(JobManagerTest, ForgetsChangesOfJobsThatNobodyWatches) {
  const JobView before = Create("", 1);
  const JobView watched = Create("", 2);
  const auto handle = manager_->Subscribe(watched.job.id, [] {});
  ASSERT_TRUE(manager_->CancelJob(before.job.id, "").ok());
  const uint64_t last = manager_->GetJob(before.job.id)->change;
  EXPECT_GT(last, before.change);
  for (uint64_t seed = 3; seed < 300; ++seed) Create("", seed);
  EXPECT_GT(manager_->GetJob(before.job.id)->change, last) << "its change is still remembered";
  EXPECT_EQ(manager_->GetJob(watched.job.id)->change, watched.change);
  const auto late = manager_->WaitForChange(before.job.id, before.change, 0, kLongMs);
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_NE(late->change, before.change) << "waited for what had happened";
  EXPECT_EQ(late->job.state, JobState::kCancelled);
}

TEST_F(JobManagerTest, StopWakesWaiters) {
  const std::string id = Create().job.id;
  const uint64_t seen = manager_->GetJob(id)->change;
  absl::Status watched, waited;
  std::thread watcher([&] { watched = manager_->WaitForChange(id, seen, 0, kLongMs).status(); });
  std::thread waiter([&] { waited = manager_->WaitForTask("w", Of("cuda"), kLongMs, never_).status(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  manager_->Stop();
  watcher.join();
  waiter.join();
  EXPECT_EQ(ReasonOf(watched), "SHUTTING_DOWN");
  EXPECT_EQ(ReasonOf(waited), "SHUTTING_DOWN");
}

TEST_F(JobManagerTest, EtaIsKnownFromTheSecondJobOnAndAfterARestart) {
  StartWorker();
  WaitFor(Create().job.id);
  Close();
  Open();
  const JobView second = Create("", 2);
  EXPECT_GE(second.progress.eta_seconds, 0);
}

TEST_F(JobManagerTest, ImportantJobsGoFirst) {
  const std::string normal = Create("", 1).job.id;
  CreateQuantizeJobArgs args;
  args.spec.checkpoint = checkpoint_;
  args.spec.quantize.seed = 2;
  args.priority = 10;
  const std::string urgent = manager_->CreateQuantizeJob(args)->job.id;
  EXPECT_EQ(manager_->GetJob(normal)->progress.queue_position, 2);
  EXPECT_EQ(Lease()->lease.job, urgent);
  EXPECT_EQ(manager_->GetJob(normal)->progress.queue_position, 1);
  const auto stats = manager_->Stats();
  EXPECT_EQ(stats->queued_jobs, 1);
  EXPECT_EQ(stats->running_jobs, 1);
}

// With the background thread nobody needs to call Maintain: lapsed leases and backoffs end by themselves.
TEST_F(JobManagerTest, BackgroundThreadEndsLeases) {
  Close();
  background_ = true;
  Open();
  const std::string id = Create().job.id;
  const auto lost = Lease("silent");
  ASSERT_TRUE(lost);
  StartWorker();
  EXPECT_EQ(WaitFor(id).job.state, JobState::kSucceeded);
  EXPECT_TRUE(lost->stop->load());
}

}  // namespace
}  // namespace qamserve
