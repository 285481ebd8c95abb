// Quantize and assemble: from a checkpoint and statistics to the folder of an artifact.
#include "server/jobs/task_inputs.h"

namespace qamserve {
namespace {

absl::Status SpecMissing(const TaskRecord& task) {
  return DataLoss("STORE_CORRUPT", "the spec of task {} ({}) of job {} has no method", task.index, task.name, task.job);
}

}  // namespace

absl::StatusOr<TaskOutcome> CoreTaskRunner::Quantize(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  ASSIGN_OR_RETURN(const TaskSpec spec, SpecOf(input));
  if (!spec.quantize) return SpecMissing(input.task);
  ASSIGN_OR_RETURN(const auto quantizer, OpenQuantizer(spec.checkpoint, *spec.quantize));
  const size_t tensors = quantizer->plan().tensors.size();
  if (spec.part < 0 || static_cast<size_t>(spec.part) >= tensors) {
    return DataLoss("STORE_CORRUPT", "task {} of job {} names tensor {} of {}", input.task.index, input.job.id,
                    spec.part, tensors);
  }
  ASSIGN_OR_RETURN(const auto statistics, StatisticsOf(catalog_.blobs(), input, spec.checkpoint));
  const std::string path = input.work_dir + "/packed";
  ASSIGN_OR_RETURN(TensorOutcome tensor,
                   quantizer->QuantizeTensor(static_cast<size_t>(spec.part), statistics, pool, progress, path));
  ASSIGN_OR_RETURN(const BlobInfo blob, catalog_.blobs().CommitFile(path));
  TaskOutcome outcome;
  outcome.blobs = {blob.digest};
  outcome.tensor = std::move(tensor);
  return outcome;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Assemble(const TaskInput& input, ThreadPool&, ProgressFn progress) {
  ASSIGN_OR_RETURN(const TaskSpec spec, SpecOf(input));
  if (!spec.quantize) return SpecMissing(input.task);
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(spec.checkpoint));
  // One thread: the plan's only use of it is an estimate, which must not reach the artifact.
  ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantization(*checkpoint, *spec.quantize, 1));
  ASSIGN_OR_RETURN(const CandidateInputs inputs,
                   InputsOf(catalog_.blobs(), input, spec.checkpoint, plan, *spec.quantize));
  RETURN_IF_ERROR(catalog_.blobs().CheckSpace(static_cast<uint64_t>(plan.artifact_bytes)));
  const std::string folder = input.work_dir + "/artifact";
  RETURN_IF_ERROR(AssembleArtifact(*checkpoint, *spec.quantize, plan, inputs.artifact, progress, folder));
  ASSIGN_OR_RETURN(const std::vector<FileRecord> files, catalog_.CommitFolder(folder));
  TaskOutcome outcome;
  outcome.json = FilesToJson(files);
  for (const FileRecord& file : files) outcome.blobs.push_back(file.sha256);
  return outcome;
}

}  // namespace qamserve
