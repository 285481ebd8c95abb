#include "server/jobs/job_spec.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/digest.h"
#include "core/codec/trellis.h"

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
  json j = {{"text", selection.text}, {"windows", selection.windows}, {"window_tokens", selection.window_tokens}};
  // A plain text has the key that it always had.
  if (selection.chat_template.value_or(false)) j["chat_template"] = true;
  return j;
}

TextSelection SelectionFromJson(const json& j) {
  return {.text = j.at("text").get<std::string>(),
          .windows = j.at("windows").get<int32_t>(),
          .window_tokens = j.at("window_tokens").get<int32_t>(),
          .chat_template = j.value("chat_template", false)};
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

// What ValidateQuantizeSpec says, and no trellis of 6 bits: as the one rate of all tensors it would be the joint codec
// by another name. Single tensors may have it, by name or in the mix of a target.
absl::Status ValidateOneRate(const QuantizeSpec& spec) {
  constexpr double kMost = kMaxTrellisPairBits / 2.0;
  if (spec.codec == Codec::kTrellis && spec.bpw > kMost) {
    return InvalidArgument("BPW_RANGE",
                           "bpw is {}; codec trellis has up to {} bits a weight (single tensors may have 6, which the "
                           "joint codec codes)",
                           spec.bpw, kMost);
  }
  return ValidateQuantizeSpec(spec);
}

absl::Status NormalizeLadder(JobSpec& spec) {
  std::vector<double>& rates = spec.ladder;
  if (rates.size() > kMaxLadderRates) {
    return InvalidArgument("LADDER_RATES", "ladder has {} rates; the limit is {}", rates.size(), kMaxLadderRates);
  }
  std::sort(rates.begin(), rates.end());
  rates.erase(std::unique(rates.begin(), rates.end()), rates.end());
  if (spec.target.any()) {
    return InvalidArgument("TARGET_CONFLICT", "a ladder and a target exclude each other: a ladder names its rates");
  }
  for (double rate : rates) {
    QuantizeSpec step = spec.quantize;
    step.bpw = rate;
    const absl::Status valid = ValidateOneRate(step);
    if (!valid.ok()) return Annotate(valid, "ladder");
  }
  // The rates say it all.
  spec.quantize.bpw = rates.front();
  return absl::OkStatus();
}

absl::Status NormalizeRates(JobSpec& spec) {
  if (spec.quantize.codec == Codec::kFull && (spec.target.any() || !spec.ladder.empty())) {
    return InvalidArgument("CODEC_OPTION", "{} is set; codec full quantizes nothing and has one rate",
                           spec.target.any() ? "target" : "ladder");
  }
  RETURN_IF_ERROR(ValidateRateTarget(spec.target));
  if ((spec.target.any() || !spec.ladder.empty()) && !spec.quantize.rates.empty()) {
    return InvalidArgument("TARGET_CONFLICT", "rates of single tensors exclude a target and a ladder");
  }
  if (!spec.ladder.empty()) return NormalizeLadder(spec);
  if (spec.curve_only) {
    return InvalidArgument("TARGET_CONFLICT", "curve_only is for ladders, and no rates are given");
  }
  // The search sets the rate; what was asked for besides must not make another job of it.
  if (spec.target.any()) spec.quantize.bpw = RatesOf(spec.quantize.codec).front();
  return absl::OkStatus();
}

absl::Status CheckStudy(const JobSpec& spec) {
  if (spec.checkpoints.empty() || spec.checkpoints.size() > kMaxStudyCheckpoints || spec.methods.empty() ||
      spec.methods.size() > kMaxStudyMethods) {
    return InvalidArgument("STUDY_SIZE",
                           "{} checkpoints and {} methods (a method at one rate counts as one); there "
                           "may be 1 to {} and 1 to {}",
                           spec.checkpoints.size(), spec.methods.size(), kMaxStudyCheckpoints, kMaxStudyMethods);
  }
  return absl::OkStatus();
}

bool GathersOuterProducts(const JobSpec& spec) {
  return spec.quantize.error_feedback ||
         std::any_of(spec.methods.begin(), spec.methods.end(), [](const QuantizeSpec& m) { return m.error_feedback; });
}

}  // namespace

QuantizeSpec CalibrationSpec(const JobSpec& spec) {
  QuantizeSpec out = spec.quantize;
  out.error_feedback = GathersOuterProducts(spec);
  for (const QuantizeSpec& method : spec.methods) out.channel_scale = out.channel_scale || method.channel_scale;
  return out;
}

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
  if (spec.kind == JobKind::kStudy) {
    RETURN_IF_ERROR(CheckStudy(spec));
    spec.quantize = QuantizeSpec();
    spec.quantize.channel_scale = false;
  } else {
    RETURN_IF_ERROR(NormalizeRates(spec));
  }
  if (spec.calibration.windows == 0 && GathersOuterProducts(spec)) spec.calibration.windows = kDefaultFeedbackWindows;
  RETURN_IF_ERROR(NormalizeSelection("calibration", spec.calibration, context_tokens));
  // Where nothing is calibrated, what was asked for must not make another job of it.
  if (!NeedsStatistics(CalibrationSpec(spec))) spec.calibration = TextSelection();
  auto fill = [&](QuantizeSpec& quantize) {
    // The core's limits hold for the values in use; without calibration these are its defaults.
    const bool calibrates = NeedsStatistics(quantize);
    quantize.calibration_windows = calibrates ? spec.calibration.windows : QuantizeSpec().calibration_windows;
    quantize.window_tokens = calibrates ? spec.calibration.window_tokens : QuantizeSpec().window_tokens;
    return ValidateOneRate(quantize);
  };
  for (size_t i = 0; i < spec.methods.size(); ++i) {
    const absl::Status valid = fill(spec.methods[i]);
    if (!valid.ok()) return Annotate(valid, fmt::format("methods, number {}", i));
  }
  RETURN_IF_ERROR(fill(spec.quantize));
  std::set<std::string> methods;
  std::erase_if(spec.methods, [&](const QuantizeSpec& m) { return !methods.insert(QuantizeSpecToJson(m)).second; });
  return spec;
}

namespace {

json TargetToJson(const RateTarget& target) {
  return {{"bpw", target.size.bpw},
          {"bytes", target.size.bytes},
          {"kl", target.kl},
          {"perplexity_increase", target.perplexity_increase},
          {"mixed", target.mixed}};
}

RateTarget TargetFromJson(const json& j) {
  RateTarget target;
  target.size = {.bpw = j.at("bpw").get<double>(), .bytes = j.at("bytes").get<int64_t>()};
  target.kl = j.at("kl").get<double>();
  target.perplexity_increase = j.at("perplexity_increase").get<double>();
  target.mixed = j.at("mixed").get<bool>();
  return target;
}

// Jobs of earlier versions lack a codec.
absl::StatusOr<QuantizeSpec> StoredQuantizeSpec(json j) {
  if (!j.contains("codec")) j["codec"] = CodecName(Codec::kJoint);
  if (!j.contains("error_feedback")) j["error_feedback"] = false;
  return QuantizeSpecFromJson(j.dump());
}

absl::Status ReadStudy(const json& j, JobSpec& spec) {
  j.at("checkpoints").get_to(spec.checkpoints);
  j.at("probes").get_to(spec.probes);
  for (const json& method : j.at("methods")) {
    ASSIGN_OR_RETURN(spec.methods.emplace_back(), StoredQuantizeSpec(method));
  }
  return absl::OkStatus();
}

}  // namespace

std::string JobSpecToJson(const JobSpec& spec) {
  json j = {{"kind", JobKindName(spec.kind)},
            {"checkpoint", spec.checkpoint},
            {"artifact", spec.artifact},
            {"evaluation", SelectionToJson(spec.evaluation)}};
  if (spec.kind != JobKind::kEvaluate) {
    j["quantize"] = json::parse(QuantizeSpecToJson(spec.quantize));
    j["calibration"] = SelectionToJson(spec.calibration);
    j["max_kl"] = spec.max_kl;
  }
  if (spec.target.any()) j["target"] = TargetToJson(spec.target);
  if (!spec.ladder.empty()) j["ladder"] = spec.ladder;
  if (spec.curve_only) j["curve_only"] = true;
  if (spec.kind == JobKind::kStudy) {
    j["checkpoints"] = spec.checkpoints;
    j["probes"] = spec.probes;
    for (const QuantizeSpec& method : spec.methods) j["methods"].push_back(json::parse(QuantizeSpecToJson(method)));
  }
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<JobSpec> JobSpecFromJson(const std::string& text) {
  return ReadStored<JobSpec>("job spec", text, [](const json& j) -> absl::StatusOr<JobSpec> {
    JobSpec spec;
    const std::string kind = j.at("kind").get<std::string>();
    for (JobKind known : {JobKind::kEvaluate, JobKind::kStudy}) {
      if (kind == JobKindName(known)) spec.kind = known;
    }
    spec.checkpoint = j.at("checkpoint").get<std::string>();
    spec.artifact = j.at("artifact").get<std::string>();
    spec.evaluation = SelectionFromJson(j.at("evaluation"));
    if (spec.kind == JobKind::kEvaluate) return spec;
    ASSIGN_OR_RETURN(spec.quantize, StoredQuantizeSpec(j.at("quantize")));
    spec.calibration = SelectionFromJson(j.at("calibration"));
    spec.max_kl = j.at("max_kl").get<double>();
    if (j.contains("target")) spec.target = TargetFromJson(j["target"]);
    spec.ladder = j.value("ladder", std::vector<double>());
    spec.curve_only = j.value("curve_only", false);
    if (spec.kind == JobKind::kStudy) RETURN_IF_ERROR(ReadStudy(j, spec));
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
