// What the test suites of every MetadataStore have in common.
//
// An engine plugs in with a factory:
//   static std::unique_ptr<MetadataStore> Open(const std::string& path);    a store; with the same path, the same
//   content static std::unique_ptr<SqlDatabase> Database(const std::string& path);  the same without looking at its
//   schema static SqlSchema Schema(); static constexpr bool kShared;                                          several
//   may be open on one path at a time
// and INSTANTIATE_METADATA_STORE_CONTRACT (metadata_store_contract.h).
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/store/metadata_store.h"
#include "server/store/sql_schema.h"
#include "tests/server/store/temp_dir.h"

namespace qamserve {

inline JobRecord SomeJob(const std::string& id, int32_t priority = 0) {
  JobRecord job;
  job.id = id;
  job.key = "key of " + id;
  job.checkpoint = "c1";
  job.spec_json = "{}";
  job.estimate_json = "{}";
  job.pool = "cpu";
  job.priority = priority;
  job.created_ms = 1000;
  return job;
}

inline TaskRecord SomeTask(const std::string& job, int32_t index, TaskStage stage) {
  TaskRecord task;
  task.job = job;
  task.index = index;
  task.stage = stage;
  task.name = "task " + std::to_string(index);
  task.cost = 1;
  return task;
}

inline InstanceRecord SomeInstance(const std::string& id) {
  InstanceRecord instance;
  instance.id = id;
  instance.host = "host of " + id;
  instance.address = id + ":8080";
  instance.roles = {"worker", "inference"};
  instance.pools = {"cpu", "cuda"};
  instance.version = "0.1.0";
  instance.codec_version = "codec-1";
  instance.kernels = "avx2";
  instance.device = "cpu";
  instance.threads = 4;
  instance.memory_bytes = int64_t{7} << 30;
  instance.started_ms = 11;
  return instance;
}

template <typename Factory>
class MetadataStoreFixture : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }
  void Reopen() {
    store_.reset();
    store_ = Factory::Open(dir_ / "meta");
    ASSERT_NE(store_, nullptr);
  }
  // Another process's handle on the store, where there can be one; else this one's.
  MetadataStore& Other() {
    if (!Factory::kShared) return *store_;
    if (other_ == nullptr) other_ = Factory::Open(dir_ / "meta");
    return *other_;
  }
  // The task is DONE with `blobs`.
  void Finish(TaskRecord task, std::vector<std::string> blobs = {}) {
    task.state = TaskState::kDone;
    task.blobs = std::move(blobs);
    const absl::Status status = store_->Apply({.jobs = {}, .tasks = {task}, .artifact = {}});
    ASSERT_TRUE(status.ok()) << status;
  }
  std::optional<TaskRecord> Lease(int64_t now_ms = 100) {
    auto task = store_->LeaseTask("w", {.pools = {"cpu"}}, now_ms, 50);
    EXPECT_TRUE(task.ok()) << task.status();
    return task.ok() ? *std::move(task) : std::nullopt;
  }
  // "JOB/INDEX", or "" if there is none.
  std::string LeasedName(int64_t now_ms = 100) {
    const auto task = Lease(now_ms);
    return task ? task->job + "/" + std::to_string(task->index) : "";
  }

  TempDir dir_;
  std::unique_ptr<MetadataStore> other_;
  std::unique_ptr<MetadataStore> store_;
};

// Remembers the events of a store.
class EventLog {
 public:
  explicit EventLog(MetadataStore& store)
      : handle_(store.Listen([this](const StoreEvent& event) {
          absl::MutexLock lock(&mutex_);
          events_.push_back(event);
        })) {}

  // Whether the event comes within `seconds`; forgets all up to it.
  bool Await(StoreEvent::Kind kind, const std::string& id = "", int seconds = 10) {
    absl::MutexLock lock(&mutex_);
    const auto found = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return Find(kind, id) != events_.end(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&found), absl::Seconds(seconds))) return false;
    events_.erase(events_.begin(), Find(kind, id) + 1);
    return true;
  }
  // Waits until a change of `store` is heard here, so that what comes later is; then forgets all.
  bool Settle(MetadataStore& store) {
    for (int attempt = 0; attempt < 20; ++attempt) {
      if (!store.InsertKey({.id = "settle", .digest = "settle"}).ok() || !store.DeleteKey("settle").ok()) return false;
      if (!Await(StoreEvent::Kind::kAccess, "", 1)) continue;
      Barrier(store);
      return true;
    }
    return false;
  }
  // The kinds of all events up to now, by way of one more that is left out; forgets them.
  std::vector<StoreEvent::Kind> Barrier(MetadataStore& store) {
    const std::string id = "barrier-" + std::to_string(++barriers_);
    EXPECT_TRUE(store.InsertJob(BarrierJob(id), {}).ok());
    std::vector<StoreEvent::Kind> kinds;
    absl::MutexLock lock(&mutex_);
    const auto found = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return Find(StoreEvent::Kind::kJob, id) != events_.end();
    };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&found), absl::Seconds(10)));
    const auto end = Find(StoreEvent::Kind::kJob, id);
    for (auto it = events_.begin(); it != end; ++it) kinds.push_back(it->kind);
    events_.erase(events_.begin(), end == events_.end() ? end : end + 1);
    return kinds;
  }

 private:
  static JobRecord BarrierJob(const std::string& id) {
    JobRecord job;
    job.id = job.key = id;
    job.state = JobState::kSucceeded;
    return job;
  }
  std::vector<StoreEvent>::iterator Find(StoreEvent::Kind kind, const std::string& id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::find_if(events_.begin(), events_.end(),
                        [&](const StoreEvent& event) { return event.kind == kind && event.id == id; });
  }

  absl::Mutex mutex_;
  std::vector<StoreEvent> events_ ABSL_GUARDED_BY(mutex_);
  int barriers_ = 0;
  std::shared_ptr<void> handle_;  // the last member: no call comes after it has gone
};

}  // namespace qamserve
