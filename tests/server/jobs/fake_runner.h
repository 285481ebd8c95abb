// A TaskRunner without a model: small blobs, and hooks to make tasks fail, wait or count.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "core/base/digest.h"
#include "server/jobs/task_runner.h"

namespace qamserve {

// Far longer than anything takes: what is waited for happens, or the test fails.
inline constexpr int64_t kLongMs = 20'000;

class FakeRunner : public TaskRunner {
 public:
  explicit FakeRunner(Catalog& catalog) : catalog_(catalog) {}

  absl::StatusOr<JobPlan> Plan(const JobSpec& spec, int) override {
    RETURN_IF_ERROR(catalog_.GetCheckpoint(spec.checkpoint).status());
    JobPlan plan;
    plan.spec = spec;
    plan.estimate.artifact_bytes = 10;
    plan.estimate.disk_bytes = disk_bytes;
    auto add = [&](TaskStage stage, const std::string& name, int64_t weights) {
      TaskRecord task;
      task.stage = stage;
      task.name = name;
      task.cost = 1;
      task.weights = weights;
      plan.tasks.push_back(task);
    };
    add(TaskStage::kPrepare, "texts", 0);
    if (spec.kind == JobKind::kQuantize) {
      for (int i = 0; i < tensors; ++i) add(TaskStage::kQuantize, "tensor " + std::to_string(i), 100);
      add(TaskStage::kAssemble, "artifact", 0);
    }
    add(TaskStage::kEvaluate, "quality", 0);
    return plan;
  }

  absl::StatusOr<TaskOutcome> Run(const TaskInput& input, ThreadPool& pool, ProgressFn progress) override {
    ASSIGN_OR_RETURN(TaskOutcome outcome, Do(input, pool, progress));
    if (after_task) after_task(input, outcome);
    return outcome;
  }

  int runs(const std::string& task) {
    std::lock_guard lock(mutex_);
    return runs_[task];
  }
  int all_runs() {
    std::lock_guard lock(mutex_);
    int sum = 0;
    for (const auto& [name, n] : runs_) sum += n;
    return sum;
  }

  // Set before workers start.
  int tensors = 4;
  int64_t disk_bytes = 0;
  absl::Status gate;
  std::function<absl::Status(const TaskRecord&, ProgressFn)> before_task;
  std::function<void(const TaskInput&, TaskOutcome&)> after_evaluate;  // may change what an evaluate task says
  std::function<void(const TaskInput&, TaskOutcome&)> after_task;      // and any task
  std::function<void(ThreadPool&)> with_pool;

 private:
  absl::StatusOr<TaskOutcome> Do(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
    const TaskRecord& task = input.task;
    {
      std::lock_guard lock(mutex_);
      ++runs_[task.name];
    }
    // What the contract promises: lower stages are done.
    for (const TaskRecord& other : input.tasks) {
      if (other.round == task.round && other.stage < task.stage && other.state != TaskState::kDone)
        return Internal("STAGE_ORDER", "too early");
    }
    if (with_pool) with_pool(pool);
    if (before_task) RETURN_IF_ERROR(before_task(task, progress));
    RETURN_IF_ERROR(progress(0.5));
    TaskOutcome outcome;
    ASSIGN_OR_RETURN(const BlobInfo blob, catalog_.blobs().CommitBytes(input.spec.checkpoint + task.name));
    outcome.blobs = {blob.digest};
    outcome.json = task.name;
    if (task.stage == TaskStage::kQuantize) outcome.tensor = TensorOutcome{.name = task.name, .rows = 10, .cols = 10};
    if (task.stage != TaskStage::kEvaluate) return outcome;
    outcome.quality = QualityReport();
    outcome.gate = gate;
    if (input.spec.kind == JobKind::kEvaluate || !gate.ok()) return outcome;
    ArtifactRecord artifact;
    artifact.checkpoint = input.job.checkpoint;
    artifact.files = {{.name = "model.safetensors", .sha256 = blob.digest, .size_bytes = blob.size}};
    artifact.digest = Sha256Hex(ManifestJson(artifact.files));
    outcome.artifact = artifact;
    if (after_evaluate) after_evaluate(input, outcome);
    return outcome;
  }

  Catalog& catalog_;
  std::mutex mutex_;
  std::map<std::string, int> runs_;
};

}  // namespace qamserve
