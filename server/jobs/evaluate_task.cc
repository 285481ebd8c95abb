// Evaluate, and what follows from it: gates, the artifact, or the next candidate; probes and the allocation of rates.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/digest.h"
#include "core/evaluate/probe.h"
#include "core/model/artifact.h"
#include "core/model/model.h"
#include "server/jobs/candidates.h"
#include "server/jobs/task_inputs.h"

namespace qamserve {
namespace {

using nlohmann::json;

// A gate that was asked for, and one that always holds: numbers that are not finite are no quality.
absl::Status QualityGate(const QualityReport& quality, double max_kl) {
  if (!std::isfinite(quality.kl_mean) || !std::isfinite(quality.quantized_perplexity)) {
    return FailedPrecondition("GATE_QUALITY", "mean KL {} or perplexity {} is not finite", quality.kl_mean,
                              quality.quantized_perplexity);
  }
  if (max_kl <= 0 || quality.kl_mean <= max_kl) return absl::OkStatus();
  return FailedPrecondition("GATE_QUALITY",
                            "mean KL {:.6f} nats a token (95 % interval {:.6f} to {:.6f}) is above max_kl {}",
                            quality.kl_mean, quality.kl_ci95_low, quality.kl_ci95_high, max_kl);
}

// A search that found nothing ends with the best it reached.
absl::Status TargetGate(const RateTarget& target, const SearchStep& step, const Candidate& best) {
  return FailedPrecondition(
      "GATE_TARGET",
      "{}: the best was {:.3f} bpw ({} bytes) with an upper bound of {:.6f}, mean KL {:.6f}; asked was {}", step.why,
      best.bpw, best.artifact_bytes, UpperBound(target, best.quality), best.quality.kl_mean,
      target.kl > 0 ? target.kl : target.perplexity_increase);
}

std::vector<Candidate> MeasuredOf(const std::vector<JobCandidate>& candidates) {
  std::vector<Candidate> out;
  out.reserve(candidates.size());
  for (const JobCandidate& candidate : candidates) out.push_back(candidate.measured);
  return out;
}

// Whether no candidate so far was kept and none follows.
absl::StatusOr<bool> NothingWillBeKept(const TaskInput& input) {
  for (const TaskRecord& task : input.tasks) {
    if (task.stage == TaskStage::kEvaluate && task.round > input.task.round) return false;
  }
  ASSIGN_OR_RETURN(const std::vector<JobCandidate> candidates, CandidatesOf(input.tasks));
  return std::all_of(candidates.begin(), candidates.end(), [](const JobCandidate& c) { return c.artifact.empty(); });
}

// Where the list of candidates is fixed, no two of them share a tensor, so what was made for this one is not needed any
// more unless a probe will read it. A kept artifact refers to its files itself.
absl::StatusOr<std::vector<int32_t>> SpentTasks(const TaskInput& input, const JobCandidate& candidate) {
  std::vector<int32_t> spent = candidate.tasks;
  for (const TaskRecord& task : input.tasks) {
    if (task.stage < TaskStage::kAssemble) continue;
    ASSIGN_OR_RETURN(const TaskSpec spec, TaskSpecOf(task));
    if (spec.candidate != candidate.index) continue;
    if (task.stage == TaskStage::kProbe) return std::vector<int32_t>();
    if (task.index != input.task.index) spent.push_back(task.index);
  }
  return spent;
}

}  // namespace

absl::StatusOr<TaskOutcome> CoreTaskRunner::CompareShard(const TaskInput& input, const TaskSpec& spec, ThreadPool& pool,
                                                         ProgressFn progress) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(spec.checkpoint));
  ASSIGN_OR_RETURN(const Prepared prepared, PreparedOf(input, spec.checkpoint));
  ASSIGN_OR_RETURN(const BaseReference reference, ReadReference(catalog_.blobs(), input, prepared, spec.checkpoint,
                                                                spec.part, checkpoint->config().hidden_size));
  std::vector<FileRecord> files;
  if (input.spec.kind == JobKind::kEvaluate) {
    ASSIGN_OR_RETURN(const ArtifactRecord artifact, catalog_.GetArtifact(input.spec.artifact));
    files = artifact.files;
  } else {
    ASSIGN_OR_RETURN(files, AssembledFiles(input.tasks, spec.candidate));
  }
  ASSIGN_OR_RETURN(const FileSet set, catalog_.FileSetOf(fmt::format("artifact of job {}", input.job.id), files));
  ASSIGN_OR_RETURN(const auto model, Model::Load(set));
  ASSIGN_OR_RETURN(const WindowComparisons compared, CompareWindows(*checkpoint, reference, *model, pool, progress));
  ASSIGN_OR_RETURN(const BlobInfo blob, KeepComparisons(catalog_.blobs(), compared));
  TaskOutcome outcome;
  outcome.blobs = {blob.digest};
  return outcome;
}

absl::StatusOr<QualityReport> CoreTaskRunner::Measured(const TaskInput& input, const TaskSpec& spec) {
  ASSIGN_OR_RETURN(const Prepared prepared, PreparedOf(input, spec.checkpoint));
  ASSIGN_OR_RETURN(const WindowComparisons windows,
                   ReadComparisons(catalog_.blobs(), input, prepared, spec.checkpoint, spec.candidate));
  QualityReport quality = Summarize(windows);
  quality.text_source = prepared.evaluation.source;
  quality.chat_template = prepared.evaluation.chat_template;
  quality.text_digest = prepared.evaluation.tokens_digest;
  return quality;
}

absl::StatusOr<ArtifactRecord> CoreTaskRunner::FinishArtifact(const TaskInput& input, const JobCandidate& candidate,
                                                              std::vector<std::string>& blobs) {
  const QuantizeSpec& spec = candidate.measured.spec;
  const QualityReport& quality = candidate.measured.quality;
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(candidate.checkpoint));
  ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantization(*checkpoint, spec, 1));
  ASSIGN_OR_RETURN(const CandidateInputs inputs, InputsOf(catalog_.blobs(), input, candidate.checkpoint, plan, spec));
  ASSIGN_OR_RETURN(std::vector<FileRecord> files, AssembledFiles(input.tasks, candidate.index));
  auto add = [&](const std::string& name, const std::string& content) -> absl::Status {
    ASSIGN_OR_RETURN(const BlobInfo blob, catalog_.blobs().CommitBytes(content));
    std::erase_if(files, [&](const FileRecord& file) { return file.name == name; });
    files.push_back({.name = name, .sha256 = blob.digest, .size_bytes = content.size()});
    blobs.push_back(blob.digest);
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(add("report.json", ReportJson(spec, plan, inputs.artifact, quality)));
  RETURN_IF_ERROR(add("README.md", ModelCard(*checkpoint, spec, plan, inputs.artifact, quality)));
  std::sort(files.begin(), files.end(), [](const FileRecord& a, const FileRecord& b) { return a.name < b.name; });
  ArtifactRecord artifact;
  artifact.display_name = input.job.display_name;
  artifact.checkpoint = candidate.checkpoint;
  artifact.architecture = ArchitectureName(checkpoint->config().architecture);
  artifact.codec = CodecName(spec.codec);
  artifact.bpw = plan.bpw;
  for (const FileRecord& file : files) artifact.size_bytes += file.size_bytes;
  artifact.quality_json = QualityReportToJson(quality);
  artifact.tensors_json = TensorOutcomesToJson(inputs.artifact.outcomes);
  artifact.digest = Sha256Hex(ManifestJson(files));
  artifact.files = std::move(files);
  return artifact;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Evaluate(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  ASSIGN_OR_RETURN(const TaskSpec spec, SpecOf(input));
  if (spec.kind == TaskPart::kComparison) return CompareShard(input, spec, pool, progress);
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(spec.checkpoint));
  TaskOutcome outcome;
  if (input.spec.kind == JobKind::kEvaluate) {
    ASSIGN_OR_RETURN(outcome.quality, Measured(input, spec));
    return outcome;
  }
  if (!spec.quantize) {
    return DataLoss("STORE_CORRUPT", "the spec of task {} of job {} has no method", input.task.index, input.job.id);
  }
  ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantization(*checkpoint, *spec.quantize, 1));
  ASSIGN_OR_RETURN(const CandidateInputs inputs,
                   InputsOf(catalog_.blobs(), input, spec.checkpoint, plan, *spec.quantize));
  JobCandidate candidate{.index = spec.candidate, .checkpoint = spec.checkpoint, .measured = {}, .tasks = inputs.tasks};
  candidate.measured = {.spec = *spec.quantize, .bpw = plan.bpw, .artifact_bytes = plan.artifact_bytes, .quality = {}};
  ASSIGN_OR_RETURN(candidate.measured.quality, Measured(input, spec));
  outcome.quality = candidate.measured.quality;
  if (input.spec.target.any()) {
    RETURN_IF_ERROR(Search(input, std::move(candidate), outcome));
  } else {
    RETURN_IF_ERROR(KeepOrDrop(input, std::move(candidate), outcome));
  }
  return outcome;
}

absl::Status CoreTaskRunner::KeepOrDrop(const TaskInput& input, JobCandidate candidate, TaskOutcome& outcome) {
  const absl::Status gate = QualityGate(candidate.measured.quality, input.spec.max_kl);
  const bool single = !HasRounds(input.spec);
  const bool drop = input.spec.kind == JobKind::kStudy || input.spec.curve_only;
  if (!gate.ok()) {
    candidate.note = MessageOf(gate);
    ASSIGN_OR_RETURN(const bool none, NothingWillBeKept(input));
    if (single || (none && !drop)) outcome.gate = gate;
  } else if (drop) {
    candidate.note = "measured only";
  } else {
    ASSIGN_OR_RETURN(outcome.artifact, FinishArtifact(input, candidate, outcome.blobs));
    candidate.artifact = outcome.artifact->digest;
  }
  if (!single) {
    ASSIGN_OR_RETURN(outcome.spent_tasks, SpentTasks(input, candidate));
  }
  outcome.candidate = CandidateToJson(candidate);
  return absl::OkStatus();
}

absl::Status CoreTaskRunner::Search(const TaskInput& input, JobCandidate candidate, TaskOutcome& outcome) {
  ASSIGN_OR_RETURN(std::vector<JobCandidate> candidates, CandidatesOf(input.tasks));
  candidates.push_back(candidate);
  const RateTarget& target = input.spec.target;
  const SearchStep step = NextStep(target, RatesOf(input.spec.quantize.codec), MeasuredOf(candidates));
  candidate.note = step.why;
  const JobCandidate& from = candidates[step.from];
  switch (step.kind) {
    case SearchStep::Kind::kUniform: {
      QuantizeSpec next = input.spec.quantize;
      next.bpw = step.bpw;
      ASSIGN_OR_RETURN(outcome.next_tasks, CandidateTasks(input, next));
      break;
    }
    case SearchStep::Kind::kMix: {
      ASSIGN_OR_RETURN(outcome.next_tasks, MixTasks(input, step, from));
      break;
    }
    case SearchStep::Kind::kInfeasible:
      outcome.quality = from.measured.quality;
      outcome.gate = TargetGate(target, step, from.measured);
      break;
    case SearchStep::Kind::kAccept:
      outcome.quality = from.measured.quality;
      outcome.gate = QualityGate(from.measured.quality, input.spec.max_kl);
      if (!outcome.gate.ok()) break;
      ASSIGN_OR_RETURN(outcome.artifact, FinishArtifact(input, from, outcome.blobs));
      if (from.index == candidate.index) candidate.artifact = outcome.artifact->digest;
      break;
  }
  outcome.candidate = CandidateToJson(candidate);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TaskRecord>> CoreTaskRunner::CandidateTasks(const TaskInput& input,
                                                                       const QuantizeSpec& spec) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(input.job.checkpoint));
  ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantization(*checkpoint, spec, 1));
  TaskList tasks(input.spec, input.tasks);
  tasks.AddCandidate(*checkpoint, input.job.checkpoint, plan, spec);
  return tasks.Take();
}

absl::StatusOr<std::vector<TaskRecord>> CoreTaskRunner::MixTasks(const TaskInput& input, const SearchStep& step,
                                                                 const JobCandidate& from) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(input.job.checkpoint));
  ASSIGN_OR_RETURN(const std::vector<double> losses, SensitivitiesOf(input.tasks, from.index));
  if (losses.empty()) {
    TaskList tasks(input.spec, input.tasks);
    tasks.AddProbes(*checkpoint, input.job.checkpoint, from.index, /*allocate=*/true);
    return tasks.Take();
  }
  ASSIGN_OR_RETURN(const QuantizeSpec mix, BestMix(*checkpoint, from.measured.spec, step.limit, losses));
  return CandidateTasks(input, mix);
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Probe(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  ASSIGN_OR_RETURN(const TaskSpec spec, SpecOf(input));
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(spec.checkpoint));
  ASSIGN_OR_RETURN(const Prepared prepared, PreparedOf(input, spec.checkpoint));
  // What is held out stays so, where there is anything else.
  const bool calibrated = !prepared.calibration.blob.empty();
  ASSIGN_OR_RETURN(TokenWindows windows,
                   ReadWindows(catalog_.blobs(), calibrated ? prepared.calibration : prepared.evaluation));
  if (windows.size() > kProbeWindows) windows.resize(kProbeWindows);
  for (auto& window : windows) window.resize(std::min<size_t>(window.size(), kProbeWindowTokens));
  ASSIGN_OR_RETURN(const std::vector<FileRecord> files, AssembledFiles(input.tasks, spec.candidate));
  ASSIGN_OR_RETURN(const FileSet set, catalog_.FileSetOf(fmt::format("artifact of job {}", input.job.id), files));
  ASSIGN_OR_RETURN(const auto artifact, ArtifactReader::Open(set));
  ASSIGN_OR_RETURN(const std::vector<double> kl,
                   ProbeBlock(*checkpoint, *artifact, spec.part, windows, pool, progress));
  TaskOutcome outcome;
  outcome.json = json{{"kl", kl}}.dump();
  return outcome;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Allocate(const TaskInput& input, ThreadPool&, ProgressFn) {
  ASSIGN_OR_RETURN(const std::vector<JobCandidate> candidates, CandidatesOf(input.tasks));
  const SearchStep step = NextStep(input.spec.target, RatesOf(input.spec.quantize.codec), MeasuredOf(candidates));
  if (step.kind != SearchStep::Kind::kMix) {
    return Internal("SEARCH", "job {} probed its tensors, but the search does not want a mix", input.job.id);
  }
  TaskOutcome outcome;
  ASSIGN_OR_RETURN(outcome.next_tasks, MixTasks(input, step, candidates[step.from]));
  return outcome;
}

}  // namespace qamserve
