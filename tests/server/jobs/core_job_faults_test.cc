// Jobs that must not end well: bad input is refused when the job is created, where it can be known, or ends it FAILED
// with the tensor's name; damage between its tasks ends it REJECTED by a gate.
#include <gmock/gmock.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/format/artifact_format.h"
#include "server/jobs/task_spec.h"
#include "tests/server/jobs/core_job_fixture.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kVictim[] = "model.layers.1.self_attn.o_proj";

// The real tasks, with one tensor spoiled after, or before, it is quantized.
class SpoilingRunner final : public CoreTaskRunner {
 public:
  enum class Fault { kZeros, kNanNorm, kOtherCodebook };

  SpoilingRunner(Catalog& catalog, Fault fault) : CoreTaskRunner(catalog), catalog_(catalog), fault_(fault) {}

  absl::StatusOr<TaskOutcome> Run(const TaskInput& input, ThreadPool& pool, ProgressFn progress) override {
    if (input.task.stage != TaskStage::kQuantize || input.task.name != kVictim) {
      return CoreTaskRunner::Run(input, pool, progress);
    }
    if (fault_ == Fault::kOtherCodebook) {
      TaskInput other = input;
      ASSIGN_OR_RETURN(TaskSpec spec, TaskSpecOf(input.task));
      spec.quantize->codec = Codec::kPolar;
      other.task.spec_json = TaskSpecToJson(spec);
      return CoreTaskRunner::Run(other, pool, progress);
    }
    ASSIGN_OR_RETURN(TaskOutcome outcome, CoreTaskRunner::Run(input, pool, progress));
    ASSIGN_OR_RETURN(const std::string path, catalog_.blobs().LocalPath(outcome.blobs.front()));
    ASSIGN_OR_RETURN(std::string bytes, ReadFile(path, 1 << 30));
    Spoil(bytes);
    ASSIGN_OR_RETURN(const BlobInfo blob, catalog_.blobs().CommitBytes(bytes));
    outcome.blobs = {blob.digest};
    return outcome;
  }

 private:
  void Spoil(std::string& file) const {
    uint64_t header = 0;
    std::memcpy(&header, file.data(), sizeof(header));
    if (fault_ == Fault::kZeros)
      return static_cast<void>(file.replace(8 + header, std::string::npos, file.size() - 8 - header, '\0'));
    const auto json = nlohmann::json::parse(file.substr(8, header));
    const auto norms = json.at(std::string(kVictim) + kRowNormSuffix).at("data_offsets").at(0).get<size_t>();
    constexpr uint16_t kNan = 0x7e00;
    // Of row 1, which is none of those that the gate reads back.
    std::memcpy(&file[8 + header + norms + sizeof(kNan)], &kNan, sizeof(kNan));
  }

  Catalog& catalog_;
  const Fault fault_;
};

class CoreJobFaultsTest : public CoreJobTest {
 protected:
  JobView RunSpoiled(SpoilingRunner::Fault fault) {
    Service service(dir_, "spoiled", 2,
                    [fault](Catalog& catalog) { return std::make_unique<SpoilingRunner>(catalog, fault); });
    CreateQuantizeJobArgs args = Import(service);
    args.spec.quantize.bpw = 4;
    const auto created = service.jobs().CreateQuantizeJob(args);
    EXPECT_TRUE(created.ok()) << created.status();
    if (!created.ok()) return {};
    service.StartWorker();
    JobView view = service.Finish(created->job.id);
    EXPECT_TRUE(service.catalog().ListArtifacts({}, "")->items.empty());
    return view;
  }

  // The end of a job on a model that was written with these options.
  JobView RunOn(const TinyModelOptions& model, const QuantizeSpec& quantize) {
    EXPECT_TRUE(WriteTinyModel(model, dir_ / "import/tiny").ok());
    Service service(dir_, "bad", 2);
    CreateQuantizeJobArgs args = Import(service);
    args.spec.quantize = quantize;
    const auto created = service.jobs().CreateQuantizeJob(args);
    EXPECT_TRUE(created.ok()) << created.status();
    if (!created.ok()) return {};
    service.StartWorker();
    return service.Finish(created->job.id);
  }
};

TEST_F(CoreJobFaultsTest, PlantedDamageEndsRejected) {
  using Fault = SpoilingRunner::Fault;
  for (const Fault fault : {Fault::kZeros, Fault::kNanNorm, Fault::kOtherCodebook}) {
    std::filesystem::remove_all(dir_ / "spoiled");
    const JobView view = RunSpoiled(fault);
    EXPECT_EQ(view.job.state, JobState::kRejected) << static_cast<int>(fault) << view.job.error.message;
    EXPECT_EQ(view.job.error.reason, "GATE_RECONSTRUCTION") << static_cast<int>(fault);
    EXPECT_THAT(view.job.error.message, HasSubstr(kVictim)) << static_cast<int>(fault);
    EXPECT_EQ(view.job.artifact, "");
  }
}

TEST_F(CoreJobFaultsTest, AWeightThatIsNotANumberEndsFailedWithItsTensor) {
  TinyModelOptions model;
  model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    FindTinyTensor(tensors, std::string(kVictim) + ".weight")->overrides = {{70, std::nanf("")}};
  };
  const JobView view = RunOn(model, {.bpw = 4});
  EXPECT_EQ(view.job.state, JobState::kFailed);
  EXPECT_EQ(view.job.error.reason, "TENSOR_NOT_FINITE");
  EXPECT_THAT(view.job.error.message, AllOf(HasSubstr(kVictim), HasSubstr("row 1"), HasSubstr("column 6")));
}

TEST_F(CoreJobFaultsTest, SingularStatisticsEndFailedWithTheTensor) {
  TinyModelOptions model;
  model.edit_tensors = [](std::vector<TinyTensor>& tensors) {
    TinyTensor* norm = FindTinyTensor(tensors, "model.layers.1.post_attention_layernorm.weight");
    for (int64_t j = 0; j < 64; ++j) norm->overrides.emplace_back(j, 0.0f);
  };
  const JobView view = RunOn(model, {.bpw = 4, .error_feedback = true});
  EXPECT_EQ(view.job.state, JobState::kFailed);
  EXPECT_EQ(view.job.error.reason, "STATISTICS_SINGULAR");
  EXPECT_THAT(view.job.error.message,
              testing::AnyOf(HasSubstr("model.layers.1.mlp.gate_proj"), HasSubstr("model.layers.1.mlp.up_proj")));
}

// A short text is counted when the job is created, for each of its uses and with each model's own tokens.
TEST_F(CoreJobFaultsTest, ATextThatIsTooShortIsRefusedBeforeTheJob) {
  Service service(dir_, "short", 1);
  CreateQuantizeJobArgs args = Import(service);
  const auto refused = [&](const CreateQuantizeJobArgs& asked) {
    const absl::Status status = service.jobs().CreateQuantizeJob(asked).status();
    EXPECT_EQ(ReasonOf(status), "TEXT_TOO_SHORT") << status;
    return MessageOf(status);
  };
  args.spec.evaluation.windows = 4000;
  EXPECT_THAT(refused(args),
              AllOf(testing::StartsWith("evaluation: text text.txt"), HasSubstr("4000 windows of 64 need 256000")));
  // Long enough for either use, not for both.
  args = Import(service);
  args.spec.evaluation.windows = 30;
  args.spec.calibration.windows = 80;
  EXPECT_THAT(refused(args), AllOf(testing::StartsWith("calibration: text text.txt"),
                                   HasSubstr("behind the 1920 tokens that are for evaluation")));
  // Less than one window.
  ASSERT_TRUE(WriteFileAtomically(dir_ / "import/text.txt", "one window has more").ok());
  args = Import(service);
  args.spec.evaluation.windows = 1;
  EXPECT_THAT(refused(args), HasSubstr("1 windows of 64 need 64"));
  args.validate_only = true;
  refused(args);
  EXPECT_TRUE(service.jobs().ListJobs({}, {})->items.empty()) << "nothing was started";
}

TEST_F(CoreJobFaultsTest, AnEvaluationOfAShortTextIsRefusedBeforeTheJob) {
  Service service(dir_, "eval", 2);
  CreateQuantizeJobArgs args = Import(service);
  service.StartWorker();
  const JobView made = service.Finish(service.jobs().CreateQuantizeJob(args)->job.id);
  ASSERT_EQ(made.job.state, JobState::kSucceeded) << made.job.error.message;
  CreateEvaluateJobArgs evaluate{.artifact = made.job.artifact, .evaluation = args.spec.evaluation};
  evaluate.evaluation.windows = 500;
  const absl::Status status = service.jobs().CreateEvaluateJob(evaluate).status();
  EXPECT_EQ(ReasonOf(status), "TEXT_TOO_SHORT");
  EXPECT_THAT(MessageOf(status), testing::StartsWith("evaluation: text text.txt"));
}

TEST_F(CoreJobFaultsTest, AFilterThatMatchesNothingAndRatesThatNoCodecHasAreRefusedBeforeTheJob) {
  Service service(dir_, "filter", 1);
  CreateQuantizeJobArgs args = Import(service);
  const auto refused = [&] { return service.jobs().CreateQuantizeJob(args).status(); };
  args.spec.quantize.rates = {{.filter = "*.experts.*", .bpw = 4}};
  EXPECT_EQ(ReasonOf(refused()), "FILTER_MATCHES_NOTHING");
  EXPECT_THAT(MessageOf(refused()), HasSubstr("*.experts.*"));
  args.spec.quantize.rates = {{.filter = "*.q_proj", .bpw = 7}};
  EXPECT_EQ(ReasonOf(refused()), "BPW_RANGE");
  EXPECT_THAT(MessageOf(refused()), HasSubstr("*.q_proj"));
  args.spec.quantize.rates.clear();
  // Below the lowest rate of each codec, all bits counted.
  for (const auto& [codec, bpw] :
       {std::pair(Codec::kJoint, 2.5), std::pair(Codec::kTrellis, 2.4), std::pair(Codec::kInt8, 7.9)}) {
    args.spec.quantize.codec = codec;
    args.spec.target = {};
    args.spec.target.size.bpw = bpw;
    EXPECT_EQ(ReasonOf(refused()), "TARGET_TOO_SMALL") << CodecName(codec);
    args.spec.target = {};
    args.spec.target.size.bytes = 1000;
    EXPECT_EQ(ReasonOf(refused()), "TARGET_TOO_SMALL") << CodecName(codec);
  }
}

}  // namespace
}  // namespace qamserve
