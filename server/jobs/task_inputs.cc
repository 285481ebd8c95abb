#include "server/jobs/task_inputs.h"

#include <bit>
#include <map>
#include <nlohmann/json.hpp>

#include "server/jobs/windows_per_shard.h"

namespace qamserve {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "blobs of tokens and states are little-endian");

json ToJson(const PreparedText& text) {
  return {{"source", text.source},
          {"chat_template", text.chat_template},
          {"tokens_digest", text.tokens_digest},
          {"blob", text.blob},
          {"window_tokens", text.window_tokens}};
}

PreparedText PreparedFromJson(const json& j) {
  return {.source = j.at("source").get<std::string>(),
          .chat_template = j.value("chat_template", false),  // earlier versions knew of none
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

absl::StatusOr<std::string> OnlyBlob(BlobStore& blobs, const TaskRecord& task) {
  if (task.blobs.size() == 1) return blobs.LocalPath(task.blobs.front());
  return DataLoss("STORE_CORRUPT", "task {} ({}) of job {} has {} blobs instead of 1", task.index, task.name, task.job,
                  task.blobs.size());
}

// Whether a task of this kind works on this checkpoint; tasks of earlier versions name none.
absl::StatusOr<bool> IsOf(const TaskRecord& task, const std::string& checkpoint, TaskPart kind = TaskPart::kWhole) {
  ASSIGN_OR_RETURN(const TaskSpec spec, TaskSpecOf(task));
  return spec.kind == kind && (spec.checkpoint.empty() || spec.checkpoint == checkpoint);
}

// What is kept of a TokenComparison.
struct StoredComparison {
  double base_nll, other_nll, kl, same_top;
};

// The only blob of a task, which must have the size of `out`.
absl::Status ReadWhole(BlobStore& blobs, const TaskRecord& task, std::span<std::byte> out) {
  const std::string digest = task.blobs.size() == 1 ? task.blobs.front() : "";
  uint64_t size = 0;
  if (!digest.empty()) {
    ASSIGN_OR_RETURN(size, blobs.Size(digest));
  }
  if (digest.empty() || size != out.size()) {
    return DataLoss("STORE_CORRUPT", "task {} ({}) of job {} has {} blobs, the first of {} bytes, instead of one of {}",
                    task.index, task.name, task.job, task.blobs.size(), size, out.size());
  }
  return blobs.Read(digest, 0, out);
}

absl::Status MissingShard(const TaskInput& input, int32_t shard) {
  return FailedPrecondition("CODEC_VERSION",
                            "job {} has no task for shard {} of the evaluation text: an earlier program began it; create "
                            "it again",
                            input.job.id, shard);
}

}  // namespace

std::string PreparedToJson(const Prepared& prepared) {
  return json{{"evaluation", ToJson(prepared.evaluation)},
              {"calibration", ToJson(prepared.calibration)}}
      .dump();
}

absl::StatusOr<TaskSpec> SpecOf(const TaskInput& input) {
  ASSIGN_OR_RETURN(TaskSpec spec, TaskSpecOf(input.task));
  if (spec.checkpoint.empty()) spec.checkpoint = input.job.checkpoint;
  if (spec.codec_version != kCodecVersion) {
    return FailedPrecondition("CODEC_VERSION", "job {} was begun with codec {}, this program has {}: create it again",
                              input.job.id, spec.codec_version, kCodecVersion);
  }
  return spec;
}

absl::StatusOr<Prepared> PreparedOf(const TaskInput& input, const std::string& checkpoint) {
  for (const TaskRecord& task : input.tasks) {
    if (task.stage != TaskStage::kPrepare) continue;
    ASSIGN_OR_RETURN(const bool own, IsOf(task, checkpoint));
    if (!own) continue;
    return ReadOutcome<Prepared>(task, [](const json& j) {
      return Prepared{.evaluation = PreparedFromJson(j.at("evaluation")),
                      .calibration = PreparedFromJson(j.at("calibration"))};
    });
  }
  return Internal("TASK_MISSING", "job {} has not prepared texts for checkpoint {}", input.job.id, checkpoint);
}

absl::StatusOr<std::shared_ptr<const ChatTemplate>> OpenChatTemplate(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const TokenizerFiles files, ReadTokenizerFiles(checkpoint.files()));
  auto chat = ReadChatTemplate(files);
  if (!chat.ok()) return Annotate(chat.status(), checkpoint.origin());
  if (*chat != nullptr) return chat;
  return InvalidArgument("TEXT_TEMPLATE_MISSING", "{} has no chat template", checkpoint.origin());
}

absl::StatusOr<std::string> SampleStart(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const auto chat, OpenChatTemplate(checkpoint));
  auto start = UserTurnStart(*chat);
  if (start.ok()) return start;
  return Annotate(start.status(), checkpoint.origin());
}

absl::StatusOr<PreparedText> KeepWindows(BlobStore& blobs, const TokenWindows& windows, std::string source,
                                         bool chat_template) {
  PreparedText text{.source = std::move(source),
                    .chat_template = chat_template,
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

absl::StatusOr<TokenWindows> ReadWindows(BlobStore& blobs, const PreparedText& text) {
  ASSIGN_OR_RETURN(const uint64_t size, blobs.Size(text.blob));
  const size_t stride = static_cast<size_t>(text.window_tokens) * sizeof(int32_t);
  if (stride == 0 || size % stride != 0) {
    return DataLoss("STORE_CORRUPT", "blob {} of {} bytes does not hold windows of {} tokens", text.blob, size,
                    text.window_tokens);
  }
  TokenWindows windows(size / stride);
  for (size_t i = 0; i < windows.size(); ++i) {
    windows[i].resize(static_cast<size_t>(text.window_tokens));
    RETURN_IF_ERROR(blobs.Read(text.blob, i * stride, std::as_writable_bytes(std::span(windows[i]))));
  }
  return windows;
}

absl::StatusOr<BaseReference> ReadReference(BlobStore& blobs, const TaskInput& input, const Prepared& prepared,
                                            const std::string& checkpoint, int32_t shard, int64_t hidden_size) {
  ASSIGN_OR_RETURN(const TokenWindows all, ReadWindows(blobs, prepared.evaluation));
  const int32_t per_shard = EvaluationWindowsPerShard(static_cast<int32_t>(all.size()));
  BaseReference reference{.windows = ShardOf(all, per_shard, shard), .hidden = {}};
  for (const TaskRecord& task : input.tasks) {
    if (task.stage != TaskStage::kCalibrate) continue;
    ASSIGN_OR_RETURN(const bool own, IsOf(task, checkpoint, TaskPart::kReference));
    if (!own) continue;
    ASSIGN_OR_RETURN(const TaskSpec spec, TaskSpecOf(task));
    if (spec.part != shard) continue;
    size_t tokens = 0;
    for (const auto& window : reference.windows) tokens += window.size();
    reference.hidden.resize(tokens * static_cast<size_t>(hidden_size));
    RETURN_IF_ERROR(ReadWhole(blobs, task, std::as_writable_bytes(std::span(reference.hidden))));
    return reference;
  }
  return MissingShard(input, shard);
}

absl::StatusOr<BlobInfo> KeepComparisons(BlobStore& blobs, const WindowComparisons& windows) {
  std::vector<StoredComparison> stored;
  for (const auto& window : windows) {
    for (const TokenComparison& token : window) {
      stored.push_back({token.base_nll, token.other_nll, token.kl, token.same_top ? 1.0 : 0.0});
    }
  }
  const auto bytes = std::as_bytes(std::span(stored));
  return blobs.CommitBytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

absl::StatusOr<WindowComparisons> ReadComparisons(BlobStore& blobs, const TaskInput& input, const Prepared& prepared,
                                                  const std::string& checkpoint, int32_t candidate) {
  ASSIGN_OR_RETURN(const TokenWindows all, ReadWindows(blobs, prepared.evaluation));
  const int32_t per_shard = EvaluationWindowsPerShard(static_cast<int32_t>(all.size()));
  const auto scored = static_cast<size_t>(prepared.evaluation.window_tokens - 1);
  WindowComparisons windows;
  for (const TaskRecord& task : input.tasks) {
    if (task.stage != TaskStage::kEvaluate) continue;
    ASSIGN_OR_RETURN(const bool own, IsOf(task, checkpoint, TaskPart::kComparison));
    if (!own) continue;
    ASSIGN_OR_RETURN(const TaskSpec spec, TaskSpecOf(task));
    if (spec.candidate != candidate) continue;
    std::vector<StoredComparison> stored(ShardOf(all, per_shard, spec.part).size() * scored);
    RETURN_IF_ERROR(ReadWhole(blobs, task, std::as_writable_bytes(std::span(stored))));
    for (size_t i = 0; i < stored.size(); ++i) {
      if (i % scored == 0) windows.emplace_back().reserve(scored);
      const StoredComparison& token = stored[i];
      windows.back().push_back({.base_nll = token.base_nll,
                                .other_nll = token.other_nll,
                                .kl = token.kl,
                                .same_top = token.same_top != 0});
    }
  }
  if (windows.size() == all.size()) return windows;
  return MissingShard(input, static_cast<int32_t>(windows.size()) / per_shard);
}

absl::StatusOr<std::vector<std::string>> StatisticsOf(BlobStore& blobs, const TaskInput& input,
                                                      const std::string& checkpoint) {
  std::vector<std::string> paths;
  for (const TaskRecord& task : input.tasks) {
    if (task.stage != TaskStage::kCalibrate) continue;
    ASSIGN_OR_RETURN(const bool own, IsOf(task, checkpoint));
    if (!own) continue;
    ASSIGN_OR_RETURN(paths.emplace_back(), OnlyBlob(blobs, task));
  }
  return paths;
}

absl::StatusOr<CandidateInputs> InputsOf(BlobStore& blobs, const TaskInput& input, const std::string& checkpoint,
                                         const QuantizePlan& plan, const QuantizeSpec& candidate) {
  std::map<std::string, const TaskRecord*> done;
  for (const TaskRecord& task : input.tasks) {
    if (task.stage == TaskStage::kQuantize && task.state == TaskState::kDone) done[task.spec_json] = &task;
  }
  CandidateInputs inputs;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const auto found = done.find(TensorTaskJson(checkpoint, plan, candidate, i));
    if (found == done.end()) {
      return FailedPrecondition("GATE_COVERAGE", "tensor {} was not quantized", plan.tensors[i].name);
    }
    const TaskRecord& task = *found->second;
    ASSIGN_OR_RETURN(TaskOutcome outcome, DecodeOutcome(task));
    if (!outcome.tensor) return DataLoss("STORE_CORRUPT", "task {} of job {} has no numbers", task.index, task.job);
    inputs.artifact.outcomes.push_back(*std::move(outcome.tensor));
    ASSIGN_OR_RETURN(inputs.artifact.packed.emplace_back(), OnlyBlob(blobs, task));
    inputs.tasks.push_back(task.index);
  }
  ASSIGN_OR_RETURN(const Prepared prepared, PreparedOf(input, checkpoint));
  inputs.artifact.display_name = input.job.display_name;
  inputs.artifact.checkpoint_digest = checkpoint;
  if (NeedsStatistics(candidate)) {
    inputs.artifact.calibration_source = prepared.calibration.source;
    inputs.artifact.calibration_chat_template = prepared.calibration.chat_template;
    inputs.artifact.calibration_digest = prepared.calibration.tokens_digest;
  } else {
    inputs.artifact.calibration_source = PreparedText().source;
  }
  return inputs;
}

absl::StatusOr<std::vector<FileRecord>> AssembledFiles(const std::vector<TaskRecord>& tasks, int32_t candidate) {
  for (const TaskRecord& task : tasks) {
    if (task.stage != TaskStage::kAssemble) continue;
    ASSIGN_OR_RETURN(const TaskSpec spec, TaskSpecOf(task));
    if (spec.candidate != candidate) continue;
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
  return Internal("TASK_MISSING", "candidate {} was not assembled", candidate);
}

std::string FilesToJson(const std::vector<FileRecord>& files) {
  json list = json::array();
  for (const FileRecord& file : files) {
    list.push_back({{"name", file.name}, {"sha256", file.sha256}, {"size_bytes", file.size_bytes}});
  }
  return json{{"files", std::move(list)}}.dump();
}

}  // namespace qamserve
