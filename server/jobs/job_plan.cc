#include <algorithm>
#include <set>

#include "server/jobs/task_inputs.h"
#include "server/jobs/task_runner.h"
#include "server/jobs/task_spec.h"

namespace qamserve {
namespace {

// Tokens of all windows of a text: they are kept in memory and as one blob of 4 bytes each.
constexpr int64_t kMaxWindowTokensTotal = int64_t{1} << 24;
// Statistics, windows, report and rounding up to file system blocks.
constexpr int64_t kSmallFilesBytes = int64_t{16} << 20;
// A text of so many bytes for each token that is wanted is long enough in any language; a shorter one is counted, which
// takes up to a second for the largest.
constexpr int64_t kEnoughBytesPerToken = 32;
constexpr uint64_t kMaxCountedBytes = uint64_t{4} << 20;

int64_t TokensOf(const TextSelection& s) { return int64_t{s.windows} * s.window_tokens; }

absl::Status CheckSelection(Catalog& catalog, std::string_view field, const TextSelection& selection) {
  if (TokensOf(selection) > kMaxWindowTokensTotal) {
    return InvalidArgument("WINDOWS_RANGE", "{}: {} windows of {} tokens are more than {} tokens", field,
                           selection.windows, selection.window_tokens, kMaxWindowTokensTotal);
  }
  if (selection.text.empty()) return absl::OkStatus();
  return Annotate(catalog.GetText(selection.text).status(), fmt::format("{}.text", field));
}

// Of one text calibration and evaluation use different parts, which are counted in tokens.
absl::Status CheckHeldOut(const JobSpec& spec) {
  if (spec.calibration.text != spec.evaluation.text || spec.calibration.text.empty() ||
      spec.calibration.chat_template == spec.evaluation.chat_template) {
    return absl::OkStatus();
  }
  return InvalidArgument("CHAT_TEMPLATE_CONFLICT",
                         "calibration and evaluation use different parts of the same text; chat_template must be the "
                         "same for both");
}

// Adds what one artifact takes to the estimate. Its packed tensors lie beside the assembled file until it is measured,
// those of a search until the job ends.
void AddToEstimate(const QuantizePlan& plan, const JobSpec& spec, JobEstimate& estimate) {
  const bool kept = spec.kind == JobKind::kQuantize && !spec.curve_only;
  if (kept) estimate.artifact_bytes += plan.artifact_bytes;
  estimate.peak_memory_bytes = std::max(estimate.peak_memory_bytes, plan.peak_memory_bytes);
  const int64_t at_once = 2 * plan.artifact_bytes;
  estimate.disk_bytes = kept ? estimate.disk_bytes + at_once : std::max(estimate.disk_bytes, at_once);
  estimate.tensors += static_cast<int32_t>(plan.tensors.size());
  if (estimate.bpw == 0) estimate.bpw = plan.bpw;
}

// Adds what samples of the model's own take, where texts are that. One text is sampled after the other.
void AddSamples(const Checkpoint& checkpoint, const std::vector<const TextSelection*>& texts, JobEstimate& estimate) {
  for (const TextSelection* text : texts) {
    if (!text->text.empty()) continue;
    const int64_t bytes = kProcessBytes + SampleMemoryBytes(checkpoint, text->windows, text->window_tokens);
    estimate.peak_memory_bytes = std::max(estimate.peak_memory_bytes, bytes);
    // Gone before the first tensor is packed.
    estimate.disk_bytes = std::max(estimate.disk_bytes, SampleScratchBytes(checkpoint));
  }
}

// The candidates that are known before anything is measured.
absl::StatusOr<std::vector<QuantizeSpec>> FirstCandidates(const Checkpoint& checkpoint, const JobSpec& spec) {
  if (spec.kind == JobKind::kStudy) return spec.methods;
  QuantizeSpec first = spec.quantize;
  if (spec.target.by_size()) {
    ASSIGN_OR_RETURN(first, LargestUniform(checkpoint, first, spec.target.size));
  } else if (spec.target.by_quality()) {
    first.bpw = FirstRate(spec.target, RatesOf(first.codec));
  }
  if (spec.ladder.empty()) return std::vector<QuantizeSpec>{first};
  std::vector<QuantizeSpec> out;
  for (double rate : spec.ladder) {
    out.push_back(first);
    out.back().bpw = rate;
  }
  return out;
}

}  // namespace

absl::Status CoreTaskRunner::DecideChatTemplate(std::string_view field, const std::vector<std::string>& checkpoints,
                                                TextSelection& selection) {
  const std::optional<bool> asked = selection.chat_template;
  if (asked == false) return absl::OkStatus();
  const bool own_samples = selection.text.empty();
  selection.chat_template = false;
  if (!own_samples) {
    ASSIGN_OR_RETURN(const std::string text, catalog_.ReadText(selection.text));
    if (!AreConversations(text)) {
      if (!asked.has_value()) return absl::OkStatus();
      return InvalidArgument("CONVERSATION_INVALID",
                             "{}.chat_template is true, but text {} does not begin with a line of JSON with "
                             "\"messages\"",
                             field, selection.text);
    }
  }
  for (const std::string& digest : checkpoints) {
    ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(digest));
    const absl::Status status =
        own_samples ? SampleStart(*checkpoint).status() : OpenChatTemplate(*checkpoint).status();
    if (status.ok()) {
      selection.chat_template = true;
    } else if (!own_samples) {
      return Annotate(status, fmt::format("{}.text {} is conversations (with chat_template false it is read as it is)",
                                          field, selection.text));
    } else if (asked.has_value()) {
      return Annotate(status, fmt::format("{}.chat_template is true", field));
    }
  }
  return absl::OkStatus();
}

absl::Status CoreTaskRunner::CheckTextLength(std::string_view field, const std::vector<std::string>& checkpoints,
                                             const TextSelection& selection, int64_t skip_tokens) {
  if (selection.text.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const TextRecord text, catalog_.GetText(selection.text));
  const int64_t enough = kEnoughBytesPerToken * (skip_tokens + TokensOf(selection));
  const uint64_t bytes = text.file.size_bytes;
  if (bytes > kMaxCountedBytes || bytes >= static_cast<uint64_t>(enough)) return absl::OkStatus();
  for (const std::string& digest : checkpoints) {
    ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(digest));
    ASSIGN_OR_RETURN(const auto tokenizer, OpenTokenizer(*checkpoint));
    const absl::Status status = TextWindows(*checkpoint, *tokenizer, selection, skip_tokens).status();
    if (!status.ok()) return Annotate(status, field);
  }
  return absl::OkStatus();
}

absl::Status CoreTaskRunner::PlanCheckpoint(const std::string& digest, int threads, TaskList& tasks, JobPlan& plan) {
  const JobSpec& spec = plan.spec;
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(digest));
  const bool statistics = NeedsStatistics(CalibrationSpec(spec));
  tasks.AddTexts(*checkpoint, digest, statistics);
  ASSIGN_OR_RETURN(const std::vector<QuantizeSpec> candidates, FirstCandidates(*checkpoint, spec));
  std::set<bool> probed;  // with and without error feedback
  for (const QuantizeSpec& candidate : candidates) {
    ASSIGN_OR_RETURN(const QuantizePlan quantize, PlanQuantization(*checkpoint, candidate, threads));
    AddToEstimate(quantize, spec, plan.estimate);
    tasks.AddCandidate(*checkpoint, digest, quantize, candidate);
    if (spec.kind == JobKind::kStudy && spec.probes && NeedsStatistics(candidate) &&
        probed.insert(candidate.error_feedback).second) {
      tasks.AddProbes(*checkpoint, digest, tasks.candidates() - 1, /*allocate=*/false);
    }
  }
  std::vector<const TextSelection*> texts = {&spec.evaluation};
  if (statistics) texts.push_back(&spec.calibration);
  AddSamples(*checkpoint, texts, plan.estimate);
  return absl::OkStatus();
}

absl::StatusOr<JobPlan> CoreTaskRunner::Plan(const JobSpec& asked, int threads) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(asked.checkpoint));
  int64_t context = checkpoint->config().context_length;
  for (const std::string& digest : asked.checkpoints) {
    ASSIGN_OR_RETURN(const auto other, OpenCheckpoint(digest));
    context = std::min(context, other->config().context_length);
  }
  JobPlan plan;
  ASSIGN_OR_RETURN(plan.spec, NormalizeJobSpec(asked, context));
  const JobSpec& spec = plan.spec;
  const std::vector<std::string> one = {spec.checkpoint};
  const std::vector<std::string>& checkpoints = spec.kind == JobKind::kStudy ? spec.checkpoints : one;
  RETURN_IF_ERROR(CheckSelection(catalog_, "evaluation", spec.evaluation));
  RETURN_IF_ERROR(DecideChatTemplate("evaluation", checkpoints, plan.spec.evaluation));
  RETURN_IF_ERROR(CheckTextLength("evaluation", checkpoints, spec.evaluation, 0));
  TaskList tasks(spec);
  if (spec.kind == JobKind::kEvaluate) {
    ASSIGN_OR_RETURN(const ArtifactRecord artifact, catalog_.GetArtifact(spec.artifact));
    plan.estimate.artifact_bytes = static_cast<int64_t>(artifact.size_bytes);
    plan.estimate.bpw = artifact.bpw;
    AddSamples(*checkpoint, {&spec.evaluation}, plan.estimate);
    tasks.AddTexts(*checkpoint, spec.checkpoint, /*statistics=*/false);
    tasks.AddEvaluation(*checkpoint, spec.checkpoint);
  } else {
    if (NeedsStatistics(CalibrationSpec(spec))) {
      RETURN_IF_ERROR(CheckSelection(catalog_, "calibration", spec.calibration));
      RETURN_IF_ERROR(DecideChatTemplate("calibration", checkpoints, plan.spec.calibration));
      RETURN_IF_ERROR(CheckHeldOut(spec));
      RETURN_IF_ERROR(CheckTextLength("calibration", checkpoints, spec.calibration, HeldOutTokens(spec)));
    }
    for (const std::string& digest : checkpoints) {
      RETURN_IF_ERROR(PlanCheckpoint(digest, threads, tasks, plan));
    }
  }
  plan.estimate.disk_bytes +=
      kSmallFilesBytes + int64_t{4} * TokensOf(spec.evaluation) * checkpoint->config().hidden_size;
  plan.tasks = tasks.Take();
  return plan;
}

}  // namespace qamserve
