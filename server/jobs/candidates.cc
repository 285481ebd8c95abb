#include "server/jobs/candidates.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "server/jobs/task_runner.h"
#include "server/jobs/task_spec.h"

namespace qamserve {
namespace {

using nlohmann::json;

// Runs `fn`, which reads JSON that a task of this program wrote.
template <typename T, typename Fn>
absl::StatusOr<T> ReadWritten(const TaskRecord& task, const std::string& text, Fn fn) {
  try {
    return fn(json::parse(text));
  } catch (const json::exception& error) {
    return DataLoss("STORE_CORRUPT", "the outcome of task {} ({}) of job {} cannot be read: {}", task.index, task.name,
                    task.job, error.what());
  }
}

absl::StatusOr<JobCandidate> CandidateFromJson(const json& j) {
  JobCandidate out;
  out.index = j.at("candidate").get<int32_t>();
  out.checkpoint = j.at("checkpoint").get<std::string>();
  ASSIGN_OR_RETURN(out.measured.spec, QuantizeSpecFromJson(j.at("quantize").dump()));
  out.measured.bpw = j.at("bpw").get<double>();
  out.measured.artifact_bytes = j.at("artifact_bytes").get<int64_t>();
  ASSIGN_OR_RETURN(out.measured.quality, QualityReportFromJson(j.at("quality").dump()));
  out.artifact = j.at("artifact").get<std::string>();
  out.note = j.at("note").get<std::string>();
  j.at("tasks").get_to(out.tasks);
  return out;
}

// By the tensors' ideal distortion instead of the measured one.
absl::Status PredictOutputError(const std::vector<TaskRecord>& tasks, const JobCandidate& candidate, StudyRow& row) {
  double weights = 0, ideal = 0, output_error = 0;
  for (size_t i = 0; i < row.tensors.size(); ++i) {
    const TensorOutcome& tensor = row.tensors[i];
    ASSIGN_OR_RETURN(const TaskSpec spec, TaskSpecOf(tasks[static_cast<size_t>(candidate.tasks[i])]));
    if (!spec.quantize) return absl::OkStatus();
    const double distortion = IdealDistortion(spec.quantize->codec, spec.quantize->bpw);
    if (distortion == 0 || tensor.distortion == 0) return absl::OkStatus();
    const auto n = static_cast<double>(tensor.rows * tensor.cols);
    weights += n;
    ideal += n * distortion;
    output_error += tensor.output_error * distortion / tensor.distortion;
  }
  row.ideal_distortion = weights > 0 ? ideal / weights : 0;
  row.predicted_output_error = output_error;
  return absl::OkStatus();
}

// KL as the sum over tensors of what each was found to cost, in proportion to their output errors. Errors that were fed
// back are measured otherwise than errors that were not, so only probes of the same kind count.
absl::Status PredictKl(const std::vector<TaskRecord>& tasks, const std::vector<JobCandidate>& candidates,
                       StudyRow& row) {
  for (const JobCandidate& probed : candidates) {
    if (probed.checkpoint != row.checkpoint || probed.measured.spec.error_feedback != row.spec.error_feedback) continue;
    ASSIGN_OR_RETURN(const std::vector<double> sensitivities, SensitivitiesOf(tasks, probed.index));
    if (sensitivities.size() != row.tensors.size()) continue;
    ASSIGN_OR_RETURN(const std::vector<TensorOutcome> tensors, TensorsOf(tasks, probed));
    double kl = 0;
    for (size_t i = 0; i < row.tensors.size(); ++i) {
      if (tensors[i].output_error <= 0) return absl::OkStatus();
      kl += std::max(0.0, sensitivities[i]) * row.tensors[i].output_error / tensors[i].output_error;
    }
    row.predicted_kl = kl;
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace

std::string CandidateToJson(const JobCandidate& candidate) {
  return json{{"candidate", candidate.index},
              {"checkpoint", candidate.checkpoint},
              {"quantize", json::parse(QuantizeSpecToJson(candidate.measured.spec))},
              {"bpw", candidate.measured.bpw},
              {"artifact_bytes", candidate.measured.artifact_bytes},
              {"quality", json::parse(QualityReportToJson(candidate.measured.quality))},
              {"artifact", candidate.artifact},
              {"note", candidate.note},
              {"tasks", candidate.tasks}}
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<std::vector<JobCandidate>> CandidatesOf(const std::vector<TaskRecord>& tasks) {
  std::vector<JobCandidate> out;
  for (const TaskRecord& task : tasks) {
    if (task.stage != TaskStage::kEvaluate || task.state != TaskState::kDone) continue;
    ASSIGN_OR_RETURN(const TaskOutcome outcome, DecodeOutcome(task));
    // Evaluate jobs have no candidates, nor do jobs of earlier versions.
    if (outcome.candidate.empty()) continue;
    ASSIGN_OR_RETURN(out.emplace_back(), ReadWritten<JobCandidate>(task, outcome.candidate, CandidateFromJson));
  }
  std::sort(out.begin(), out.end(), [](const JobCandidate& a, const JobCandidate& b) { return a.index < b.index; });
  return out;
}

absl::StatusOr<std::vector<TensorOutcome>> TensorsOf(const std::vector<TaskRecord>& tasks,
                                                     const JobCandidate& candidate) {
  std::vector<TensorOutcome> out;
  for (int32_t index : candidate.tasks) {
    if (index < 0 || static_cast<size_t>(index) >= tasks.size()) {
      return DataLoss("STORE_CORRUPT", "candidate {} names task {} of {}", candidate.index, index, tasks.size());
    }
    ASSIGN_OR_RETURN(TaskOutcome outcome, DecodeOutcome(tasks[static_cast<size_t>(index)]));
    if (!outcome.tensor)
      return DataLoss("STORE_CORRUPT", "task {} of candidate {} has no numbers", index, candidate.index);
    out.push_back(*std::move(outcome.tensor));
  }
  return out;
}

absl::StatusOr<std::vector<double>> SensitivitiesOf(const std::vector<TaskRecord>& tasks, int32_t from) {
  std::vector<double> out;
  for (const TaskRecord& task : tasks) {
    if (task.stage != TaskStage::kProbe) continue;
    ASSIGN_OR_RETURN(const TaskSpec spec, TaskSpecOf(task));
    if (spec.candidate != from) continue;
    if (task.state != TaskState::kDone) return std::vector<double>();
    ASSIGN_OR_RETURN(const TaskOutcome outcome, DecodeOutcome(task));
    auto read = [](const json& j) { return j.at("kl").get<std::vector<double>>(); };
    ASSIGN_OR_RETURN(const std::vector<double> kl, ReadWritten<std::vector<double>>(task, outcome.json, read));
    out.insert(out.end(), kl.begin(), kl.end());
  }
  return out;
}

absl::StatusOr<Study> StudyOf(const std::string& display_name, const std::vector<TaskRecord>& tasks,
                              const std::map<std::string, std::string>& names) {
  Study study;
  study.display_name = display_name;
  ASSIGN_OR_RETURN(const std::vector<JobCandidate> candidates, CandidatesOf(tasks));
  for (const JobCandidate& candidate : candidates) {
    StudyRow& row = study.rows.emplace_back();
    const auto name = names.find(candidate.checkpoint);
    row.model = name == names.end() ? candidate.checkpoint.substr(0, 12) : name->second;
    row.checkpoint = candidate.checkpoint;
    row.method = MethodName(candidate.measured.spec);
    row.spec = candidate.measured.spec;
    row.bpw = candidate.measured.bpw;
    row.artifact_bytes = candidate.measured.artifact_bytes;
    row.quality = candidate.measured.quality;
    ASSIGN_OR_RETURN(row.tensors, TensorsOf(tasks, candidate));
    for (const TensorOutcome& tensor : row.tensors) row.output_error += tensor.output_error;
    for (int32_t index : candidate.tasks) row.quantize_seconds += tasks[static_cast<size_t>(index)].seconds;
    RETURN_IF_ERROR(PredictOutputError(tasks, candidate, row));
    RETURN_IF_ERROR(PredictKl(tasks, candidates, row));
  }
  return study;
}

}  // namespace qamserve
