#include "server/jobs/job_spec.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/digest.h"

namespace qamserve {
namespace {

using nlohmann::json;

absl::Status NormalizeSelection(std::string_view field, TextSelection& selection, int64_t context_tokens) {
  if (selection.windows < 0 || selection.windows > kMaxWindows) {
    return InvalidArgument("WINDOWS_RANGE", "{}.windows is {}; it may be 0 ({}) to {}", field, selection.windows,
                           kDefaultWindows, kMaxWindows);
  }
  const int64_t limit = std::min<int64_t>(kMaxWindowTokens, context_tokens);
  if (selection.window_tokens < 0 || selection.window_tokens == 1 || selection.window_tokens > limit) {
    return InvalidArgument("WINDOW_TOKENS_RANGE",
                           "{}.window_tokens is {}; it may be 0 ({}) or 2 to {} (the model's context at most)", field,
                           selection.window_tokens, std::min<int64_t>(kDefaultWindowTokens, limit), limit);
  }
  if (!selection.text.empty() && !IsSha256(selection.text)) {
    return InvalidArgument("RESOURCE_NAME", "{}.text '{}' is not the digest of a text", field,
                           selection.text.substr(0, 80));
  }
  if (selection.windows == 0) selection.windows = kDefaultWindows;
  if (selection.window_tokens == 0) {
    selection.window_tokens = static_cast<int32_t>(std::min<int64_t>(kDefaultWindowTokens, limit));
  }
  return absl::OkStatus();
}

json SelectionToJson(const TextSelection& selection) {
  return {{"text", selection.text}, {"windows", selection.windows}, {"window_tokens", selection.window_tokens}};
}

TextSelection SelectionFromJson(const json& j) {
  return {.text = j.at("text").get<std::string>(),
          .windows = j.at("windows").get<int32_t>(),
          .window_tokens = j.at("window_tokens").get<int32_t>()};
}

// `fn` reads with nlohmann, which throws; what is read here was written by this program.
template <typename T, typename Fn>
absl::StatusOr<T> ReadStored(std::string_view what, const std::string& text, Fn fn) {
  try {
    return fn(json::parse(text));
  } catch (const json::exception& error) {
    return DataLoss("STORE_CORRUPT", "the stored {} cannot be read: {}", what, error.what());
  }
}

}  // namespace

absl::StatusOr<JobSpec> NormalizeJobSpec(JobSpec spec, int64_t context_tokens) {
  RETURN_IF_ERROR(NormalizeSelection("evaluation", spec.evaluation, context_tokens));
  if (!std::isfinite(spec.max_kl) || spec.max_kl < 0) {
    return InvalidArgument("MAX_KL_RANGE", "max_kl is {}; it may be 0 (no limit) or more", spec.max_kl);
  }
  if (spec.kind == JobKind::kEvaluate) {
    spec.quantize = QuantizeSpec();
    spec.calibration = TextSelection();
    return spec;
  }
  if (spec.calibration.windows == 0 && spec.quantize.error_feedback) spec.calibration.windows = kDefaultFeedbackWindows;
  RETURN_IF_ERROR(NormalizeSelection("calibration", spec.calibration, context_tokens));
  // Where nothing is calibrated, what was asked for must not make another job of it.
  if (!NeedsStatistics(spec.quantize)) spec.calibration = TextSelection();
  spec.quantize.calibration_windows = spec.calibration.windows;
  spec.quantize.window_tokens = spec.calibration.window_tokens;
  // The core's limits hold for the values in use; without calibration these are its defaults.
  if (!NeedsStatistics(spec.quantize)) {
    spec.quantize.calibration_windows = QuantizeSpec().calibration_windows;
    spec.quantize.window_tokens = QuantizeSpec().window_tokens;
  }
  RETURN_IF_ERROR(ValidateQuantizeSpec(spec.quantize));
  return spec;
}

std::string JobSpecToJson(const JobSpec& spec) {
  json j = {{"kind", JobKindName(spec.kind)},
            {"checkpoint", spec.checkpoint},
            {"artifact", spec.artifact},
            {"evaluation", SelectionToJson(spec.evaluation)}};
  if (spec.kind == JobKind::kQuantize) {
    j["quantize"] = {{"bpw", spec.quantize.bpw},
                     {"codec", CodecName(spec.quantize.codec)},
                     {"error_feedback", spec.quantize.error_feedback},
                     {"channel_scale", spec.quantize.channel_scale},
                     {"rotation", RotationKindName(spec.quantize.rotation)},
                     {"seed", spec.quantize.seed},
                     {"calibration_windows", spec.quantize.calibration_windows},
                     {"window_tokens", spec.quantize.window_tokens}};
    j["calibration"] = SelectionToJson(spec.calibration);
    j["max_kl"] = spec.max_kl;
  }
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<JobSpec> JobSpecFromJson(const std::string& text) {
  return ReadStored<JobSpec>("job spec", text, [](const json& j) -> absl::StatusOr<JobSpec> {
    JobSpec spec;
    spec.kind = j.at("kind").get<std::string>() == "evaluate" ? JobKind::kEvaluate : JobKind::kQuantize;
    spec.checkpoint = j.at("checkpoint").get<std::string>();
    spec.artifact = j.at("artifact").get<std::string>();
    spec.evaluation = SelectionFromJson(j.at("evaluation"));
    if (spec.kind == JobKind::kEvaluate) return spec;
    const json& q = j.at("quantize");
    spec.quantize.bpw = q.at("bpw").get<double>();
    // Jobs of earlier versions have neither.
    ASSIGN_OR_RETURN(spec.quantize.codec, ParseCodec(q.value("codec", "joint")));
    spec.quantize.error_feedback = q.value("error_feedback", false);
    spec.quantize.channel_scale = q.at("channel_scale").get<bool>();
    ASSIGN_OR_RETURN(spec.quantize.rotation, ParseRotationKind(q.at("rotation").get<std::string>()));
    spec.quantize.seed = q.at("seed").get<uint64_t>();
    spec.quantize.calibration_windows = q.at("calibration_windows").get<int32_t>();
    spec.quantize.window_tokens = q.at("window_tokens").get<int32_t>();
    spec.calibration = SelectionFromJson(j.at("calibration"));
    spec.max_kl = j.at("max_kl").get<double>();
    return spec;
  });
}

std::string JobKey(const JobSpec& spec) { return Sha256Hex(JobSpecToJson(spec) + "\n" + kCodecVersion); }

std::string JobEstimateToJson(const JobEstimate& e) {
  return json{{"artifact_bytes", e.artifact_bytes},
              {"peak_memory_bytes", e.peak_memory_bytes},
              {"disk_bytes", e.disk_bytes},
              {"seconds", e.seconds},
              {"tensors", e.tensors},
              {"bpw", e.bpw}}
      .dump();
}

absl::StatusOr<JobEstimate> JobEstimateFromJson(const std::string& text) {
  return ReadStored<JobEstimate>("job estimate", text, [](const json& j) {
    return JobEstimate{.artifact_bytes = j.at("artifact_bytes").get<int64_t>(),
                       .peak_memory_bytes = j.at("peak_memory_bytes").get<int64_t>(),
                       .disk_bytes = j.at("disk_bytes").get<int64_t>(),
                       .seconds = j.at("seconds").get<double>(),
                       .tensors = j.at("tensors").get<int32_t>(),
                       .bpw = j.at("bpw").get<double>()};
  });
}

}  // namespace qamserve
