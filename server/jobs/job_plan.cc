#include <algorithm>
#include <nlohmann/json.hpp>

#include "server/jobs/task_runner.h"
#include "server/jobs/windows_per_shard.h"

namespace qamserve {
namespace {

// Nominal speeds of one stage beside another. Only their ratios matter: what this machine takes is measured.
constexpr double kForwardFlops = 50e9;     // a second, batched forward pass
constexpr double kSampleFlops = 10e9;      // one token at a time is bound by memory
constexpr double kQuantizeWeights = 20e6;  // a second
constexpr double kAssembleBytes = 200e6;   // a second
constexpr double kTokenizeSeconds = 1;
// Tokens of all windows of a text: they are kept in memory and as one blob of 4 bytes each.
constexpr int64_t kMaxWindowTokensTotal = int64_t{1} << 24;
// Statistics, windows, report and rounding up to file system blocks.
constexpr int64_t kSmallFilesBytes = int64_t{16} << 20;

int64_t TokensOf(const TextSelection& s) { return int64_t{s.windows} * s.window_tokens; }

absl::Status CheckSelection(Catalog& catalog, std::string_view field, const TextSelection& selection) {
  if (TokensOf(selection) > kMaxWindowTokensTotal) {
    return InvalidArgument("WINDOWS_RANGE", "{}: {} windows of {} tokens are more than {} tokens", field,
                           selection.windows, selection.window_tokens, kMaxWindowTokensTotal);
  }
  if (selection.text.empty()) return absl::OkStatus();
  return Annotate(catalog.GetText(selection.text).status(), fmt::format("{}.text", field));
}

class TaskList {
 public:
  void Add(TaskStage stage, std::string name, int part, double cost, int64_t weights = 0) {
    TaskRecord& task = tasks_.emplace_back();
    task.index = static_cast<int32_t>(tasks_.size() - 1);
    task.stage = stage;
    task.name = std::move(name);
    task.spec_json = nlohmann::json{{"part", part}}.dump();
    task.cost = cost;
    task.weights = weights;
  }
  std::vector<TaskRecord> Take() { return std::move(tasks_); }

 private:
  std::vector<TaskRecord> tasks_;
};

double PrepareCost(const TextSelection& selection, double parameters) {
  if (!selection.text.empty()) return kTokenizeSeconds;
  return 2 * parameters * static_cast<double>(TokensOf(selection)) / kSampleFlops;
}

double ForwardCost(const TextSelection& selection, double parameters) {
  return 2 * parameters * static_cast<double>(TokensOf(selection)) / kForwardFlops;
}

}  // namespace

absl::StatusOr<JobPlan> CoreTaskRunner::Plan(const JobSpec& asked, int threads) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(asked.checkpoint));
  JobPlan plan;
  ASSIGN_OR_RETURN(plan.spec, NormalizeJobSpec(asked, checkpoint->config().context_length));
  const JobSpec& spec = plan.spec;
  RETURN_IF_ERROR(CheckSelection(catalog_, "evaluation", spec.evaluation));
  const double parameters = static_cast<double>(checkpoint->parameters());
  TaskList tasks;
  bool samples = spec.evaluation.text.empty();
  if (spec.kind == JobKind::kEvaluate) {
    ASSIGN_OR_RETURN(const ArtifactRecord artifact, catalog_.GetArtifact(spec.artifact));
    plan.estimate.artifact_bytes = static_cast<int64_t>(artifact.size_bytes);
    plan.estimate.bpw = artifact.bpw;
    plan.estimate.disk_bytes = kSmallFilesBytes;
    tasks.Add(TaskStage::kPrepare, "texts", 0, PrepareCost(spec.evaluation, parameters));
  } else {
    ASSIGN_OR_RETURN(const QuantizePlan quantize, PlanQuantization(*checkpoint, spec.quantize, threads));
    plan.estimate.artifact_bytes = quantize.artifact_bytes;
    plan.estimate.peak_memory_bytes = quantize.peak_memory_bytes;
    // The packed tensors lie beside the assembled file until the job ends.
    plan.estimate.disk_bytes = 2 * quantize.artifact_bytes + kSmallFilesBytes;
    plan.estimate.tensors = static_cast<int32_t>(quantize.tensors.size());
    plan.estimate.bpw = quantize.bpw;
    double prepare = PrepareCost(spec.evaluation, parameters);
    if (NeedsStatistics(spec.quantize)) {
      RETURN_IF_ERROR(CheckSelection(catalog_, "calibration", spec.calibration));
      prepare += PrepareCost(spec.calibration, parameters);
      samples = samples || spec.calibration.text.empty();
    }
    tasks.Add(TaskStage::kPrepare, "texts", 0, prepare);
    const int shards = NeedsStatistics(spec.quantize) ? CalibrationShards(spec.calibration.windows) : 0;
    for (int i = 0; i < shards; ++i) {
      tasks.Add(TaskStage::kCalibrate, fmt::format("shard {}", i), i,
                ForwardCost(spec.calibration, parameters) / shards);
    }
    for (size_t i = 0; i < quantize.tensors.size(); ++i) {
      const int64_t weights = quantize.tensors[i].rows * quantize.tensors[i].cols;
      tasks.Add(TaskStage::kQuantize, quantize.tensors[i].name, static_cast<int>(i),
                static_cast<double>(weights) / kQuantizeWeights, weights);
    }
    tasks.Add(TaskStage::kAssemble, "artifact", 0, static_cast<double>(quantize.artifact_bytes) / kAssembleBytes);
  }
  // The base model and the artifact, which decodes as it multiplies.
  tasks.Add(TaskStage::kEvaluate, "quality", 0, 3 * ForwardCost(spec.evaluation, parameters));
  // Sampling holds the whole model, in 16 bits a weight at least.
  if (samples) {
    plan.estimate.peak_memory_bytes = std::max(plan.estimate.peak_memory_bytes, 2 * checkpoint->parameters());
  }
  plan.tasks = tasks.Take();
  return plan;
}

}  // namespace qamserve
