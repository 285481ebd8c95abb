// Several job managers with their workers on one store, as if each were a process of its own.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/jobs/job_manager.h"
#include "server/jobs/worker.h"
#include "server/store/sql_metadata_store.h"
#include "server/store/sqlite_database.h"
#include "tests/server/jobs/fake_runner.h"
#include "tests/server/jobs/faulty_database.h"
#include "tests/server/store/temp_dir.h"

namespace qamserve {

inline void Rest(int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

inline TaskFilter FilterOf(const std::string& pool) {
  TaskFilter filter;
  filter.pools = {pool};
  return filter;
}

// One process. Destroyed without more ado it is as if it had been killed: what its manager leased stays leased.
class Process {
 public:
  struct Options {
    int64_t lease_ms = 1000;
    int64_t settle_ms = 0;
    int64_t poll_ms = 2000;
    bool background = true;
    std::function<int64_t()> now_ms = nullptr;
  };

  Process(std::string name, const std::string& folder, MetadataStore& store, BlobStore& blobs, const Options& options)
      : name_(std::move(name)), lease_ms_(options.lease_ms), catalog_({}, store, blobs), runner_(catalog_) {
    JobManagerOptions manager_options;
    manager_options.work_dir = folder + "/work-" + name_;
    manager_options.lease_ms = options.lease_ms;
    manager_options.shared = true;
    manager_options.settle_ms = options.settle_ms;
    manager_options.poll_ms = options.poll_ms;
    manager_options.background = options.background;
    manager_options.now_ms = options.now_ms;
    manager_options.on_notice = [this](const JobNotice& notice) {
      std::lock_guard lock(mutex_);
      notices_.push_back(notice);
    };
    manager_ = std::make_unique<JobManager>(manager_options, store, catalog_, runner_);
    EXPECT_TRUE(manager_->Start().ok());
  }
  ~Process() {
    worker_.reset();
    manager_.reset();
  }

  JobManager& jobs() { return *manager_; }
  FakeRunner& runner() { return runner_; }
  Catalog& catalog() { return catalog_; }

  void StartWorker(int threads = 1, std::vector<std::string> pools = {"cpu"}) {
    WorkerOptions options;
    options.name = name_;
    options.pools = std::move(pools);
    options.threads = threads;
    options.lease_ms = lease_ms_;
    options.on_lease_lost = [this](const TaskLease& lease) {
      std::lock_guard lock(mutex_);
      lost_leases_.push_back(lease);
    };
    options.on_store_fault = [this](const absl::Status& error, const TaskLease* lease) {
      std::lock_guard lock(mutex_);
      (lease != nullptr ? store_faults_ : idle_store_faults_).push_back(error);
    };
    options.on_device_lost = [this](const absl::Status& error) {
      std::lock_guard lock(mutex_);
      lost_devices_.push_back(error);
    };
    worker_ = std::make_unique<Worker>(options, *manager_, runner_);
  }
  void StopWorker() { worker_.reset(); }
  Worker& worker() { return *worker_; }
  // That the worker has told of.
  std::vector<TaskLease> lost_leases() {
    std::lock_guard lock(mutex_);
    return lost_leases_;
  }
  // Likewise, of a task, and of looking for one.
  std::vector<absl::Status> store_faults() {
    std::lock_guard lock(mutex_);
    return store_faults_;
  }
  std::vector<absl::Status> lost_devices() {
    std::lock_guard lock(mutex_);
    return lost_devices_;
  }
  std::vector<absl::Status> idle_store_faults() {
    std::lock_guard lock(mutex_);
    return idle_store_faults_;
  }

  std::optional<TaskGrant> Lease(const TaskFilter& filter = FilterOf("cpu")) {
    const auto grant = manager_->WaitForTask(name_, filter, 0, never_);
    EXPECT_TRUE(grant.ok()) << grant.status();
    return grant.ok() ? *grant : std::nullopt;
  }
  TaskOutcome Do(const TaskGrant& grant) {
    ThreadPool pool(1);
    auto outcome = runner_.Run(grant.input, pool, [](double) { return absl::OkStatus(); });
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    return outcome.ok() ? *std::move(outcome) : TaskOutcome();
  }
  absl::Status Finish(const TaskGrant& grant) { return manager_->CompleteTask(grant.lease, Do(grant), 0.5); }

  std::vector<JobNotice> NoticesOf(JobNotice::Kind kind) {
    std::vector<JobNotice> found;
    std::lock_guard lock(mutex_);
    std::copy_if(notices_.begin(), notices_.end(), std::back_inserter(found),
                 [&](const JobNotice& notice) { return notice.kind == kind; });
    return found;
  }

 private:
  const std::string name_;
  const int64_t lease_ms_;
  std::atomic<bool> never_{false};
  std::mutex mutex_;
  std::vector<JobNotice> notices_;
  std::vector<TaskLease> lost_leases_;
  std::vector<absl::Status> store_faults_, idle_store_faults_, lost_devices_;
  Catalog catalog_;
  FakeRunner runner_;
  std::unique_ptr<JobManager> manager_;
  std::unique_ptr<Worker> worker_;
};

class SharedJobsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_ / "blobs");
    blobs_ = DirectoryBlobStore::Open({.root = dir_ / "blobs", .reserve_bytes = 0, .free_bytes = {}}).value();
    auto database = std::make_unique<FaultyDatabase>(SqliteDatabase::Open(dir_ / "meta").value(), faults_);
    store_ = SqlMetadataStore::Open(std::move(database), SqliteSchema(), SchemaPolicy::kMigrate).value();
    checkpoint_ = std::string(64, 'c');
    ASSERT_TRUE(store_->PutCheckpoint({.digest = checkpoint_, .display_name = "tiny"}).ok());
  }

  std::unique_ptr<Process> Start(const std::string& name, const Process::Options& options) {
    return std::make_unique<Process>(name, dir_.path(), *store_, *blobs_, options);
  }
  std::unique_ptr<Process> Start(const std::string& name) { return Start(name, Process::Options()); }
  // With a clock that the test moves, for all processes, and with nothing that happens by itself.
  std::unique_ptr<Process> StartByHand(const std::string& name) {
    Process::Options options;
    options.background = false;
    options.now_ms = [this] { return SystemNowMs() + skew_ms_; };
    return Start(name, options);
  }

  CreateQuantizeJobArgs Args(uint64_t seed = 1) const {
    CreateQuantizeJobArgs args;
    args.spec.checkpoint = checkpoint_;
    args.spec.quantize.seed = seed;
    return args;
  }
  static std::string Create(Process& process, const CreateQuantizeJobArgs& args) {
    const auto view = process.jobs().CreateQuantizeJob(args);
    EXPECT_TRUE(view.ok()) << view.status();
    return view.ok() ? view->job.id : "";
  }

  // Watches through `process` until `done` or a final state.
  static JobView WaitFor(
      Process& process, const std::string& id,
      const std::function<bool(const JobView&)>& done = [](const JobView&) { return false; }) {
    uint64_t seen = 0;
    for (int i = 0; i < 2000; ++i) {
      const auto view = process.jobs().WaitForChange(id, seen, 0, kLongMs);
      if (absl::IsUnavailable(view.status())) continue;  // a fault of the store that the test planted
      EXPECT_TRUE(view.ok()) << view.status();
      if (!view.ok()) break;
      if (IsFinal(view->job.state) || done(*view)) return *view;
      EXPECT_NE(view->change, seen) << "nothing happened";
      if (view->change == seen) break;
      seen = view->change;
    }
    return JobView();
  }

  JobState StateOf(const std::string& id) { return store_->GetJob(id).value().state; }
  TaskRecord TaskOf(const std::string& id, int32_t index) { return store_->GetTask(id, index).value(); }
  // That each task was done once, one after the other, and by whom.
  std::set<std::string> WorkersOf(const std::string& id) {
    std::set<std::string> workers;
    std::set<int64_t> sequences;
    const auto tasks = store_->ListTasks(id);
    EXPECT_TRUE(tasks.ok()) << tasks.status();
    if (!tasks.ok()) return workers;
    for (const TaskRecord& task : *tasks) {
      EXPECT_EQ(task.state, TaskState::kDone) << task.name;
      sequences.insert(task.done_sequence);
      workers.insert(task.worker);
    }
    EXPECT_EQ(sequences.size(), tasks->size());
    EXPECT_EQ(*sequences.begin(), 1);
    EXPECT_EQ(*sequences.rbegin(), static_cast<int64_t>(tasks->size()));
    return workers;
  }

  TempDir dir_;
  std::shared_ptr<DatabaseFaults> faults_ = std::make_shared<DatabaseFaults>();
  std::atomic<int64_t> skew_ms_{0};
  std::string checkpoint_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<MetadataStore> store_;
};

}  // namespace qamserve
