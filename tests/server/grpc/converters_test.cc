#include "server/grpc/converters.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <set>
#include <string_view>

#include "server/store/built_in_text.h"
#include "server/telemetry/metric_table.h"

namespace qamserve {
namespace {

const std::string kDigest(64, 'a');

TEST(ConvertersTest, AQuantizeSpecComesBackAsItWent) {
  v1::QuantizeSpec spec;
  spec.set_codec(v1::CODEC_JOINT);
  spec.set_bpw(3.5);
  spec.set_channel_scale(false);
  spec.set_rotation(v1::ROTATION_BLOCK);
  spec.set_seed(9);
  spec.mutable_calibration()->set_text("texts/" + kDigest);
  spec.mutable_calibration()->set_windows(4);
  spec.mutable_evaluation()->set_window_tokens(256);
  spec.set_max_kl(0.25);
  spec.set_embedding_bits(8);
  v1::RateRule* rule = spec.add_rates();
  rule->set_filter("*.down_proj");
  rule->set_bpw(6);
  const auto job = JobSpecFromProto("checkpoints/" + kDigest, spec);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->checkpoint, kDigest);
  EXPECT_EQ(ToProto(*job).SerializeAsString(), spec.SerializeAsString());
}

TEST(ConvertersTest, FullPrecisionHasDefaultsOfItsOwnAndRefusesWhatIsSet) {
  v1::QuantizeSpec spec;
  spec.set_codec(v1::CODEC_FULL);
  const auto job = JobSpecFromProto("checkpoints/" + kDigest, spec);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->quantize.codec, Codec::kFull);
  EXPECT_EQ(job->quantize.bpw, 16);
  EXPECT_EQ(ValidateQuantizeSpec(job->quantize), absl::OkStatus());
  EXPECT_EQ(ToProto(*job).codec(), v1::CODEC_FULL);
  const auto refused = [&](auto set) {
    v1::QuantizeSpec other = spec;
    set(other);
    return ReasonOf(ValidateQuantizeSpec(JobSpecFromProto("checkpoints/" + kDigest, other)->quantize));
  };
  EXPECT_EQ(refused([](v1::QuantizeSpec& s) { s.set_channel_scale(true); }), "CODEC_OPTION");
  EXPECT_EQ(refused([](v1::QuantizeSpec& s) { s.set_rotation(v1::ROTATION_FULL); }), "CODEC_OPTION");
  EXPECT_EQ(refused([](v1::QuantizeSpec& s) { s.set_error_feedback(true); }), "CODEC_OPTION");
  EXPECT_EQ(refused([](v1::QuantizeSpec& s) { s.set_bpw(4); }), "BPW_RANGE");
  spec.set_codec(v1::CODEC_INT8);
  EXPECT_EQ(JobSpecFromProto("checkpoints/" + kDigest, spec)->quantize.bpw, 8);
}

TEST(ConvertersTest, AChatTemplateIsAskedForRefusedOrLeftToTheServer) {
  v1::TextSelection text;
  EXPECT_EQ(TextSelectionFromProto(text)->chat_template, std::nullopt);
  for (const bool value : {false, true}) {
    text.set_chat_template(value);
    const auto selection = TextSelectionFromProto(text);
    ASSERT_TRUE(selection.ok());
    EXPECT_EQ(selection->chat_template, value);
    JobSpec job;
    job.calibration = *selection;
    EXPECT_EQ(ToProto(job).calibration().has_chat_template(), true);
    EXPECT_EQ(ToProto(job).calibration().chat_template(), value);
    EXPECT_FALSE(ToProto(job).evaluation().has_chat_template());
  }
}

TEST(ConvertersTest, TheBuiltInTextHasANameOfItsOwn) {
  v1::TextSelection text;
  text.set_text("texts/built-in");
  EXPECT_EQ(TextSelectionFromProto(text)->text, BuiltInTextRecord().digest);
  // From then on it is named by its digest, like any other.
  JobSpec job;
  job.calibration = *TextSelectionFromProto(text);
  EXPECT_EQ(ToProto(job).calibration().text(), "texts/" + BuiltInTextRecord().digest);
}

TEST(ConvertersTest, TargetsAndLaddersTakeThePlaceOfARate) {
  v1::QuantizeSpec spec;
  spec.mutable_target()->set_kl(0.02);
  auto job = JobSpecFromProto("checkpoints/" + kDigest, spec);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_TRUE(job->target.mixed) << "by default";
  EXPECT_EQ(ToProto(*job).target().kl(), 0.02);
  EXPECT_EQ(ToProto(*job).bpw(), 0);
  spec.mutable_target()->set_mixed_rates(false);
  EXPECT_FALSE(JobSpecFromProto("checkpoints/" + kDigest, spec)->target.mixed);
  spec.set_bpw(4);
  EXPECT_EQ(ReasonOf(JobSpecFromProto("checkpoints/" + kDigest, spec).status()), "TARGET_CONFLICT");
  spec.clear_bpw();
  spec.mutable_target()->set_kl(0);
  EXPECT_EQ(ReasonOf(JobSpecFromProto("checkpoints/" + kDigest, spec).status()), "TARGET_RANGE") << "nothing to reach";
  spec.clear_target();
  spec.add_ladder(3);
  spec.add_ladder(4);
  spec.set_curve_only(true);
  job = JobSpecFromProto("checkpoints/" + kDigest, spec);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(ToProto(*job).ladder_size(), 2);
  EXPECT_TRUE(ToProto(*job).curve_only());
}

TEST(ConvertersTest, AStudyHasARowForEveryMethodAndRate) {
  v1::CreateStudyJobRequest request;
  request.add_checkpoints("checkpoints/" + kDigest);
  v1::StudyMethod* method = request.add_methods();
  method->mutable_spec()->set_codec(v1::CODEC_POLAR);
  EXPECT_EQ(ReasonOf(StudyArgsFromProto(request).status()), "STUDY_SIZE") << "no rates";
  method->add_rates(3.5);
  method->add_rates(4);
  const auto args = StudyArgsFromProto(request);
  ASSERT_TRUE(args.ok()) << args.status();
  ASSERT_EQ(args->spec.methods.size(), 2u);
  EXPECT_EQ(args->spec.methods[1].codec, Codec::kPolar);
  EXPECT_EQ(args->spec.methods[1].bpw, 4);
  // What is the study's own, or of no use to it, is not left aside in silence.
  using Change = void (*)(v1::QuantizeSpec&);
  const std::pair<const char*, Change> stray[] = {
      {"bpw", [](v1::QuantizeSpec& spec) { spec.set_bpw(4); }},
      {"rates", [](v1::QuantizeSpec& spec) { spec.add_rates()->set_bpw(4); }},
      {"target", [](v1::QuantizeSpec& spec) { spec.mutable_target()->set_kl(0.1); }},
      {"ladder", [](v1::QuantizeSpec& spec) { spec.add_ladder(4); }},
      {"curve_only", [](v1::QuantizeSpec& spec) { spec.set_curve_only(true); }},
      {"calibration", [](v1::QuantizeSpec& spec) { spec.mutable_calibration()->set_windows(1); }},
      {"evaluation", [](v1::QuantizeSpec& spec) { spec.mutable_evaluation()->set_windows(1); }},
      {"max_kl", [](v1::QuantizeSpec& spec) { spec.set_max_kl(0.1); }}};
  for (const auto& [field, change] : stray) {
    v1::CreateStudyJobRequest changed = request;
    change(*changed.mutable_methods(0)->mutable_spec());
    const absl::Status status = StudyArgsFromProto(changed).status();
    EXPECT_EQ(ReasonOf(status), "STUDY_METHOD") << field;
    EXPECT_NE(MessageOf(status).find(std::string("spec.") + field), std::string::npos) << status;
  }
  request.set_checkpoints(0, "artifacts/" + kDigest);
  EXPECT_EQ(ReasonOf(StudyArgsFromProto(request).status()), "RESOURCE_NAME");
}

// Values that a label of some metric may have.
std::set<std::string_view> LabelValues(std::string_view label) {
  std::set<std::string_view> values;
  for (const MetricSpec& metric : AllMetrics()) {
    for (const LabelSpec& spec : metric.labels) {
      if (spec.name == label) values.insert(spec.values.begin(), spec.values.end());
    }
  }
  return values;
}

TEST(MetricLabelsTest, KnowEveryStageAndKindOfJob) {
  for (int stage = 0; stage <= static_cast<int>(TaskStage::kAllocate); ++stage) {
    EXPECT_TRUE(LabelValues("stage").contains(TaskStageName(static_cast<TaskStage>(stage)))) << stage;
  }
  for (JobKind kind : {JobKind::kQuantize, JobKind::kEvaluate, JobKind::kStudy}) {
    EXPECT_TRUE(LabelValues("kind").contains(JobKindName(kind)));
  }
}

TEST(ConvertersTest, AnEmptySpecHasTheDefaultsOfTheApi) {
  const auto job = JobSpecFromProto("checkpoints/" + kDigest, v1::QuantizeSpec());
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->quantize.bpw, 5.5);
  EXPECT_TRUE(job->quantize.channel_scale);
  EXPECT_EQ(job->quantize.rotation, RotationKind::kFull);
  EXPECT_EQ(job->quantize.seed, 1u);
  EXPECT_EQ(job->max_kl, 0);
}

TEST(ConvertersTest, RefusesWhatItDoesNotKnow) {
  v1::QuantizeSpec spec;
  spec.set_codec(static_cast<v1::Codec>(77));
  EXPECT_EQ(ReasonOf(JobSpecFromProto("checkpoints/" + kDigest, spec).status()), "CODEC");
  spec.clear_codec();
  spec.set_rotation(static_cast<v1::Rotation>(77));
  EXPECT_EQ(ReasonOf(JobSpecFromProto("checkpoints/" + kDigest, spec).status()), "ROTATION");
  EXPECT_EQ(ReasonOf(JobSpecFromProto("artifacts/" + kDigest, v1::QuantizeSpec()).status()), "RESOURCE_NAME");
  EXPECT_EQ(ReasonOf(JobStateFromProto(static_cast<v1::JobState>(77)).status()), "JOB_STATE");
  EXPECT_EQ(ReasonOf(UploadKindFromProto(v1::UPLOAD_KIND_UNSPECIFIED).status()), "UPLOAD_KIND");
  google::protobuf::RepeatedPtrField<v1::FileInfo> files;
  EXPECT_EQ(ReasonOf(FilesFromProto(files).status()), "UPLOAD_FILES");
  files.Add()->set_size_bytes(-1);
  EXPECT_EQ(ReasonOf(FilesFromProto(files).status()), "FIELD_RANGE");
}

TEST(ConvertersTest, SamplingDefaultsAndLimits) {
  const auto sampling = SamplingFromProto(v1::SamplingParams());
  ASSERT_TRUE(sampling.ok()) << sampling.status();
  EXPECT_EQ(sampling->max_tokens, 256);
  EXPECT_EQ(sampling->temperature, 1);
  EXPECT_EQ(sampling->top_p, 1);
  EXPECT_EQ(sampling->repetition_penalty, 1);
  EXPECT_EQ(sampling->logprobs, -1);
  v1::SamplingParams params;
  params.set_temperature(0);
  params.add_stop("end");
  params.set_logprobs(2);
  const auto greedy = SamplingFromProto(params);
  ASSERT_TRUE(greedy.ok()) << greedy.status();
  EXPECT_EQ(greedy->temperature, 0) << "0 is a value, not a default";
  EXPECT_EQ(greedy->logprobs, 2);
  params.add_stop("");
  EXPECT_EQ(ReasonOf(SamplingFromProto(params).status()), "SAMPLING_PARAM");
  params.clear_stop();
  params.set_max_tokens(-1);
  EXPECT_EQ(ReasonOf(SamplingFromProto(params).status()), "SAMPLING_PARAM");
}

TEST(ConvertersTest, AJobShowsItsErrorAndOnlyTheTimesItHas) {
  JobView view;
  view.job.id = "j1";
  view.job.state = JobState::kFailed;
  view.job.checkpoint = kDigest;
  view.job.error = {"DISK_FULL", "no space", 8};
  view.job.created_ms = 1'500;
  view.tensors = {{.name = "t", .rows = 2, .cols = 3, .bpw = 5.5, .distortion = 0.1, .weighted_error = 0.2}};
  view.quality = QualityReport{.windows = 8, .kl_mean = 0.25};
  const v1::Job job = ToProto(view);
  EXPECT_EQ(job.name(), "jobs/j1");
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.artifact(), "");
  EXPECT_EQ(job.error().reason(), "DISK_FULL");
  EXPECT_EQ(job.error().code(), 8);
  EXPECT_EQ(job.create_time().seconds(), 1);
  EXPECT_EQ(job.create_time().nanos(), 500'000'000);
  EXPECT_FALSE(job.has_start_time());
  ASSERT_EQ(job.tensors_size(), 1);
  EXPECT_EQ(job.tensors(0).weighted_error(), 0.2);
  EXPECT_EQ(job.quality().kl_mean(), 0.25);
}

TEST(ConvertersTest, EnumsOfStoreAndApiAreTheSameNumbers) {
  for (int i = 1; i <= 7; ++i) {
    EXPECT_EQ(v1::JobState_Name(ToProto(static_cast<JobState>(i))),
              std::string("JOB_STATE_") + JobStateName(static_cast<JobState>(i)));
  }
}

}  // namespace
}  // namespace qamserve
