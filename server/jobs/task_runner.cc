#include "server/jobs/task_runner.h"

#include <nlohmann/json.hpp>

#include "core/base/digest.h"

namespace qamserve {
namespace {

using nlohmann::json;

// A job's tasks open one checkpoint; two jobs may take turns.
constexpr size_t kKeptOpen = 2;

json Kept(const TaskOutcome& outcome) {
  json j = {{"data", outcome.json}};
  if (!outcome.candidate.empty()) j["candidate"] = outcome.candidate;
  if (outcome.tensor) j["tensor"] = TensorOutcomesToJson({*outcome.tensor});
  return j;
}

}  // namespace

std::string EncodeOutcome(const TaskOutcome& outcome) {
  json j = Kept(outcome);
  j["digest"] = OutcomeDigest(outcome);
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string OutcomeDigest(const TaskOutcome& outcome) {
  json j = Kept(outcome);
  j["blobs"] = outcome.blobs;
  if (outcome.quality) j["quality"] = QualityReportToJson(*outcome.quality);
  return Sha256Hex(j.dump(-1, ' ', false, json::error_handler_t::replace));
}

absl::StatusOr<std::string> OutcomeDigest(const TaskRecord& task) {
  try {
    return json::parse(task.outcome_json).value("digest", "");
  } catch (const json::exception& error) {
    return DataLoss("STORE_CORRUPT", "the stored outcome of task {} ({}) of job {} cannot be read: {}", task.index,
                    task.name, task.job, error.what());
  }
}

absl::StatusOr<TaskOutcome> DecodeOutcome(const TaskRecord& task) {
  try {
    TaskOutcome outcome;
    outcome.blobs = task.blobs;
    const json j = json::parse(task.outcome_json);
    outcome.json = j.at("data").get<std::string>();
    outcome.candidate = j.value("candidate", "");
    if (!j.contains("tensor")) return outcome;
    ASSIGN_OR_RETURN(std::vector<TensorOutcome> tensors, TensorOutcomesFromJson(j.at("tensor").get<std::string>()));
    if (!tensors.empty()) outcome.tensor = std::move(tensors.front());
    return outcome;
  } catch (const json::exception& error) {
    return DataLoss("STORE_CORRUPT", "the stored outcome of task {} ({}) of job {} cannot be read: {}", task.index,
                    task.name, task.job, error.what());
  }
}

namespace {

// The value of `key`, if it is there, moved to the front.
template <typename T>
std::shared_ptr<const T> FindRecent(std::list<std::pair<std::string, std::shared_ptr<const T>>>& open,
                                    const std::string& key) {
  for (auto it = open.begin(); it != open.end(); ++it) {
    if (it->first != key) continue;
    open.splice(open.begin(), open, it);
    return it->second;
  }
  return nullptr;
}

template <typename T>
void AddRecent(std::list<std::pair<std::string, std::shared_ptr<const T>>>& open, const std::string& key,
               std::shared_ptr<const T> value) {
  open.emplace_front(key, std::move(value));
  if (open.size() > kKeptOpen) open.pop_back();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Checkpoint>> CoreTaskRunner::OpenCheckpoint(const std::string& digest) {
  {
    std::lock_guard lock(mutex_);
    if (auto found = FindRecent(open_, digest)) return found;
  }
  ASSIGN_OR_RETURN(const FileSet files, catalog_.FilesOfCheckpoint(digest));
  ASSIGN_OR_RETURN(std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(files));
  std::lock_guard lock(mutex_);
  AddRecent(open_, digest, checkpoint);
  return checkpoint;
}

absl::StatusOr<std::shared_ptr<const Quantizer>> CoreTaskRunner::OpenQuantizer(const std::string& digest,
                                                                               const QuantizeSpec& spec) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(digest));
  const std::string key = digest + QuantizeSpecToJson(spec);
  // Made under the lock: all lanes of a worker ask for it at once, and it takes milliseconds.
  std::lock_guard lock(mutex_);
  if (auto found = FindRecent(quantizers_, key)) return found;
  ASSIGN_OR_RETURN(const auto quantizer, Quantizer::Create(checkpoint, spec, device_));
  AddRecent(quantizers_, key, quantizer);
  return quantizer;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Run(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  RETURN_IF_ERROR(progress(0));
  switch (input.task.stage) {
    case TaskStage::kPrepare:
      return Prepare(input, pool, progress);
    case TaskStage::kCalibrate:
      return Calibrate(input, pool, progress);
    case TaskStage::kQuantize:
      return Quantize(input, pool, progress);
    case TaskStage::kAssemble:
      return Assemble(input, pool, progress);
    case TaskStage::kEvaluate:
      return Evaluate(input, pool, progress);
    case TaskStage::kProbe:
      return Probe(input, pool, progress);
    case TaskStage::kAllocate:
      return Allocate(input, pool, progress);
  }
  return Internal("TASK_STAGE", "task {} of job {} has no known stage", input.task.index, input.job.id);
}

}  // namespace qamserve
