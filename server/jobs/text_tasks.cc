// Prepare and calibrate: from texts to tokens, to what the base model says of them, to statistics.
#include "server/jobs/task_inputs.h"
#include "server/jobs/windows_per_shard.h"
#include "server/store/built_in_text.h"

namespace qamserve {
namespace {

// Two texts of the model's own, so that it is not measured on what it was calibrated on.
constexpr uint64_t kCalibrationSampleSeed = 1;
constexpr uint64_t kEvaluationSampleSeed = 2;
// Of a digest in a message: enough to find the text by.
constexpr size_t kShownDigits = 12;

// A part of a task as a share of its progress.
struct Part {
  ProgressFn progress;
  double begin, end;
  absl::Status operator()(double fraction) const { return progress(begin + (end - begin) * fraction); }
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> CoreTaskRunner::OpenTokenizer(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const TokenizerFiles files, ReadTokenizerFiles(checkpoint.files()));
  return Tokenizer::Create(files, checkpoint.origin());
}

absl::StatusOr<TokenWindows> CoreTaskRunner::TextWindows(const Checkpoint& checkpoint, const Tokenizer& tokenizer,
                                                         const TextSelection& selection, int64_t skip_tokens) {
  ASSIGN_OR_RETURN(const TextRecord record, catalog_.GetText(selection.text));
  ASSIGN_OR_RETURN(const std::string text, catalog_.ReadText(selection.text));
  const std::string name = fmt::format("text {} ({})", record.display_name, selection.text.substr(0, kShownDigits));
  std::vector<int32_t> tokens;
  if (selection.chat_template.value_or(false)) {
    ASSIGN_OR_RETURN(const auto chat, OpenChatTemplate(checkpoint));
    const int64_t enough = skip_tokens + int64_t{selection.windows} * selection.window_tokens;
    auto rendered = EncodeConversations(text, *chat, tokenizer, enough);
    if (!rendered.ok()) return Annotate(rendered.status(), name);
    tokens = *std::move(rendered);
  } else {
    tokens = tokenizer.Encode(text, EncodeOptions{});
  }
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
      skip_tokens > 0 ? fmt::format("{}, behind the {} tokens that are for evaluation", name, skip_tokens) : name);
}

absl::StatusOr<PreparedText> CoreTaskRunner::PrepareText(const Checkpoint& checkpoint, const Tokenizer& tokenizer,
                                                         const TextSelection& selection, int64_t skip_tokens,
                                                         uint64_t seed, const std::string& work_dir, ThreadPool& pool,
                                                         ProgressFn progress) {
  const bool wanted = selection.chat_template.value_or(false);
  if (!selection.text.empty()) {
    ASSIGN_OR_RETURN(const TokenWindows windows, TextWindows(checkpoint, tokenizer, selection, skip_tokens));
    RETURN_IF_ERROR(progress(1));
    return KeepWindows(catalog_.blobs(), windows, IsBuiltInText(selection.text) ? "built-in text" : "text", wanted);
  }
  // Of a study's models some may have a template and others none; that one was asked for in vain is known by now.
  const std::string start = wanted ? SampleStart(checkpoint).value_or("") : "";
  ASSIGN_OR_RETURN(const TokenWindows windows,
                   OwnSamples(checkpoint, tokenizer, selection, start, seed, work_dir, pool, progress));
  return KeepWindows(catalog_.blobs(), windows, "own samples", !start.empty());
}

absl::StatusOr<TokenWindows> CoreTaskRunner::OwnSamples(const Checkpoint& checkpoint, const Tokenizer& tokenizer,
                                                        const TextSelection& selection, const std::string& start,
                                                        uint64_t seed, const std::string& work_dir, ThreadPool& pool,
                                                        ProgressFn progress) {
  std::vector<int32_t> beginning = EncodeChat(tokenizer, start);
  if (start.empty()) {
    // Without BOS, what ends a text is the best beginning of the next.
    beginning = {tokenizer.stop_ids().empty() ? 0 : tokenizer.stop_ids().front()};
    if (tokenizer.bos_id()) beginning = {*tokenizer.bos_id()};
  }
  const SampleRequest request{.beginning = beginning,
                              .windows = selection.windows,
                              .window_tokens = selection.window_tokens,
                              .seed = seed,
                              .scratch = work_dir + "/weights"};
  auto windows = SampleWindows(checkpoint, request, pool, progress);
  if (windows.ok() || start.empty()) return windows;
  return Annotate(windows.status(), "own samples in the model's chat template");
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Prepare(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  ASSIGN_OR_RETURN(const TaskSpec spec, SpecOf(input));
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(spec.checkpoint));
  ASSIGN_OR_RETURN(const auto tokenizer, OpenTokenizer(*checkpoint));
  const TextSelection& evaluation = input.spec.evaluation;
  const TextSelection& calibration = input.spec.calibration;
  Prepared prepared;
  ASSIGN_OR_RETURN(prepared.evaluation, PrepareText(*checkpoint, *tokenizer, evaluation, 0, kEvaluationSampleSeed,
                                                    input.work_dir, pool, Part{progress, 0.0, 0.5}));
  if (input.spec.kind != JobKind::kEvaluate && NeedsStatistics(CalibrationSpec(input.spec))) {
    ASSIGN_OR_RETURN(prepared.calibration,
                     PrepareText(*checkpoint, *tokenizer, calibration, HeldOutTokens(input.spec),
                                 kCalibrationSampleSeed, input.work_dir, pool, Part{progress, 0.5, 1.0}));
  }
  TaskOutcome outcome;
  outcome.json = PreparedToJson(prepared);
  outcome.blobs = {prepared.evaluation.blob};
  if (!prepared.calibration.blob.empty()) outcome.blobs.push_back(prepared.calibration.blob);
  return outcome;
}

absl::StatusOr<TaskOutcome> CoreTaskRunner::Calibrate(const TaskInput& input, ThreadPool& pool, ProgressFn progress) {
  ASSIGN_OR_RETURN(const TaskSpec spec, SpecOf(input));
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(spec.checkpoint));
  ASSIGN_OR_RETURN(const Prepared prepared, PreparedOf(input, spec.checkpoint));
  TaskOutcome outcome;
  if (spec.kind == TaskPart::kReference) {
    ASSIGN_OR_RETURN(const TokenWindows all, ReadWindows(catalog_.blobs(), prepared.evaluation));
    const int32_t per_shard = EvaluationWindowsPerShard(static_cast<int32_t>(all.size()));
    ASSIGN_OR_RETURN(const BaseReference reference,
                     RunBase(*checkpoint, ShardOf(all, per_shard, spec.part), pool, progress));
    const auto bytes = std::as_bytes(std::span(reference.hidden));
    ASSIGN_OR_RETURN(const BlobInfo blob,
                     catalog_.blobs().CommitBytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
    outcome.blobs = {blob.digest};
    return outcome;
  }
  ASSIGN_OR_RETURN(const TokenWindows windows, ReadWindows(catalog_.blobs(), prepared.calibration));
  const std::string path = input.work_dir + "/statistics";
  RETURN_IF_ERROR(CalibrateShard(*checkpoint, CalibrationSpec(input.spec),
                                 ShardOf(windows, kCalibrationWindows, spec.part), pool, progress, path,
                                 device_.get()));
  ASSIGN_OR_RETURN(const BlobInfo blob, catalog_.blobs().CommitFile(path));
  outcome.blobs = {blob.digest};
  return outcome;
}

}  // namespace qamserve
