#include <nlohmann/json.hpp>

#include "core/evaluate/evaluate.h"
#include "core/evaluate/rounding.h"

namespace qamserve {
namespace {

using nlohmann::json;

// One list of fields for reading and writing.
template <typename Visit>
void VisitNumbers(QualityReport& r, Visit visit) {
  visit("base_perplexity", r.base_perplexity);
  visit("quantized_perplexity", r.quantized_perplexity);
  visit("perplexity_change", r.perplexity_change);
  visit("perplexity_change_stderr", r.perplexity_change_stderr);
  visit("kl_mean", r.kl_mean);
  visit("kl_stderr", r.kl_stderr);
  visit("kl_ci95_low", r.kl_ci95_low);
  visit("kl_ci95_high", r.kl_ci95_high);
  visit("kl_p50", r.kl_p50);
  visit("kl_p90", r.kl_p90);
  visit("kl_p99", r.kl_p99);
  visit("kl_p999", r.kl_p999);
  visit("kl_max", r.kl_max);
  visit("second_half_kl_mean", r.second_half_kl_mean);
  visit("top1_agreement", r.top1_agreement);
}

template <typename Visit>
void VisitOthers(QualityReport& r, Visit visit) {
  visit("windows", r.windows);
  visit("window_tokens", r.window_tokens);
  visit("scored_tokens", r.scored_tokens);
  visit("text_source", r.text_source);
  visit("text_digest", r.text_digest);
  visit("kernels", r.kernels);
}

json ToJson(QualityReport report) {
  json out;
  VisitNumbers(report, [&](const char* name, double& value) { out[name] = Rounded(value); });
  VisitOthers(report, [&](const char* name, auto& value) { out[name] = value; });
  out["chat_template"] = report.chat_template;
  return out;
}

}  // namespace

std::string QualityReportToJson(const QualityReport& report) { return ToJson(report).dump(); }

absl::StatusOr<QualityReport> QualityReportFromJson(const std::string& text) {
  QualityReport report;
  try {
    const json in = json::parse(text);
    VisitNumbers(report, [&](const char* name, double& value) { value = in.at(name).get<double>(); });
    VisitOthers(report, [&](const char* name, auto& value) { in.at(name).get_to(value); });
    // Earlier versions applied none and did not say so.
    report.chat_template = in.value("chat_template", false);
  } catch (const json::exception& e) {
    return DataLoss("REPORT_INVALID", "quality report: {}", e.what());
  }
  return report;
}

std::string ReportJson(const QuantizeSpec& spec, const QuantizePlan& plan, const ArtifactInputs& inputs,
                       const QualityReport& quality) {
  json tensors = json::array();
  for (const TensorOutcome& t : inputs.outcomes) {
    tensors.push_back({{"name", t.name},
                       {"rows", t.rows},
                       {"cols", t.cols},
                       {"bpw", Rounded(t.bpw)},
                       {"distortion", Rounded(t.distortion)},
                       {"weighted_error", Rounded(t.weighted_error)}});
    if (!t.type.empty()) tensors.back()["type"] = t.type;
  }
  json embeddings = json::array();  // in the spec's embedding_bits; none if they were kept
  for (const QuantizePlan::Tensor& t : plan.embeddings) {
    embeddings.push_back({{"name", t.name}, {"rows", t.rows}, {"cols", t.cols}, {"bytes", t.packed_bytes}});
  }
  const json report = {{"format", 1},
                       {"codec", kCodecVersion},
                       {"spec", json::parse(QuantizeSpecToJson(spec))},
                       {"checkpoint", inputs.checkpoint_digest},
                       {"calibration",
                        {{"source", inputs.calibration_source},
                         {"chat_template", inputs.calibration_chat_template},
                         {"digest", inputs.calibration_digest}}},
                       {"bpw", Rounded(plan.bpw)},
                       {"weights", plan.weights},
                       {"weights_file_bytes", plan.artifact_bytes},
                       {"coverage", {{"quantized", inputs.outcomes.size()}, {"planned", plan.tensors.size()}}},
                       {"quality", ToJson(quality)},
                       {"files", inputs.file_digests},
                       {"tensors", tensors},
                       {"embeddings", embeddings}};
  return report.dump(1) + "\n";
}

}  // namespace qamserve
