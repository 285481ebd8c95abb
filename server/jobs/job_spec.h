// What a job is asked to do, as a plain struct and as canonical JSON (the same spec always gives the same text).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/evaluate/search.h"
#include "core/quantize/quantize.h"
#include "server/store/records.h"

namespace qamserve {

inline constexpr int32_t kDefaultWindows = 8;
// Outer products need more text than mean squares: KL on SmolLM2 at 4 bpw was 0.101 with 8 windows, 0.095 with 16.
inline constexpr int32_t kDefaultFeedbackWindows = 16;
inline constexpr int32_t kDefaultWindowTokens = 1024;
inline constexpr int32_t kMaxWindows = 4096;
inline constexpr int32_t kMaxWindowTokens = 131072;
// Probes of single tensors run on the first tokens of so many calibration windows (of the evaluation's where nothing
// is calibrated).
inline constexpr int32_t kProbeWindows = 4;
inline constexpr int32_t kProbeWindowTokens = 128;
inline constexpr size_t kMaxLadderRates = 12;
inline constexpr size_t kMaxStudyCheckpoints = 8;
inline constexpr size_t kMaxStudyMethods = 64;

// What text to measure on.
struct TextSelection {
  std::string text;           // digest of a text of the catalog; empty = the model's own samples
  int32_t windows = 0;        // 0 = kDefaultWindows
  int32_t window_tokens = 0;  // 0 = min(kDefaultWindowTokens, the model's context)
  // Whether the model's chat template shapes the text: renders the conversations that it holds, or begins the model's
  // own samples (of a study: of those models that have one). Not given: where that can be done. Plan decides; a job of
  // a version that knew of none has false.
  std::optional<bool> chat_template = std::nullopt;
};

struct JobSpec {
  JobKind kind = JobKind::kQuantize;
  std::string checkpoint;  // digest; of an evaluate job: what the artifact was made from
  std::string artifact;    // digest; evaluate jobs only
  // calibration_windows and window_tokens of `quantize` follow from `calibration`. Quantize jobs only.
  QuantizeSpec quantize;
  // At most one of the two. A target or a ladder takes the place of quantize.bpw.
  RateTarget target;
  std::vector<double> ladder;  // an artifact at each of these rates, out of one calibration
  bool curve_only = false;     // the ladder's artifacts are measured and dropped
  // Studies: every method on every checkpoint; `checkpoint` is the first one.
  std::vector<std::string> checkpoints;
  std::vector<QuantizeSpec> methods;
  bool probes = true;  // of single tensors, from which KL is predicted
  TextSelection calibration;
  TextSelection evaluation;
  double max_kl = 0;  // quality gate: mean KL in nats a token; 0 = no limit
};

// Fills in the defaults. INVALID_ARGUMENT names field and limit: WINDOWS_RANGE, WINDOW_TOKENS_RANGE, MAX_KL_RANGE,
// LADDER_RATES, STUDY_SIZE, TARGET_CONFLICT, CODEC_OPTION, and those of ValidateQuantizeSpec and ValidateRateTarget.
// `context_tokens` is the model's (the shortest one of a study).
absl::StatusOr<JobSpec> NormalizeJobSpec(JobSpec spec, int64_t context_tokens);
// Whether the job makes artifacts one after the other: by a target, a ladder or a study.
inline bool HasRounds(const JobSpec& spec) {
  return spec.kind == JobKind::kStudy || spec.target.any() || !spec.ladder.empty();
}
// Tokens at the beginning of the calibration text that are left out: of one text both use different parts.
inline int64_t HeldOutTokens(const JobSpec& spec) {
  const bool shared = spec.calibration.text == spec.evaluation.text;
  return shared ? int64_t{spec.evaluation.windows} * spec.evaluation.window_tokens : 0;
}
// What statistics must be gathered for all that the job quantizes: flags and windows are set, the rest does not matter.
QuantizeSpec CalibrationSpec(const JobSpec& spec);
std::string JobSpecToJson(const JobSpec& spec);
absl::StatusOr<JobSpec> JobSpecFromJson(const std::string& json);
// SHA-256 of spec and codec version; the digests of checkpoint, artifact and texts are part of the spec.
std::string JobKey(const JobSpec& spec);

struct JobEstimate {
  int64_t artifact_bytes = 0;  // exact
  int64_t peak_memory_bytes = 0;
  int64_t disk_bytes = 0;  // at most, while the job runs
  double seconds = 0;      // 0 if nothing is known yet of this machine
  int32_t tensors = 0;
  double bpw = 0;  // with norms and scales
};
std::string JobEstimateToJson(const JobEstimate& estimate);
absl::StatusOr<JobEstimate> JobEstimateFromJson(const std::string& json);

}  // namespace qamserve
