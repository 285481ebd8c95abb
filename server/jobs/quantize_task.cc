// The bodies of the tasks, on the core's functions.
#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/file.h"
#include "core/model/model.h"
#include "server/jobs/task_runner.h"
#include "server/jobs/windows_per_shard.h"

namespace qamserve {
namespace {

using nlohmann::json;
using Windows = std::vector<std::vector<int32_t>>;

static_assert(std::endian::native == std::endian::little, "blobs of tokens are little-endian");

// Two texts of the model's own, so that it is not measured on what it was calibrated on.
constexpr uint64_t kCalibrationSampleSeed = 1;
constexpr uint64_t kEvaluationSampleSeed = 2;

// What the prepare task leaves for the others: the tokens are a blob.
struct PreparedText {
  std::string source = "none";  // "text", "own samples"
  std::string tokens_digest;    // TokensDigest
  std::string blob;
  int32_t window_tokens = 0;
};

json ToJson(const PreparedText& text) {
  return {{"source", text.source},
          {"tokens_digest", text.tokens_digest},
          {"blob", text.blob},
          {"window_tokens", text.window_tokens}};
}

PreparedText PreparedFromJson(const json& j) {
  return {.source = j.at("source").get<std::string>(),
          .tokens_digest = j.at("tokens_digest").get<std::string>(),
          .blob = j.at("blob").get<std::string>(),
          .window_tokens = j.at("window_tokens").get<int32_t>()};
}

// Runs `fn`, which reads JSON that another task of this job wrote.
template <typename T, typename Fn>
absl::StatusOr<T> ReadOutcome(const TaskRecord& task, Fn fn) {
  ASSIGN_OR_RETURN(const TaskOutcome outcome, DecodeOutcome(task));
  try {
    return fn(json::parse(outcome.json));
  } catch (const json::exception& error) {
    return DataLoss("STORE_CORRUPT", "the outcome of task {} ({}) of job {} cannot be read: {}", task.index, task.name,
                    task.job, error.what());
  }
}

absl::StatusOr<PreparedText> Prepared(const TaskInput& input, const char* which) {
  // The prepare task is the first one of every job.
  return ReadOutcome<PreparedText>(input.tasks.front(), [&](const json& j) { return PreparedFromJson(j.at(which)); });
}

absl::StatusOr<int> PartOf(const TaskRecord& task) {
  const json j = json::parse(task.spec_json, nullptr, false);
  if (!j.is_object() || !j.contains("part") || !j["part"].is_number_integer()) {
    return DataLoss("STORE_CORRUPT", "the spec of task {} ({}) of job {} cannot be read", task.index, task.name,
                    task.job);
  }
  return j["part"].get<int>();
}

absl::StatusOr<PreparedText> KeepWindows(BlobStore& blobs, const Windows& windows, std::string source) {
  PreparedText text{.source = std::move(source),
                    .tokens_digest = TokensDigest(windows),
                    .blob = "",
                    .window_tokens = static_cast<int32_t>(windows.front().size())};
  std::string bytes;
  for (const auto& window : windows) {
    bytes.append(reinterpret_cast<const char*>(window.data()), window.size() * sizeof(int32_t));
  }
  ASSIGN_OR_RETURN(const BlobInfo blob, blobs.CommitBytes(bytes));
  text.blob = blob.digest;
  return text;
}

absl::StatusOr<Windows> ReadWindows(BlobStore& blobs, const PreparedText& text) {
  ASSIGN_OR_RETURN(const uint64_t size, blobs.Size(text.blob));
  const size_t stride = static_cast<size_t>(text.window_tokens) * sizeof(int32_t);
  if (stride == 0 || size % stride != 0) {
    return DataLoss("STORE_CORRUPT", "blob {} of {} bytes does not hold windows of {} tokens", text.blob, size,
                    text.window_tokens);
  }
  Windows windows(size / stride);
  for (size_t i = 0; i < windows.size(); ++i) {
    windows[i].resize(static_cast<size_t>(text.window_tokens));
    RETURN_IF_ERROR(blobs.Read(text.blob, i * stride, std::as_writable_bytes(std::span(windows[i]))));
  }
  return windows;
}

json FilesToJson(const std::vector<FileRecord>& files) {
  json list = json::array();
  for (const FileRecord& file : files) {
    list.push_back({{"name", file.name}, {"sha256", file.sha256}, {"size_bytes", file.size_bytes}});
  }
  return list;
}

absl::StatusOr<std::vector<FileRecord>> AssembledFiles(const TaskInput& input) {
  for (const TaskRecord& task : input.tasks) {
    if (task.stage != TaskStage::kAssemble) continue;
    return ReadOutcome<std::vector<FileRecord>>(task, [](const json& j) {
      std::vector<FileRecord> files;
      for (const json& file : j.at("files")) {
        files.push_back({.name = file.at("name").get<std::string>(),
                         .sha256 = file.at("sha256").get<std::string>(),
                         .size_bytes = file.at("size_bytes").get<uint64_t>()});
      }
      return files;
    });
  }
  return Internal("TASK_MISSING", "job {} has no assemble task", input.job.id);
}

// Blobs of all tasks of a stage, in order of index, as paths.
absl::StatusOr<std::vector<std::string>> PathsOf(BlobStore& blobs, const TaskInput& input, TaskStage stage) {
  std::vector<std::string> paths;
  for (const TaskRecord& task : input.tasks) {
    if (task.stage != stage) continue;
    if (task.blobs.size() != 1) {
      return DataLoss("STORE_CORRUPT", "task {} ({}) of job {} has {} blobs instead of 1", task.index, task.name,
                      task.job, task.blobs.size());
    }
    ASSIGN_OR_RETURN(std::string path, blobs.LocalPath(task.blobs.front()));
    paths.push_back(std::move(path));
  }
  return paths;
}

// Everything that AssembleArtifact and the report say of how the artifact was made.
absl::StatusOr<ArtifactInputs> InputsOf(BlobStore& blobs, const TaskInput& input) {
  ArtifactInputs inputs;
  ASSIGN_OR_RETURN(inputs.packed, PathsOf(blobs, input, TaskStage::kQuantize));
  for (const TaskRecord& task : input.tasks) {
    if (task.stage != TaskStage::kQuantize) continue;
    ASSIGN_OR_RETURN(TaskOutcome outcome, DecodeOutcome(task));
    if (!outcome.tensor) return DataLoss("STORE_CORRUPT", "task {} of job {} has no numbers", task.index, task.job);
    inputs.outcomes.push_back(*std::move(outcome.tensor));
  }
  ASSIGN_OR_RETURN(const PreparedText calibration, Prepared(input, "calibration"));
  inputs.display_name = input.job.display_name;
  inputs.checkpoint_digest = input.job.checkpoint;
  inputs.calibration_source = calibration.source;
  inputs.calibration_digest = calibration.tokens_digest;
  return inputs;
}

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

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> CoreTaskRunner::OpenTokenizer(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const TokenizerFiles files, ReadTokenizerFiles(checkpoint.files()));
  return Tokenizer::Create(files, checkpoint.origin());
}

absl::StatusOr<Windows> CoreTaskRunner::TextWindows(const Tokenizer& tokenizer, const TextSelection& selection,
                                                    int64_t skip_tokens) {
  ASSIGN_OR_RETURN(const std::string text, catalog_.ReadText(selection.text));
  std::vector<int32_t> tokens = tokenizer.Encode(text, EncodeOptions{});
  tokens.erase(tokens.begin(), tokens.begin() + std::min<int64_t>(skip_tokens, static_cast<int64_t>(tokens.size())));
  // Models that were trained with BOS in front are measured with it in front.
  std::optional<int32_t> bos;
  if (!tokenizer.Encode("", EncodeOptions{.add_special = true, .parse_special = false}).empty()) {
    bos = tokenizer.bos_id();
  }
  auto windows = CutWindows(tokens, selection.windows, selection.window_tokens, bos);
  if (windows.ok()) return windows;
  return Annotate(
      windows.status(),
      fmt::format(
          "text {}{}", selection.text,
          skip_tokens > 0 ? fmt::format(", behind the {} tokens that are used for evaluation", skip_tokens) : ""));
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Prepare(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(input.job.checkpoint));
  ASSIGN_OR_RETURN(const auto tokenizer, OpenTokenizer(*checkpoint));
  const TextSelection& evaluation = input.spec.evaluation;
  const TextSelection& calibration = input.spec.calibration;
  const bool calibrates = input.spec.kind == JobKind::kQuantize && NeedsStatistics(input.spec.quantize);
  const int texts = calibrates ? 2 : 1;

  std::shared_ptr<const Model> model;
  auto windows_of = [&](const TextSelection& selection, int64_t skip, uint64_t seed,
                        int nth) -> absl::StatusOr<PreparedText> {
    auto part = [&](double fraction) { return progress((nth + fraction) / texts); };
    if (!selection.text.empty()) {
      ASSIGN_OR_RETURN(const Windows windows, TextWindows(*tokenizer, selection, skip));
      RETURN_IF_ERROR(part(1));
      return KeepWindows(catalog_.blobs(), windows, "text");
    }
    if (model == nullptr) {
      ASSIGN_OR_RETURN(model, Model::Load(checkpoint->files()));
    }
    // Without BOS, what ends a text is the best beginning of the next.
    int32_t first = 0;
    if (!tokenizer->stop_ids().empty()) first = tokenizer->stop_ids().front();
    if (tokenizer->bos_id()) first = *tokenizer->bos_id();
    ASSIGN_OR_RETURN(const Windows windows,
                     SampleWindows(*model, first, selection.windows, selection.window_tokens, seed, pool, part));
    return KeepWindows(catalog_.blobs(), windows, "own samples");
  };

  ASSIGN_OR_RETURN(const PreparedText measured, windows_of(evaluation, 0, kEvaluationSampleSeed, 0));
  PreparedText calibrated;
  if (calibrates) {
    // Of one text both use different parts.
    const int64_t skip =
        calibration.text == evaluation.text ? int64_t{evaluation.windows} * evaluation.window_tokens : 0;
    ASSIGN_OR_RETURN(calibrated, windows_of(calibration, skip, kCalibrationSampleSeed, 1));
  }
  TaskOutcome outcome;
  outcome.json = json{{"evaluation", ToJson(measured)}, {"calibration", ToJson(calibrated)}}.dump();
  outcome.blobs.push_back(measured.blob);
  if (!calibrated.blob.empty()) outcome.blobs.push_back(calibrated.blob);
  return outcome;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Calibrate(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(input.job.checkpoint));
  ASSIGN_OR_RETURN(const PreparedText text, Prepared(input, "calibration"));
  ASSIGN_OR_RETURN(const Windows windows, ReadWindows(catalog_.blobs(), text));
  ASSIGN_OR_RETURN(const int shard, PartOf(input.task));
  const std::string path = input.work_dir + "/statistics";
  RETURN_IF_ERROR(CalibrateShard(*checkpoint, input.spec.quantize, ShardOf(windows, shard), pool, progress, path));
  ASSIGN_OR_RETURN(const BlobInfo blob, catalog_.blobs().CommitFile(path));
  TaskOutcome outcome;
  outcome.blobs = {blob.digest};
  return outcome;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Quantize(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  ASSIGN_OR_RETURN(const auto quantizer, OpenQuantizer(input.job.checkpoint, input.spec.quantize));
  ASSIGN_OR_RETURN(const int part, PartOf(input.task));
  const size_t tensors = quantizer->plan().tensors.size();
  if (part < 0 || static_cast<size_t>(part) >= tensors) {
    return DataLoss("STORE_CORRUPT", "task {} of job {} names tensor {} of {}", input.task.index, input.job.id, part,
                    tensors);
  }
  ASSIGN_OR_RETURN(const auto statistics, PathsOf(catalog_.blobs(), input, TaskStage::kCalibrate));
  const std::string path = input.work_dir + "/packed";
  ASSIGN_OR_RETURN(TensorOutcome tensor,
                   quantizer->QuantizeTensor(static_cast<size_t>(part), statistics, pool, progress, path));
  ASSIGN_OR_RETURN(const BlobInfo blob, catalog_.blobs().CommitFile(path));
  TaskOutcome outcome;
  outcome.blobs = {blob.digest};
  outcome.tensor = std::move(tensor);
  return outcome;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Assemble(const TaskInput& input, ThreadPool&, ProgressFn progress) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(input.job.checkpoint));
  // One thread: the plan's only use of it is an estimate, which must not reach the artifact.
  ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantization(*checkpoint, input.spec.quantize, 1));
  ASSIGN_OR_RETURN(const ArtifactInputs inputs, InputsOf(catalog_.blobs(), input));
  RETURN_IF_ERROR(catalog_.blobs().CheckSpace(static_cast<uint64_t>(plan.artifact_bytes)));
  const std::string folder = input.work_dir + "/artifact";
  RETURN_IF_ERROR(AssembleArtifact(*checkpoint, input.spec.quantize, plan, inputs, progress, folder));
  ASSIGN_OR_RETURN(const std::vector<FileRecord> files, catalog_.CommitFolder(folder));
  TaskOutcome outcome;
  outcome.json = json{{"files", FilesToJson(files)}}.dump();
  for (const FileRecord& file : files) outcome.blobs.push_back(file.sha256);
  return outcome;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Evaluate(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  const bool quantizes = input.spec.kind == JobKind::kQuantize;
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(input.job.checkpoint));
  ASSIGN_OR_RETURN(const PreparedText text, Prepared(input, "evaluation"));
  ASSIGN_OR_RETURN(const Windows windows, ReadWindows(catalog_.blobs(), text));
  std::vector<FileRecord> files;
  if (quantizes) {
    ASSIGN_OR_RETURN(files, AssembledFiles(input));
  } else {
    ASSIGN_OR_RETURN(const ArtifactRecord artifact, catalog_.GetArtifact(input.spec.artifact));
    files = artifact.files;
  }
  ASSIGN_OR_RETURN(const FileSet set, catalog_.FileSetOf(fmt::format("artifact of job {}", input.job.id), files));
  ASSIGN_OR_RETURN(const auto model, Model::Load(set));
  TaskOutcome outcome;
  ASSIGN_OR_RETURN(outcome.quality, qamserve::Evaluate(*checkpoint, *model, windows, pool, progress));
  outcome.quality->text_source = text.source;
  outcome.quality->text_digest = text.tokens_digest;
  if (!quantizes) return outcome;
  outcome.gate = QualityGate(*outcome.quality, input.spec.max_kl);
  if (!outcome.gate.ok()) return outcome;

  ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantization(*checkpoint, input.spec.quantize, 1));
  ASSIGN_OR_RETURN(const ArtifactInputs inputs, InputsOf(catalog_.blobs(), input));
  const QuantizeSpec& spec = input.spec.quantize;
  for (const auto& [name, content] :
       {std::pair<std::string, std::string>{"report.json", ReportJson(spec, plan, inputs, *outcome.quality)},
        {"README.md", ModelCard(*checkpoint, spec, plan, inputs, *outcome.quality)}}) {
    ASSIGN_OR_RETURN(const BlobInfo blob, catalog_.blobs().CommitBytes(content));
    std::erase_if(files, [&](const FileRecord& file) { return file.name == name; });
    files.push_back({.name = name, .sha256 = blob.digest, .size_bytes = content.size()});
    outcome.blobs.push_back(blob.digest);
  }
  std::sort(files.begin(), files.end(), [](const FileRecord& a, const FileRecord& b) { return a.name < b.name; });
  ArtifactRecord artifact;
  artifact.display_name = input.job.display_name;
  artifact.checkpoint = input.job.checkpoint;
  artifact.architecture = ArchitectureName(checkpoint->config().architecture);
  artifact.codec = CodecName(spec.codec);
  artifact.bpw = plan.bpw;
  for (const FileRecord& file : files) artifact.size_bytes += file.size_bytes;
  artifact.quality_json = QualityReportToJson(*outcome.quality);
  artifact.tensors_json = TensorOutcomesToJson(inputs.outcomes);
  artifact.files = std::move(files);
  outcome.artifact = std::move(artifact);
  return outcome;
}

}  // namespace qamserve
