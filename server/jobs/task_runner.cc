#include "server/jobs/task_runner.h"

#include <nlohmann/json.hpp>

namespace qamserve {
namespace {

using nlohmann::json;

// A job's tasks open one checkpoint; two jobs may take turns.
constexpr size_t kOpenCheckpoints = 2;

}  // namespace

std::string EncodeOutcome(const TaskOutcome& outcome) {
  json j = {{"data", outcome.json}};
  if (outcome.tensor) j["tensor"] = TensorOutcomesToJson({*outcome.tensor});
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<TaskOutcome> DecodeOutcome(const TaskRecord& task) {
  try {
    TaskOutcome outcome;
    outcome.blobs = task.blobs;
    const json j = json::parse(task.outcome_json);
    outcome.json = j.at("data").get<std::string>();
    if (!j.contains("tensor")) return outcome;
    ASSIGN_OR_RETURN(std::vector<TensorOutcome> tensors, TensorOutcomesFromJson(j.at("tensor").get<std::string>()));
    if (!tensors.empty()) outcome.tensor = std::move(tensors.front());
    return outcome;
  } catch (const json::exception& error) {
    return DataLoss("STORE_CORRUPT", "the stored outcome of task {} ({}) of job {} cannot be read: {}", task.index,
                    task.name, task.job, error.what());
  }
}

absl::StatusOr<std::shared_ptr<const Checkpoint>> CoreTaskRunner::OpenCheckpoint(const std::string& digest) {
  {
    std::lock_guard lock(mutex_);
    for (auto it = open_.begin(); it != open_.end(); ++it) {
      if (it->first != digest) continue;
      open_.splice(open_.begin(), open_, it);
      return it->second;
    }
  }
  ASSIGN_OR_RETURN(const FileSet files, catalog_.FilesOfCheckpoint(digest));
  ASSIGN_OR_RETURN(std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(files));
  std::lock_guard lock(mutex_);
  open_.emplace_front(digest, checkpoint);
  if (open_.size() > kOpenCheckpoints) open_.pop_back();
  return checkpoint;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Run(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  RETURN_IF_ERROR(progress(0));
  switch (input.task.stage) {
    case TaskStage::kPrepare:
      return Prepare(input, pool, progress);
    case TaskStage::kCalibrate:
      return Calibrate(input, pool, progress);
    case TaskStage::kQuantize:
      return Quantize(input, pool);
    case TaskStage::kAssemble:
      return Assemble(input, pool, progress);
    case TaskStage::kEvaluate:
      return Evaluate(input, pool, progress);
  }
  return Internal("TASK_STAGE", "task {} of job {} has no known stage", input.task.index, input.job.id);
}

}  // namespace qamserve
