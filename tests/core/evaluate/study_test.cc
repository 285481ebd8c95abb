#include "core/evaluate/study.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/core/evaluate/study_fixture.h"

namespace qamserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(MethodNameTest, SaysWhatIsOutOfTheOrdinary) {
  QuantizeSpec spec;
  EXPECT_EQ(MethodName(spec), "joint + scale");
  spec.channel_scale = false;
  EXPECT_EQ(MethodName(spec), "joint");
  spec.codec = Codec::kPolar;
  EXPECT_EQ(MethodName(spec), "polar");
  spec.rotation = RotationKind::kBlock;
  EXPECT_EQ(MethodName(spec), "polar, block rotation");
  spec = {.codec = Codec::kTrellis, .channel_scale = false, .error_feedback = true};
  EXPECT_EQ(MethodName(spec), "trellis + LDLQ");
  spec.channel_scale = true;
  EXPECT_EQ(MethodName(spec), "trellis + scale + LDLQ");
  spec.rates = {{.filter = "*.down_proj", .bpw = 5}};
  spec.embedding_bits = 8;
  EXPECT_EQ(MethodName(spec), "trellis + scale + LDLQ, mixed rates, 8-bit embeddings");
  spec = {.codec = Codec::kUniform, .channel_scale = false, .rotation = RotationKind::kNone};
  EXPECT_EQ(MethodName(spec), "round to nearest");
  spec.rotation = RotationKind::kFull;
  EXPECT_EQ(MethodName(spec), "round to nearest + rotation");
  spec = {.codec = Codec::kInt8, .bpw = 8, .rotation = RotationKind::kNone};
  EXPECT_EQ(MethodName(spec), "SmoothQuant W8A8");
  spec.channel_scale = false;
  EXPECT_EQ(MethodName(spec), "W8A8");
  spec.codec = Codec::kFull;
  EXPECT_EQ(MethodName(spec), "full precision");
}

TEST(MethodNameTest, NoTwoMethodsShareAName) {
  std::set<std::string> names;
  size_t methods = 0;
  for (const Codec codec : kCodecs) {
    for (const RotationKind rotation : {RotationKind::kFull, RotationKind::kBlock, RotationKind::kNone}) {
      for (const int options : {0, 1, 2, 3}) {
        names.insert(MethodName({.codec = codec,
                                 .channel_scale = (options & 1) != 0,
                                 .error_feedback = (options & 2) != 0,
                                 .rotation = rotation}));
        ++methods;
      }
    }
  }
  EXPECT_EQ(names.size(), methods);
}

// The expected values are ratios of sums of ranks, worked out by hand.
TEST(SpearmanTest, OfDistinctValues) {
  const std::array<double, 10> iq = {106, 100, 86, 101, 99, 103, 97, 113, 112, 110};
  const std::array<double, 10> hours = {7, 27, 2, 50, 28, 29, 20, 12, 6, 17};
  EXPECT_NEAR(SpearmanCorrelation(iq, hours), -29.0 / 165, 1e-15);
  EXPECT_NEAR(SpearmanCorrelation(iq, iq), 1, 1e-15);
}

TEST(SpearmanTest, EqualValuesShareTheirRanks) {
  const std::array<double, 4> a = {1, 2, 2, 3};
  const std::array<double, 4> b = {1, 3, 2, 2};
  EXPECT_NEAR(SpearmanCorrelation(a, b), 0.5, 1e-15);  // ranks 1 2.5 2.5 4 and 1 4 2.5 2.5
  const std::array<double, 5> c = {0, 0, 0, 1, 1};
  const std::array<double, 5> d = {1, 2, 3, 3, 4};
  EXPECT_NEAR(SpearmanCorrelation(c, d), 6.25 / std::sqrt(7.5 * 9.5), 1e-15);
}

TEST(SpearmanTest, DependsOnTheOrderOnly) {
  const std::array<double, 5> a = {0.001, 0.5, 2, 30, 1e9};
  const std::array<double, 5> b = {-5, -4, 0, 0.1, 0.2};
  EXPECT_NEAR(SpearmanCorrelation(a, b), 1, 1e-15);
  const std::array<double, 5> falling = {5, 4, 3, 2, -1e300};
  EXPECT_NEAR(SpearmanCorrelation(a, falling), -1, 1e-15);
}

TEST(SpearmanTest, IsNotANumberWithoutAnOrder) {
  const std::array<double, 3> rising = {1, 2, 3};
  const std::array<double, 3> flat = {4, 4, 4};
  const std::array<double, 3> unknown = {1, std::numeric_limits<double>::quiet_NaN(), 3};
  EXPECT_TRUE(std::isnan(SpearmanCorrelation(std::span(rising).first(2), std::span(rising).first(2))));
  EXPECT_TRUE(std::isnan(SpearmanCorrelation({}, {})));
  EXPECT_TRUE(std::isnan(SpearmanCorrelation(rising, flat)));
  EXPECT_TRUE(std::isnan(SpearmanCorrelation(unknown, rising)));
}

TEST(StudyTest, MeanDistortionCountsWeights) {
  StudyRow row;
  EXPECT_EQ(MeanDistortion(row), 0);
  row.tensors = {{.rows = 2, .cols = 3, .distortion = 0.5}, {.rows = 6, .cols = 3, .distortion = 0.1}};
  EXPECT_NEAR(MeanDistortion(row), (6 * 0.5 + 18 * 0.1) / 24, 1e-15);
}

TEST(StudyTest, ModelsAreTheirCheckpoints) {
  Study study;
  study.rows = {RowOf("A", Codec::kJoint, 4, 0.1), RowOf("B", Codec::kJoint, 4, 0.1), RowOf("A", Codec::kJoint, 3, 0.3),
                RowOf("A", Codec::kJoint, 4, 0.1)};
  study.rows[3].checkpoint = "another";
  const std::vector<StudyModel> models = ModelsOf(study);
  ASSERT_THAT(models, SizeIs(3));
  EXPECT_THAT(models[0].rows, ElementsAre(0, 2));
  EXPECT_THAT(models[1].rows, ElementsAre(1));
  EXPECT_EQ(models[2].checkpoint, "another");
}

TEST(StudyTest, JointIsPairedWithThePolarRowThatDiffersInNothingElse) {
  Study study;
  study.rows = {RowOf("A", Codec::kPolar, 3, 0.4), RowOf("A", Codec::kJoint, 4, 0.1), RowOf("A", Codec::kJoint, 3, 0.3),
                RowOf("A", Codec::kPolar, 4, 0.2), RowOf("B", Codec::kPolar, 4, 0.2)};
  const auto pairs = [&] {
    std::vector<std::pair<size_t, size_t>> out;
    for (const JointPolarPair& pair : PairJointWithPolar(study)) out.emplace_back(pair.joint, pair.polar);
    return out;
  };
  EXPECT_THAT(pairs(), ElementsAre(std::pair(1, 3), std::pair(2, 0)));
  study.rows[3].spec.channel_scale = false;
  EXPECT_THAT(pairs(), ElementsAre(std::pair(2, 0)));
  study.rows[1].spec.channel_scale = false;
  EXPECT_THAT(pairs(), ElementsAre(std::pair(1, 3), std::pair(2, 0)));
  study.rows[0].quality.text_digest = "another text";
  EXPECT_THAT(pairs(), ElementsAre(std::pair(1, 3)));
  // Without statistics it does not matter what they would have been made of.
  study.rows[3].spec.calibration_windows = 99;
  EXPECT_THAT(pairs(), ElementsAre(std::pair(1, 3)));
}

TEST(StudyJsonTest, SaysWhatTheRowsSayTogether) {
  const nlohmann::json json = nlohmann::json::parse(StudyJson(StudyOfTwoModels()));
  EXPECT_EQ(json.at("rows").size(), 24);
  EXPECT_EQ(json.at("summary").at("all").at("rows"), 24);
  EXPECT_EQ(json.at("summary").at("all").at("spearman_kl_perplexity"), 1.0);
  ASSERT_EQ(json.at("summary").at("models").size(), 2);
  EXPECT_EQ(json.at("summary").at("models")[1].at("model"), "Large 1.7B");
  EXPECT_EQ(json.at("summary").at("models")[1].at("rows"), 12);
  ASSERT_EQ(json.at("joint_against_polar").size(), 6);
  EXPECT_EQ(json.at("joint_against_polar")[0].at("polar_over_joint"), 1.3);
  EXPECT_EQ(json.at("joint_against_polar")[0].at("nominal_bpw"), 3.0);
  const nlohmann::json& bound = json.at("bound")[0];
  EXPECT_EQ(bound.at("method"), "joint + scale");
  EXPECT_EQ(bound.at("kl").at("predicted_over_measured"), 0.8);
  EXPECT_EQ(bound.at("output_error").at("predicted_over_measured"), 0.9);
  // Distortions of 30 layers rise evenly from 1.5 to 4.4.
  EXPECT_NEAR(bound.at("distortion").at("predicted_over_measured").get<double>(), 1.4 / 2.95, 1e-6);
}

TEST(StudyJsonTest, NumbersHaveSixDigitsAndTheUnknownIsNull) {
  Study study;
  study.rows = {RowOf("A", Codec::kJoint, 4, 1.0 / 3)};
  study.rows[0].predicted_kl = 0;
  const nlohmann::json json = nlohmann::json::parse(StudyJson(study));
  EXPECT_EQ(json.at("rows")[0].at("quality").at("kl_mean"), 0.333333);
  EXPECT_EQ(json.at("rows")[0].at("predicted_kl"), 0.0);
  EXPECT_TRUE(json.at("bound")[0].at("kl").at("predicted").is_null());
  EXPECT_EQ(json.at("bound")[0].at("kl").at("measured"), 0.333333);
  EXPECT_TRUE(json.at("bound")[0].at("kl").at("predicted_over_measured").is_null());
  EXPECT_TRUE(json.at("summary").at("all").at("spearman_kl_perplexity").is_null());
}

TEST(StudyJsonTest, RowsAreReadBackAsTheyWereWritten) {
  Study study{.display_name = "a \"study\" <b>\n", .rows = {RowOf("A", Codec::kTrellis, 3.5, 0.25)}};
  study.rows[0].spec = {.codec = Codec::kTrellis,
                        .bpw = 3.5,
                        .rates = {{.filter = "*.down_proj", .bpw = 5}},
                        .channel_scale = false,
                        .error_feedback = true,
                        .embedding_bits = 8,
                        .rotation = RotationKind::kBlock,
                        .seed = 18446744073709551615U,
                        .calibration_windows = 16,
                        .window_tokens = 512};
  study.rows.push_back(RowOf("B", Codec::kInt8, 8, 0));
  const std::string json = StudyJson(study);
  const absl::StatusOr<Study> read = StudyFromJson(json);
  ASSERT_EQ(read.status(), absl::OkStatus());
  EXPECT_EQ(StudyJson(*read), json);
  EXPECT_EQ(read->display_name, study.display_name);
  const StudyRow& row = read->rows[0];
  EXPECT_EQ(row.model, "A");
  EXPECT_EQ(row.checkpoint, "digest of A");
  EXPECT_EQ(row.method, study.rows[0].method);
  EXPECT_EQ(QuantizeSpecToJson(row.spec), QuantizeSpecToJson(study.rows[0].spec));
  EXPECT_EQ(row.bpw, 3.523);
  EXPECT_EQ(row.artifact_bytes, 100000000);
  EXPECT_EQ(row.quality.kl_ci95_high, 0.2625);
  EXPECT_EQ(row.quality.text_digest, "digest of the text");
  ASSERT_THAT(row.tensors, SizeIs(6));
  EXPECT_EQ(row.tensors[5].name, "model.layers.2.mlp.up_proj");
  EXPECT_EQ(row.tensors[5].rows, 64);
  EXPECT_EQ(row.tensors[5].output_error, 0.1875);
  EXPECT_EQ(row.output_error, 0.75);
  EXPECT_EQ(row.predicted_output_error, 0.675);
  EXPECT_EQ(row.predicted_kl, 0.2);
  EXPECT_EQ(row.quantize_seconds, 12.5);
}

TEST(StudyJsonTest, WhatIsNotAStudyOrOfAnotherCodecVersionIsRefused) {
  const std::string json = StudyJson({.display_name = "", .rows = {RowOf("A", Codec::kJoint, 4, 0.1)}});
  const auto reason_with = [&](const std::string& from, const std::string& to) {
    std::string changed = json;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return ReasonOf(StudyFromJson(changed.replace(at, from.size(), to)).status());
  };
  EXPECT_EQ(ReasonOf(StudyFromJson("").status()), "STUDY_INVALID");
  EXPECT_EQ(ReasonOf(StudyFromJson("[]").status()), "STUDY_INVALID");
  EXPECT_EQ(reason_with("\"artifact_bytes\"", "\"bytes\""), "STUDY_INVALID");
  EXPECT_EQ(reason_with("\"worst_row_distortion\"", "\"worst\""), "STUDY_INVALID");
  EXPECT_EQ(reason_with(kCodecVersion, "qamw-0"), "CODEC_VERSION");
  EXPECT_EQ(reason_with("\"codec\": \"joint\"", "\"codec\": \"disjoint\""), "CODEC");
  EXPECT_EQ(reason_with("\"window_tokens\": 1024\n   },", "\"window_tokens\": 1\n   },"), "SPEC_FIELD");
}

TEST(StudyJsonTest, BytesThatAreNotUtf8AreReplaced) {
  const std::string json = StudyJson({.display_name = "\xff\xc3", .rows = {RowOf("\x80", Codec::kJoint, 4, 0.1)}});
  EXPECT_EQ(nlohmann::json::parse(json).at("display_name"), "\uFFFD\uFFFD");
}

// Fields of RFC 4180, line by line.
std::vector<std::vector<std::string>> ParseCsv(const std::string& csv) {
  std::vector<std::vector<std::string>> lines = {{""}};
  bool quoted = false;
  for (size_t i = 0; i < csv.size(); ++i) {
    std::string& field = lines.back().back();
    if (quoted && csv[i] == '"' && i + 1 < csv.size() && csv[i + 1] == '"') {
      field += csv[++i];
    } else if (csv[i] == '"') {
      quoted = !quoted;
    } else if (!quoted && csv[i] == ',') {
      lines.back().emplace_back();
    } else if (!quoted && csv.compare(i, 2, "\r\n") == 0) {
      ++i;
      lines.push_back({""});
    } else {
      field += csv[i];
    }
  }
  EXPECT_THAT(lines.back(), ElementsAre("")) << "the last line does not end";
  lines.pop_back();
  return lines;
}

TEST(StudyCsvTest, HasALineOfNamesAndALineARow) {
  const std::vector<std::vector<std::string>> lines = ParseCsv(StudyCsv(StudyOfTwoModels()));
  ASSERT_THAT(lines, SizeIs(25));
  const std::set<std::string> names(lines[0].begin(), lines[0].end());
  EXPECT_EQ(names.size(), lines[0].size()) << "two columns share a name";
  std::map<std::string, std::string> row;
  for (size_t i = 0; i < lines[0].size(); ++i) {
    ASSERT_EQ(lines[2].size(), lines[0].size());
    row[lines[0][i]] = lines[2][i];
  }
  EXPECT_EQ(row["model"], "Small 135M");
  EXPECT_EQ(row["method"], "joint + scale");
  EXPECT_EQ(row["spec_codec"], "joint");
  EXPECT_EQ(row["spec_bpw"], "4.0");
  EXPECT_EQ(row["spec_channel_scale"], "true");
  EXPECT_EQ(row["bpw"], "4.023");
  EXPECT_EQ(row["kl_mean"], "0.0976562");  // 25 / 256
  EXPECT_EQ(row["window_tokens"], "1024");
  EXPECT_EQ(row["artifact_bytes"], "100000000");
}

TEST(StudyCsvTest, NamesAreQuotedWhereTheyMustBe) {
  const std::string hostile = "a,\"b\"\r\nc";
  const std::string csv = StudyCsv({.display_name = "", .rows = {RowOf(hostile, Codec::kJoint, 4, 0.1)}});
  EXPECT_THAT(csv, HasSubstr("\r\n\"a,\"\"b\"\"\r\nc\","));
  const std::vector<std::vector<std::string>> lines = ParseCsv(csv);
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_EQ(lines[1][0], hostile);
  EXPECT_EQ(lines[1][1], "digest of " + hostile);
  EXPECT_EQ(lines[1].size(), lines[0].size());
}

TEST(StudyCsvTest, WhatIsNotFiniteIsEmpty) {
  StudyRow row = RowOf("A", Codec::kJoint, 4, 0.1);
  row.quality.quantized_perplexity = std::numeric_limits<double>::infinity();
  const std::vector<std::vector<std::string>> lines = ParseCsv(StudyCsv({.display_name = "", .rows = {row}}));
  ASSERT_THAT(lines, SizeIs(2));
  const auto column = std::find(lines[0].begin(), lines[0].end(), "quantized_perplexity") - lines[0].begin();
  EXPECT_EQ(lines[1].at(static_cast<size_t>(column)), "");
}

TEST(StudyTest, NoRowsGiveEmptyTables) {
  const Study study{.display_name = "nothing", .rows = {}};
  const nlohmann::json json = nlohmann::json::parse(StudyJson(study));
  EXPECT_THAT(json.at("rows"), IsEmpty());
  EXPECT_THAT(json.at("bound"), IsEmpty());
  EXPECT_THAT(json.at("summary").at("models"), IsEmpty());
  EXPECT_EQ(json.at("summary").at("all").at("rows"), 0);
  EXPECT_THAT(ParseCsv(StudyCsv(study)), SizeIs(1));
}

TEST(StudyTest, TheSameStudyGivesTheSameBytes) {
  EXPECT_EQ(StudyJson(StudyOfTwoModels()), StudyJson(StudyOfTwoModels()));
  EXPECT_EQ(StudyCsv(StudyOfTwoModels()), StudyCsv(StudyOfTwoModels()));
  // A difference below six digits is not seen.
  Study study = StudyOfTwoModels();
  study.rows[0].quality.kl_mean *= 1 + 1e-12;
  EXPECT_EQ(StudyJson(study), StudyJson(StudyOfTwoModels()));
}

}  // namespace
}  // namespace qamserve
