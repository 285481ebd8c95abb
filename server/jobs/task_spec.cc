#include "server/jobs/task_spec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "server/jobs/windows_per_shard.h"

namespace qamserve {
namespace {

using nlohmann::json;

// Nominal speeds of one stage beside another. Only their ratios matter: what this machine takes is measured.
constexpr double kForwardFlops = 50e9;     // a second, batched forward pass
constexpr double kSampleFlops = 10e9;      // one token at a time is bound by memory
constexpr double kQuantizeWeights = 20e6;  // a second
constexpr double kAssembleBytes = 200e6;   // a second
constexpr double kTokenizeSeconds = 1;
constexpr double kFeedbackFactor = 4;   // how much longer a tensor takes with error feedback
constexpr double kTrellisFactor = 100;  // and along a trellis
constexpr double kAllocateSeconds = 1;

double TokensOf(const TextSelection& s) { return static_cast<double>(s.windows) * s.window_tokens; }

double PrepareCost(const TextSelection& selection, double parameters) {
  if (!selection.text.empty()) return kTokenizeSeconds;
  return 2 * parameters * TokensOf(selection) / kSampleFlops;
}

constexpr const char* kReferenceName = "reference";
constexpr const char* kComparisonName = "comparison";

double ForwardCost(double tokens, double parameters) { return 2 * parameters * tokens / kForwardFlops; }

double QuantizeCost(const QuantizeSpec& spec, int64_t weights) {
  double cost = static_cast<double>(weights) / kQuantizeWeights;
  if (spec.error_feedback) cost *= kFeedbackFactor;
  if (spec.codec == Codec::kTrellis) cost *= kTrellisFactor;
  return cost;
}

}  // namespace

std::string TaskSpecToJson(const TaskSpec& spec) {
  json out = {{"checkpoint", spec.checkpoint}, {"part", spec.part}};
  if (spec.candidate >= 0) out["candidate"] = spec.candidate;
  if (spec.kind == TaskPart::kReference) out["kind"] = kReferenceName;
  if (spec.kind == TaskPart::kComparison) out["kind"] = kComparisonName;
  if (spec.quantize) out["quantize"] = json::parse(QuantizeSpecToJson(*spec.quantize));
  return out.dump();
}

absl::StatusOr<TaskSpec> TaskSpecOf(const TaskRecord& task) {
  try {
    const json in = json::parse(task.spec_json);
    TaskSpec spec;
    spec.checkpoint = in.value("checkpoint", "");
    spec.part = in.at("part").get<int32_t>();
    spec.candidate = in.value("candidate", -1);
    const std::string kind = in.value("kind", "");
    if (kind == kReferenceName) spec.kind = TaskPart::kReference;
    if (kind == kComparisonName) spec.kind = TaskPart::kComparison;
    if (in.contains("quantize")) {
      ASSIGN_OR_RETURN(spec.quantize, QuantizeSpecFromJson(in["quantize"].dump()));
      spec.codec_version = in["quantize"].value("codec_version", "");
    }
    return spec;
  } catch (const json::exception& error) {
    return DataLoss("STORE_CORRUPT", "the spec of task {} ({}) of job {} cannot be read: {}", task.index, task.name,
                    task.job, error.what());
  }
}

std::string TensorTaskJson(const std::string& checkpoint, const QuantizePlan& plan, const QuantizeSpec& candidate,
                           size_t part) {
  TaskSpec spec{.checkpoint = checkpoint, .part = static_cast<int32_t>(part), .candidate = -1, .quantize = candidate};
  spec.quantize->bpw = plan.tensors[part].format.pair_bits / 2.0;
  spec.quantize->rates.clear();
  return TaskSpecToJson(spec);
}

TaskList::TaskList(const JobSpec& job, const std::vector<TaskRecord>& known) : job_(job) {
  first_index_ = static_cast<int32_t>(known.size());
  for (const TaskRecord& task : known) {
    if (task.stage == TaskStage::kQuantize) tensors_.insert(task.spec_json);
    if (task.stage == TaskStage::kAssemble) ++candidates_;
    round_ = std::max(round_, task.round + 1);
  }
}

void TaskList::Add(TaskStage stage, std::string name, const TaskSpec& spec, double cost, int64_t weights) {
  TaskRecord& task = tasks_.emplace_back();
  task.index = first_index_ + static_cast<int32_t>(tasks_.size() - 1);
  task.round = round_;
  task.stage = stage;
  task.name = std::move(name);
  task.spec_json = TaskSpecToJson(spec);
  task.cost = cost;
  task.weights = weights;
}

void TaskList::AddTexts(const Checkpoint& checkpoint, const std::string& digest, bool statistics) {
  if (!fresh_) ++round_;
  fresh_ = true;
  const auto parameters = static_cast<double>(checkpoint.parameters());
  double prepare = PrepareCost(job_.evaluation, parameters);
  if (statistics) prepare += PrepareCost(job_.calibration, parameters);
  Add(TaskStage::kPrepare, "texts", {.checkpoint = digest}, prepare);
  const int shards = statistics ? CalibrationShards(job_.calibration.windows) : 0;
  for (int i = 0; i < shards; ++i) {
    Add(TaskStage::kCalibrate, fmt::format("shard {}", i), {.checkpoint = digest, .part = i},
        ForwardCost(TokensOf(job_.calibration), parameters) / shards);
  }
  const int references = EvaluationShards(job_.evaluation.windows);
  for (int i = 0; i < references; ++i) {
    Add(TaskStage::kCalibrate, fmt::format("{} {}", kReferenceName, i),
        {.checkpoint = digest, .part = i, .kind = TaskPart::kReference},
        ForwardCost(TokensOf(job_.evaluation), parameters) / references);
  }
}

void TaskList::AddComparisons(const Checkpoint& checkpoint, TaskSpec spec) {
  const int shards = EvaluationShards(job_.evaluation.windows);
  // The artifact decodes as it multiplies.
  const double cost = 2 * ForwardCost(TokensOf(job_.evaluation), static_cast<double>(checkpoint.parameters()));
  spec.kind = TaskPart::kComparison;
  for (int i = 0; i < shards; ++i) {
    spec.part = i;
    Add(TaskStage::kEvaluate, fmt::format("{} {}", kComparisonName, i), spec, cost / shards);
  }
  spec.kind = TaskPart::kWhole;
  spec.part = 0;
  ++round_;
  Add(TaskStage::kEvaluate, "quality", spec, 0);
}

void TaskList::AddCandidate(const Checkpoint& checkpoint, const std::string& digest, const QuantizePlan& plan,
                            const QuantizeSpec& candidate) {
  if (!fresh_) ++round_;
  fresh_ = false;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const QuantizePlan::Tensor& tensor = plan.tensors[i];
    const std::string json = TensorTaskJson(digest, plan, candidate, i);
    if (!tensors_.insert(json).second) continue;
    const int64_t weights = tensor.rows * tensor.cols;
    Add(TaskStage::kQuantize, tensor.name, {}, QuantizeCost(candidate, weights), weights);
    tasks_.back().spec_json = json;
  }
  const TaskSpec spec{.checkpoint = digest, .part = 0, .candidate = candidates_++, .quantize = candidate};
  Add(TaskStage::kAssemble, "artifact", spec, static_cast<double>(plan.artifact_bytes) / kAssembleBytes);
  AddComparisons(checkpoint, spec);
}

void TaskList::AddProbes(const Checkpoint& checkpoint, const std::string& digest, int32_t from, bool allocate) {
  if (!fresh_) ++round_;
  fresh_ = false;
  const int64_t layers = checkpoint.config().num_layers;
  const double pass = ForwardCost(kProbeWindows * kProbeWindowTokens, static_cast<double>(checkpoint.parameters()));
  const auto tensors = static_cast<double>(checkpoint.LinearNames(0).size());
  for (int64_t i = 0; i < layers; ++i) {
    const double depth = static_cast<double>(i) / static_cast<double>(layers);
    Add(TaskStage::kProbe, fmt::format("model.layers.{}", i),
        {.checkpoint = digest, .part = static_cast<int32_t>(i), .candidate = from},
        pass * (depth + (1 - depth) * (1 + tensors)));
  }
  if (allocate) {
    Add(TaskStage::kAllocate, "rates", {.checkpoint = digest, .part = 0, .candidate = from}, kAllocateSeconds);
  }
}

void TaskList::AddEvaluation(const Checkpoint& checkpoint, const std::string& digest) {
  fresh_ = false;
  AddComparisons(checkpoint, {.checkpoint = digest});
}

}  // namespace qamserve
