// What a task is asked to do, as kept in TaskRecord::spec_json, and the lists of tasks that jobs are made of.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/model/checkpoint.h"
#include "core/quantize/quantize.h"
#include "server/jobs/job_spec.h"
#include "server/store/records.h"

namespace qamserve {

// Tasks of the calibrate and evaluate stages do different things.
enum class TaskPart {
  kWhole,       // statistics of a shard; what follows from a measurement
  kReference,   // calibrate: what the base model says of a shard of the evaluation text
  kComparison,  // evaluate: a candidate beside it
};

struct TaskSpec {
  std::string checkpoint;  // digest; empty in jobs of earlier versions: the job's
  int32_t part = 0;        // the shard, tensor of the plan, or block
  int32_t candidate = -1;  // which artifact of the job this is about, if about one
  TaskPart kind = TaskPart::kWhole;
  // Quantize tasks: the method with the tensor's own rate for all. Assemble and evaluate tasks: the whole candidate.
  std::optional<QuantizeSpec> quantize;
  std::string codec_version = kCodecVersion;  // of the program that planned it, where there is a method
};
// Canonical: the same spec always gives the same text, so a quantize task is known by it.
std::string TaskSpecToJson(const TaskSpec& spec);
// DATA_LOSS (STORE_CORRUPT) names task and job.
absl::StatusOr<TaskSpec> TaskSpecOf(const TaskRecord& task);
// The spec_json of the task that makes tensor `part` of a candidate.
std::string TensorTaskJson(const std::string& checkpoint, const QuantizePlan& plan, const QuantizeSpec& candidate,
                           size_t part);

// Adds tasks to a job in the order in which they are worked on. Costs are nominal seconds (see TaskRecord::cost).
class TaskList {
 public:
  // `known`: what the job has already; tensors are not quantized twice in the same way.
  explicit TaskList(const JobSpec& job, const std::vector<TaskRecord>& known = {});

  // Texts; shards of what the base model says of them and, unless `statistics` is false, of calibration.
  void AddTexts(const Checkpoint& checkpoint, const std::string& digest, bool statistics);
  // In a round of its own what is not quantized yet, assembled, compared in shards; in the next what follows from it.
  void AddCandidate(const Checkpoint& checkpoint, const std::string& digest, const QuantizePlan& plan,
                    const QuantizeSpec& candidate);
  // In a round of its own: sensitivities by the weights of candidate `from` and, with `allocate`, a decision about
  // them.
  void AddProbes(const Checkpoint& checkpoint, const std::string& digest, int32_t from, bool allocate);
  // An evaluate job's only measurement, in shards, and its result in a round behind it.
  void AddEvaluation(const Checkpoint& checkpoint, const std::string& digest);

  int32_t candidates() const { return candidates_; }
  // New tasks, with index, round, stage, name, spec, cost and weights set; without job.
  std::vector<TaskRecord> Take() { return std::move(tasks_); }

 private:
  void Add(TaskStage stage, std::string name, const TaskSpec& spec, double cost, int64_t weights = 0);
  // Comparisons of the evaluation text in shards, then the task that sees them all.
  void AddComparisons(const Checkpoint& checkpoint, TaskSpec spec);

  const JobSpec& job_;
  std::vector<TaskRecord> tasks_;
  std::set<std::string> tensors_;  // spec_json of quantize tasks
  int32_t first_index_ = 0;
  int32_t candidates_ = 0;
  int32_t round_ = 0;
  bool fresh_ = true;  // nothing is measured in this round yet
};

}  // namespace qamserve
