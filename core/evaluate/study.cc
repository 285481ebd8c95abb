#include "core/evaluate/study.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/evaluate/rounding.h"

namespace qamserve {
namespace {

using nlohmann::json;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Ranks from 1; equal values share the mean of theirs.
std::vector<double> Ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return values[i] < values[j]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double shared = static_cast<double>(begin + 1 + end) / 2;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = shared;
  }
  return ranks;
}

bool HasNan(std::span<const double> values) {
  return std::any_of(values.begin(), values.end(), [](double value) { return std::isnan(value); });
}

// What must be equal for two rows to differ in the codec alone.
std::string KeyWithoutCodec(const StudyRow& row) {
  QuantizeSpec spec = row.spec;
  spec.codec = Codec::kJoint;
  // The bytes before the names make it impossible for one to run into the next.
  return fmt::format("{}:{}{}:{}{}:{}{}:{}:{}", row.model.size(), row.model, row.checkpoint.size(), row.checkpoint,
                     row.quality.text_digest.size(), row.quality.text_digest, row.quality.windows,
                     row.quality.window_tokens, QuantizeSpecToJson(spec));
}

// One list of fields for reading and writing.
template <typename Row, typename Visit>
void VisitRowNumbers(Row& row, Visit visit) {
  visit("bpw", row.bpw);
  visit("ideal_distortion", row.ideal_distortion);
  visit("predicted_output_error", row.predicted_output_error);
  visit("output_error", row.output_error);
  visit("predicted_kl", row.predicted_kl);
  visit("quantize_seconds", row.quantize_seconds);
}

template <typename Row, typename Visit>
void VisitRowOthers(Row& row, Visit visit) {
  visit("model", row.model);
  visit("checkpoint", row.checkpoint);
  visit("method", row.method);
  visit("artifact_bytes", row.artifact_bytes);
}

template <typename Tensor, typename Visit>
void VisitTensorNumbers(Tensor& tensor, Visit visit) {
  visit("bpw", tensor.bpw);
  visit("distortion", tensor.distortion);
  visit("worst_row_distortion", tensor.worst_row_distortion);
  visit("weighted_error", tensor.weighted_error);
  visit("output_error", tensor.output_error);
}

template <typename Tensor, typename Visit>
void VisitTensorOthers(Tensor& tensor, Visit visit) {
  visit("name", tensor.name);
  visit("rows", tensor.rows);
  visit("cols", tensor.cols);
}

json TensorsJson(const StudyRow& row) {
  json tensors = json::array();
  for (const TensorOutcome& tensor : row.tensors) {
    json out;
    VisitTensorNumbers(tensor, [&](const char* name, double value) { out[name] = Rounded(value); });
    VisitTensorOthers(tensor, [&](const char* name, const auto& value) { out[name] = value; });
    tensors.push_back(std::move(out));
  }
  return tensors;
}

// All but the tensors.
json RowJson(const StudyRow& row) {
  json out;
  VisitRowNumbers(row, [&](const char* name, double value) { out[name] = Rounded(value); });
  VisitRowOthers(row, [&](const char* name, const auto& value) { out[name] = value; });
  out["mean_distortion"] = Rounded(MeanDistortion(row));
  out["spec"] = json::parse(QuantizeSpecToJson(row.spec));
  out["quality"] = json::parse(QualityReportToJson(row.quality));
  return out;
}

// What says which row is meant.
json RowName(const StudyRow& row) {
  return {{"model", row.model}, {"checkpoint", row.checkpoint}, {"method", row.method}, {"bpw", Rounded(row.bpw)}};
}

json SummaryJson(const Study& study) {
  json models = json::array();
  for (const StudyModel& model : ModelsOf(study)) {
    models.push_back({{"model", model.model},
                      {"checkpoint", model.checkpoint},
                      {"rows", model.rows.size()},
                      {"spearman_kl_perplexity", Rounded(KlPerplexityCorrelation(study, model.rows))}});
  }
  return {{"models", models},
          {"all", {{"rows", study.rows.size()}, {"spearman_kl_perplexity", Rounded(KlPerplexityCorrelation(study))}}}};
}

json JointAgainstPolarJson(const Study& study) {
  json out = json::array();
  for (const JointPolarPair& pair : PairJointWithPolar(study)) {
    const StudyRow& joint = study.rows[pair.joint];
    const StudyRow& polar = study.rows[pair.polar];
    out.push_back({{"model", joint.model},
                   {"checkpoint", joint.checkpoint},
                   {"joint", joint.method},
                   {"polar", polar.method},
                   {"nominal_bpw", Rounded(joint.spec.bpw)},
                   {"joint_kl", Rounded(joint.quality.kl_mean)},
                   {"polar_kl", Rounded(polar.quality.kl_mean)},
                   {"polar_over_joint", Rounded(KnownRatio(polar.quality.kl_mean, joint.quality.kl_mean))}});
  }
  return out;
}

json BoundJson(const Study& study) {
  const auto compared = [](double predicted, double measured) {
    const auto known = [](double value) { return value > 0 ? Rounded(value) : kNan; };
    return json{{"predicted", known(predicted)},
                {"measured", known(measured)},
                {"predicted_over_measured", Rounded(KnownRatio(predicted, measured))}};
  };
  json out = json::array();
  for (const StudyRow& row : study.rows) {
    json entry = RowName(row);
    entry["distortion"] = compared(row.ideal_distortion, MeanDistortion(row));
    entry["output_error"] = compared(row.predicted_output_error, row.output_error);
    entry["kl"] = compared(row.predicted_kl, row.quality.kl_mean);
    out.push_back(std::move(entry));
  }
  return out;
}

absl::StatusOr<QuantizeSpec> SpecFromJson(const json& in) {
  if (const auto version = in.at("codec_version").get<std::string>(); version != kCodecVersion) {
    return FailedPrecondition("CODEC_VERSION", "the study has a row of codec version {}; this program has {}", version,
                              kCodecVersion);
  }
  ASSIGN_OR_RETURN(QuantizeSpec spec, QuantizeSpecFromJson(in.dump()));
  RETURN_IF_ERROR(ValidateQuantizeSpec(spec));
  return spec;
}

absl::StatusOr<StudyRow> RowFromJson(const json& in) {
  StudyRow row;
  const auto read_from = [](const json& object) {
    return [&object](const char* name, auto& value) { object.at(name).get_to(value); };
  };
  VisitRowNumbers(row, read_from(in));
  VisitRowOthers(row, read_from(in));
  ASSIGN_OR_RETURN(row.spec, SpecFromJson(in.at("spec")));
  ASSIGN_OR_RETURN(row.quality, QualityReportFromJson(in.at("quality").dump()));
  for (const json& tensor : in.at("tensors")) {
    TensorOutcome& outcome = row.tensors.emplace_back();
    VisitTensorNumbers(outcome, read_from(tensor));
    VisitTensorOthers(outcome, read_from(tensor));
  }
  return row;
}

std::string CsvText(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

struct CsvField {
  std::string name;
  std::string value;
};

void AppendCsvFields(const json& object, const std::string& prefix, std::vector<CsvField>& fields) {
  for (const auto& [name, value] : object.items()) {
    if (value.is_object()) continue;
    const bool finite = !value.is_number_float() || std::isfinite(value.get<double>());
    fields.push_back({prefix + name, value.is_string()            ? CsvText(value.get<std::string>())
                                     : finite && !value.is_null() ? value.dump()
                                                                  : ""});
  }
}

std::vector<CsvField> CsvFields(const StudyRow& row) {
  const json all = RowJson(row);
  std::vector<CsvField> fields;
  for (const char* name : {"model", "checkpoint", "method"}) {
    fields.push_back({name, CsvText(all.at(name).get<std::string>())});
  }
  json rest = all;
  for (const CsvField& field : fields) rest.erase(field.name);
  AppendCsvFields(rest, "", fields);
  AppendCsvFields(all.at("quality"), "", fields);
  AppendCsvFields(all.at("spec"), "spec_", fields);
  return fields;
}

std::string CsvLine(const std::vector<CsvField>& fields, std::string CsvField::*part) {
  std::string line;
  for (const CsvField& field : fields) {
    if (!line.empty()) line += ',';
    line += field.*part;
  }
  return line + "\r\n";
}

}  // namespace

std::string MethodName(const QuantizeSpec& spec) {
  if (spec.codec == Codec::kInt8 && spec.channel_scale && !spec.error_feedback &&
      spec.rotation == RotationKind::kNone) {
    return "SmoothQuant W8A8";
  }
  std::string name(CodecName(spec.codec));
  if (spec.codec == Codec::kUniform) name = "round to nearest";
  if (spec.codec == Codec::kInt8) name = "W8A8";
  if (spec.codec == Codec::kFull) name = "full precision";
  if (spec.channel_scale) name += " + scale";
  if (spec.error_feedback) name += " + LDLQ";
  if (!spec.rates.empty()) name += ", mixed rates";
  if (spec.embedding_bits != QuantizeSpec().embedding_bits)
    name += fmt::format(", {}-bit embeddings", spec.embedding_bits);
  const bool plain = spec.codec == Codec::kUniform || spec.codec == Codec::kInt8 || spec.codec == Codec::kFull;
  switch (spec.rotation) {
    case RotationKind::kFull:
      return plain ? name + " + rotation" : name;
    case RotationKind::kBlock:
      return name + (plain ? " + block rotation" : ", block rotation");
    case RotationKind::kNone:
      return plain ? name : name + ", no rotation";
  }
  return name;
}

double SpearmanCorrelation(std::span<const double> a, std::span<const double> b) {
  if (a.size() < 3 || HasNan(a) || HasNan(b)) return kNan;
  const std::vector<double> x = Ranks(a);
  const std::vector<double> y = Ranks(b);
  const double mean = static_cast<double>(a.size() + 1) / 2;
  double xy = 0;
  double xx = 0;
  double yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : kNan;
}

double MeanDistortion(const StudyRow& row) {
  double sum = 0;
  double weights = 0;
  for (const TensorOutcome& tensor : row.tensors) {
    const double size = static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
    sum += tensor.distortion * size;
    weights += size;
  }
  return weights > 0 ? sum / weights : 0;
}

std::vector<StudyModel> ModelsOf(const Study& study) {
  std::vector<StudyModel> models;
  for (size_t i = 0; i < study.rows.size(); ++i) {
    const StudyRow& row = study.rows[i];
    auto found = std::find_if(models.begin(), models.end(), [&](const StudyModel& model) {
      return model.model == row.model && model.checkpoint == row.checkpoint;
    });
    if (found == models.end()) {
      found = models.insert(found, {.model = row.model, .checkpoint = row.checkpoint, .rows = {}});
    }
    found->rows.push_back(i);
  }
  return models;
}

double KlPerplexityCorrelation(const Study& study, std::span<const size_t> rows) {
  std::vector<double> kl;
  std::vector<double> change;
  for (const size_t i : rows) {
    kl.push_back(study.rows[i].quality.kl_mean);
    change.push_back(study.rows[i].quality.perplexity_change);
  }
  return SpearmanCorrelation(kl, change);
}

double KlPerplexityCorrelation(const Study& study) {
  std::vector<size_t> all(study.rows.size());
  std::iota(all.begin(), all.end(), size_t{0});
  return KlPerplexityCorrelation(study, all);
}

std::vector<JointPolarPair> PairJointWithPolar(const Study& study) {
  std::vector<std::string> keys;
  for (const StudyRow& row : study.rows) keys.push_back(KeyWithoutCodec(row));
  std::vector<JointPolarPair> pairs;
  for (size_t joint = 0; joint < study.rows.size(); ++joint) {
    if (study.rows[joint].spec.codec != Codec::kJoint) continue;
    for (size_t polar = 0; polar < study.rows.size(); ++polar) {
      if (study.rows[polar].spec.codec != Codec::kPolar || keys[polar] != keys[joint]) continue;
      pairs.push_back({.joint = joint, .polar = polar});
    }
  }
  return pairs;
}

double KnownRatio(double part, double whole) {
  const bool known = part > 0 && whole > 0 && std::isfinite(part) && std::isfinite(whole);
  return known ? part / whole : kNan;
}

std::string StudyJson(const Study& study) {
  json rows = json::array();
  for (const StudyRow& row : study.rows) {
    json out = RowJson(row);
    out["tensors"] = TensorsJson(row);
    rows.push_back(std::move(out));
  }
  const json all = {{"format", 1},
                    {"display_name", study.display_name},
                    {"rows", rows},
                    {"summary", SummaryJson(study)},
                    {"joint_against_polar", JointAgainstPolarJson(study)},
                    {"bound", BoundJson(study)}};
  // NaN is written as null, bytes that are not UTF-8 as U+FFFD.
  return all.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Study> StudyFromJson(const std::string& text) {
  Study study;
  try {
    const json in = json::parse(text);
    in.at("display_name").get_to(study.display_name);
    for (const json& row : in.at("rows")) {
      ASSIGN_OR_RETURN(study.rows.emplace_back(), RowFromJson(row));
    }
  } catch (const json::exception& e) {
    return DataLoss("STUDY_INVALID", "study: {}", e.what());
  }
  return study;
}

std::string StudyCsv(const Study& study) {
  std::string csv = CsvLine(CsvFields(StudyRow{}), &CsvField::name);
  for (const StudyRow& row : study.rows) csv += CsvLine(CsvFields(row), &CsvField::value);
  return csv;
}

}  // namespace qamserve
