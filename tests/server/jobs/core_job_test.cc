// The real tasks on a tiny random model: from an import to an artifact that another job measures again.
#include <gtest/gtest.h>

#include <filesystem>

#include "server/store/built_in_text.h"
#include "tests/server/jobs/core_job_fixture.h"

namespace qamserve {
namespace {

TEST_F(CoreJobTest, QuantizesMeasuresAndIsBitExact) {
  Service one(dir_, "one", 1);
  const CreateQuantizeJobArgs args = Import(one);
  const auto created = one.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_EQ(created->estimate.tensors, 14);
  one.StartWorker();
  const JobView done = one.Finish(created->job.id);
  ASSERT_EQ(done.job.state, JobState::kSucceeded) << done.job.error.message;
  EXPECT_EQ(done.tensors.size(), 14u);
  ASSERT_TRUE(done.quality.has_value());
  EXPECT_EQ(done.quality->text_source, "text");
  EXPECT_GT(done.quality->kl_mean, 0);

  const auto artifact = one.catalog().GetArtifact(done.job.artifact);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  std::map<std::string, uint64_t> sizes;
  for (const FileRecord& file : artifact->files) sizes[file.name] = file.size_bytes;
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "report.json", "README.md"}) {
    EXPECT_TRUE(sizes.contains(name)) << name;
  }
  EXPECT_EQ(static_cast<int64_t>(sizes["model.safetensors"]), created->estimate.artifact_bytes);

  // Another server with other threads, interrupted after some tasks.
  std::string id;
  {
    Service two(dir_, "two", 2);
    Import(two);
    id = two.jobs().CreateQuantizeJob(args)->job.id;
    two.StartWorker();
    uint64_t seen = 0;
    for (int done_tasks = 0; done_tasks < 4;) {
      const auto view = two.jobs().WaitForChange(id, seen, 0, 60'000);
      ASSERT_TRUE(view.ok());
      seen = view->change;
      done_tasks = view->progress.tasks_done;
    }
    two.StopWorker();
  }
  Service two(dir_, "two", 2);
  two.StartWorker();
  const JobView other = two.Finish(id);
  ASSERT_EQ(other.job.state, JobState::kSucceeded) << other.job.error.message;
  EXPECT_EQ(other.job.artifact, done.job.artifact);

  // The same numbers when measured again.
  const auto evaluate =
      one.jobs().CreateEvaluateJob({.artifact = done.job.artifact, .evaluation = args.spec.evaluation});
  ASSERT_TRUE(evaluate.ok()) << evaluate.status();
  const JobView measured = one.Finish(evaluate->job.id);
  ASSERT_EQ(measured.job.state, JobState::kSucceeded) << measured.job.error.message;
  EXPECT_EQ(measured.quality->kl_mean, done.quality->kl_mean);
}

TEST_F(CoreJobTest, WorksWithoutTextAndGatesOnQuality) {
  Service service(dir_, "own", 1);
  CreateQuantizeJobArgs args = Import(service);
  args.spec.calibration = {.text = "", .windows = 1, .window_tokens = 16};
  args.spec.evaluation = {.text = "", .windows = 2, .window_tokens = 16};
  args.spec.max_kl = 1e-9;
  const auto created = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  service.StartWorker();
  const JobView view = service.Finish(created->job.id);
  EXPECT_EQ(view.job.state, JobState::kRejected) << view.job.error.message;
  EXPECT_EQ(view.job.error.reason, "GATE_QUALITY");
  ASSERT_TRUE(view.quality.has_value());
  EXPECT_EQ(view.quality->text_source, "own samples");
  EXPECT_TRUE(service.catalog().ListArtifacts({}, "")->items.empty());
}

TEST_F(CoreJobTest, FullPrecisionIsAMethodAmongOthers) {
  TinyModelOptions half;
  half.dtype = DType::kBF16;
  ASSERT_TRUE(WriteTinyModel(half, dir_ / "import/tiny").ok());
  Service service(dir_, "full", 2);
  CreateQuantizeJobArgs args = Import(service);
  args.spec.quantize = {.codec = Codec::kFull, .bpw = 16, .channel_scale = false, .rotation = RotationKind::kNone};
  const auto created = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  service.StartWorker();
  const JobView done = service.Finish(created->job.id);
  ASSERT_EQ(done.job.state, JobState::kSucceeded) << done.job.error.message;
  EXPECT_EQ(done.tensors.size(), 14u);
  EXPECT_EQ(done.tensors[0].type, "BF16");
  EXPECT_LT(done.quality->kl_max, 1e-9) << "measured, and the weights are the checkpoint's own";
  const auto artifact = service.catalog().GetArtifact(done.job.artifact);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_EQ(artifact->codec, "full");
  EXPECT_EQ(artifact->bpw, 16);

  CreateQuantizeJobArgs study = Import(service);
  study.spec.checkpoints = {args.spec.checkpoint};
  study.spec.methods = {args.spec.quantize, {.bpw = 4}};
  const auto table = service.jobs().CreateStudyJob(study);
  ASSERT_TRUE(table.ok()) << table.status();
  const JobView rows = service.Finish(table->job.id);
  ASSERT_EQ(rows.candidates.size(), 2u) << rows.job.error.message;
  const auto measured = service.jobs().GetStudy(table->job.id);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->rows[0].method, "full precision");
  EXPECT_EQ(measured->rows[0].bpw, 16);
  EXPECT_LT(measured->rows[0].quality.kl_mean, 1e-9);
  EXPECT_GT(measured->rows[1].quality.kl_mean, 1e-5);
  EXPECT_TRUE(StudyFromJson(StudyJson(*measured)).ok());
}

// The report of a finished job's artifact.
std::string ReportOf(Service& service, const JobView& done) {
  const auto artifact = service.catalog().GetArtifact(done.job.artifact);
  if (!artifact.ok()) return artifact.status().ToString() + done.job.error.message;
  return *service.catalog().FileSetOf("artifact", artifact->files)->ReadText("report.json", 1 << 20);
}

TEST_F(CoreJobTest, OwnSamplesBeginAsTheChatTemplateDoes) {
  Service service(dir_, "samples", 2);
  CreateQuantizeJobArgs args = Import(service);
  args.spec.calibration = {.text = "", .windows = 2, .window_tokens = 32};
  args.spec.evaluation = {.text = "", .windows = 2, .window_tokens = 32};
  service.StartWorker();
  const auto created = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  const JobView chat = service.Finish(created->job.id);
  ASSERT_EQ(chat.job.state, JobState::kSucceeded) << chat.job.error.message;
  EXPECT_TRUE(chat.quality->chat_template);
  EXPECT_EQ(chat.quality->text_source, "own samples");
  EXPECT_NE(ReportOf(service, chat).find("\"chat_template\": true"), std::string::npos);
  // To ask for what is the default is the same job.
  args.spec.calibration.chat_template = true;
  EXPECT_EQ(service.jobs().CreateQuantizeJob(args)->job.id, chat.job.id);

  args.spec.calibration.chat_template = false;
  args.spec.evaluation.chat_template = false;
  const auto plain = service.Finish(service.jobs().CreateQuantizeJob(args)->job.id);
  ASSERT_EQ(plain.job.state, JobState::kSucceeded) << plain.job.error.message;
  EXPECT_FALSE(plain.quality->chat_template);
  EXPECT_NE(plain.quality->text_digest, chat.quality->text_digest);
  EXPECT_EQ(ReportOf(service, plain).find("\"chat_template\": true"), std::string::npos);

  // No room for what the template prints.
  args.spec.evaluation = {.text = "", .windows = 1, .window_tokens = 2};
  const auto narrow = service.Finish(service.jobs().CreateQuantizeJob(args)->job.id);
  EXPECT_EQ(narrow.job.state, JobState::kFailed);
  EXPECT_EQ(narrow.job.error.reason, "WINDOW_TOKENS_RANGE") << narrow.job.error.message;
}

TEST_F(CoreJobTest, TheBuiltInTextNeedsNoUpload) {
  Service service(dir_, "built-in", 2);
  CreateQuantizeJobArgs args = Import(service);
  args.spec.calibration = {.text = BuiltInTextRecord().digest, .windows = 16, .window_tokens = 128};
  const auto created = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  service.StartWorker();
  const JobView done = service.Finish(created->job.id);
  ASSERT_EQ(done.job.state, JobState::kSucceeded) << done.job.error.message;
  EXPECT_NE(ReportOf(service, done).find("built-in text"), std::string::npos);
  args.spec.evaluation = {.text = BuiltInTextRecord().digest, .windows = 4, .window_tokens = 64};
  const JobView measured = service.Finish(service.jobs().CreateQuantizeJob(args)->job.id);
  ASSERT_EQ(measured.job.state, JobState::kSucceeded) << measured.job.error.message;
  EXPECT_EQ(measured.quality->text_source, "built-in text");
}

TEST_F(CoreJobTest, ConversationsAreRenderedByTheModelsTemplate) {
  std::string lines;
  for (int i = 0; i < 60; ++i) {
    lines += fmt::format(
        "{{\"messages\": [{{\"role\": \"user\", \"content\": \"say {}\"}}, {{\"role\": \"assistant\", "
        "\"content\": \"it is {}\"}}]}}\n",
        i, i * i);
  }
  ASSERT_TRUE(WriteFileAtomically(dir_ / "import/text.txt", lines).ok());
  Service service(dir_, "chats", 2);
  CreateQuantizeJobArgs args = Import(service);
  args.spec.calibration.windows = 3;
  service.StartWorker();
  const auto created = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  const JobView chat = service.Finish(created->job.id);
  ASSERT_EQ(chat.job.state, JobState::kSucceeded) << chat.job.error.message;
  EXPECT_TRUE(chat.quality->chat_template);
  EXPECT_EQ(chat.quality->text_source, "text");
  EXPECT_NE(ReportOf(service, chat).find("\"chat_template\": true"), std::string::npos);

  // As it is, JSON and all, where the user says so; of one text both sides must say the same.
  args.spec.calibration.chat_template = false;
  EXPECT_EQ(ReasonOf(service.jobs().CreateQuantizeJob(args).status()), "CHAT_TEMPLATE_CONFLICT");
  args.spec.evaluation.chat_template = false;
  const auto plain = service.Finish(service.jobs().CreateQuantizeJob(args)->job.id);
  ASSERT_EQ(plain.job.state, JobState::kSucceeded) << plain.job.error.message;
  EXPECT_NE(plain.quality->text_digest, chat.quality->text_digest);

  // A line that is none is found at once in a short text, in a long one when it is read.
  ASSERT_TRUE(WriteFileAtomically(dir_ / "import/text.txt", lines + "nonsense\n").ok());
  args = Import(service);
  const absl::Status refused = service.jobs().CreateQuantizeJob(args).status();
  EXPECT_EQ(ReasonOf(refused), "CONVERSATION_INVALID");
  EXPECT_NE(MessageOf(refused).find("line 61"), std::string::npos) << refused;
  std::string longer;
  for (int i = 0; i < 40; ++i) longer += lines;
  ASSERT_TRUE(WriteFileAtomically(dir_ / "import/text.txt", longer + "nonsense\n").ok());
  args = Import(service);
  const auto created_long = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created_long.ok()) << created_long.status();
  const auto broken = service.Finish(created_long->job.id);
  EXPECT_EQ(broken.job.state, JobState::kFailed);
  EXPECT_EQ(broken.job.error.reason, "CONVERSATION_INVALID");
  EXPECT_NE(broken.job.error.message.find("line 2401"), std::string::npos) << broken.job.error.message;
}

TEST_F(CoreJobTest, ATemplateThatIsNotThereIsAnErrorWhereItIsNeeded) {
  // A model whose tokenizer says nothing of chats.
  ASSERT_TRUE(WriteFileAtomically(dir_ / "import/tiny/tokenizer_config.json",
                                  "{\"bos_token\": \"<|endoftext|>\", \"eos_token\": \"<|im_end|>\"}")
                  .ok());
  ASSERT_TRUE(WriteFileAtomically(dir_ / "import/text.txt",
                                  "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n" + SomeText())
                  .ok());
  Service service(dir_, "none", 2);
  CreateQuantizeJobArgs args = Import(service);
  const absl::Status status = service.jobs().CreateQuantizeJob(args).status();
  EXPECT_EQ(ReasonOf(status), "TEXT_TEMPLATE_MISSING");
  EXPECT_TRUE(MessageOf(status).starts_with("evaluation.text")) << status;
  args.spec.calibration.text = args.spec.evaluation.text = "";
  args.spec.calibration.chat_template = true;
  EXPECT_EQ(ReasonOf(service.jobs().CreateQuantizeJob(args).status()), "TEXT_TEMPLATE_MISSING");
  args.spec.calibration.chat_template = std::nullopt;
  EXPECT_TRUE(service.jobs().CreateQuantizeJob(args).ok()) << "from the first token, as before";
  // A text without conversations has nothing to render.
  ASSERT_TRUE(WriteFileAtomically(dir_ / "import/text.txt", SomeText()).ok());
  args = Import(service);
  args.spec.evaluation.chat_template = true;
  EXPECT_EQ(ReasonOf(service.jobs().CreateQuantizeJob(args).status()), "CONVERSATION_INVALID");
}

TEST_F(CoreJobTest, ALadderGivesWhatSingleJobsGive) {
  Service service(dir_, "ladder", 2);
  CreateQuantizeJobArgs args = Import(service);
  args.display_name = "tiny";
  args.spec.ladder = {5, 3, 3};
  const auto created = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  service.StartWorker();
  const JobView done = service.Finish(created->job.id);
  ASSERT_EQ(done.job.state, JobState::kSucceeded) << done.job.error.message;
  EXPECT_EQ(done.job.artifact, "");
  ASSERT_EQ(done.candidates.size(), 2u);
  EXPECT_EQ(done.candidates[0].measured.spec.bpw, 3);
  EXPECT_GT(done.candidates[0].measured.quality.kl_mean, done.candidates[1].measured.quality.kl_mean);
  EXPECT_EQ(service.catalog().ListArtifacts({}, "")->items.size(), 2u);

  args.spec.ladder.clear();
  args.spec.quantize.bpw = 5;
  const auto single = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(single.ok()) << single.status();
  const JobView alone = service.Finish(single->job.id);
  EXPECT_EQ(alone.job.artifact, done.candidates[1].artifact);

  // The same ladder is the same job, until one of its artifacts is gone.
  args.spec.ladder = {3, 5};
  EXPECT_EQ(service.jobs().CreateQuantizeJob(args)->job.id, done.job.id);
  ASSERT_TRUE(service.catalog().DeleteArtifact(done.candidates[0].artifact, "").ok());
  const auto again = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_NE(again->job.id, done.job.id);
  EXPECT_EQ(service.Finish(again->job.id).candidates[0].artifact, done.candidates[0].artifact);

  args.spec.curve_only = true;
  args.spec.ladder = {3, 4};
  const auto curve = service.jobs().CreateQuantizeJob(args);
  const JobView measured = service.Finish(curve->job.id);
  ASSERT_EQ(measured.candidates.size(), 2u) << measured.job.error.message;
  EXPECT_EQ(measured.candidates[1].artifact, "");
  EXPECT_EQ(measured.candidates[0].measured.quality.kl_mean, done.candidates[0].measured.quality.kl_mean);
}

TEST_F(CoreJobTest, SizeTargetsAreNeverExceeded) {
  Service service(dir_, "size", 2);
  CreateQuantizeJobArgs args = Import(service);
  args.spec.target.size.bpw = 5.2;
  args.spec.target.mixed = true;
  const auto created = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  service.StartWorker();
  const JobView done = service.Finish(created->job.id);
  ASSERT_EQ(done.job.state, JobState::kSucceeded) << done.job.error.message;
  ASSERT_EQ(done.candidates.size(), 2u);
  EXPECT_FALSE(done.candidates[0].measured.mixed());
  EXPECT_TRUE(done.candidates[1].measured.mixed());
  for (const JobCandidate& candidate : done.candidates) EXPECT_LE(candidate.measured.bpw, 5.2);
  const auto artifact = service.catalog().GetArtifact(done.job.artifact);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_LE(artifact->bpw, 5.2);
  // The better of the two.
  const double best =
      std::min(done.candidates[0].measured.quality.kl_mean, done.candidates[1].measured.quality.kl_mean);
  EXPECT_EQ(done.quality->kl_mean, best);
  EXPECT_EQ(service.catalog().ListArtifacts({}, "")->items.size(), 1u);

  args.spec.target.size.bpw = 1;
  EXPECT_EQ(ReasonOf(service.jobs().CreateQuantizeJob(args).status()), "TARGET_TOO_SMALL");
  args.spec.target.kl = 0.1;
  EXPECT_EQ(ReasonOf(service.jobs().CreateQuantizeJob(args).status()), "TARGET_CONFLICT");
  args.spec.target = {};
  args.spec.quantize.rates = {{.filter = "*.experts.*", .bpw = 4}};
  EXPECT_EQ(ReasonOf(service.jobs().CreateQuantizeJob(args).status()), "FILTER_MATCHES_NOTHING");
}

TEST_F(CoreJobTest, QualityTargetsEndAcceptedOrWithTheBestThatWasReached) {
  Service service(dir_, "quality", 2);
  CreateQuantizeJobArgs args = Import(service);
  args.spec.evaluation.windows = 4;
  args.spec.ladder = {3.5, 4.5};
  args.spec.curve_only = true;
  const auto curve = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(curve.ok()) << curve.status();
  service.StartWorker();
  const JobView known = service.Finish(curve->job.id);
  ASSERT_EQ(known.candidates.size(), 2u) << known.job.error.message;
  const double passes = known.candidates[1].measured.quality.kl_ci95_high;

  args.spec.ladder.clear();
  args.spec.curve_only = false;
  args.spec.target.kl = 1.01 * passes;
  args.spec.target.mixed = true;
  const auto created = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  const JobView done = service.Finish(created->job.id);
  ASSERT_EQ(done.job.state, JobState::kSucceeded) << done.job.error.message;
  EXPECT_LE(done.quality->kl_ci95_high, args.spec.target.kl);
  EXPECT_LE(service.catalog().GetArtifact(done.job.artifact)->bpw, known.candidates[1].measured.bpw);

  args.spec.target.kl = 1e-7;
  const auto hopeless = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(hopeless.ok()) << hopeless.status();
  const JobView refused = service.Finish(hopeless->job.id);
  EXPECT_EQ(refused.job.state, JobState::kRejected);
  EXPECT_EQ(refused.job.error.reason, "GATE_TARGET") << refused.job.error.message;
  ASSERT_TRUE(refused.quality.has_value());
  EXPECT_EQ(refused.job.artifact, "");
}

TEST_F(CoreJobTest, AStudyMeasuresEveryMethodOnEveryCheckpoint) {
  TinyModelOptions other;
  other.architecture = Architecture::kGemma3;
  ASSERT_TRUE(WriteTinyModel(other, dir_ / "import/other").ok());
  Service service(dir_, "study", 2);
  CreateQuantizeJobArgs args = Import(service);
  const auto second = service.catalog().Import(UploadKind::kCheckpoint, "other", "", "");
  ASSERT_TRUE(second.ok()) << second.status();
  args.spec.checkpoints = {args.spec.checkpoint, std::get<CheckpointRecord>(*second).digest};
  for (Codec codec : {Codec::kJoint, Codec::kPolar}) {
    QuantizeSpec method;
    method.codec = codec;
    method.bpw = 4;
    method.channel_scale = codec == Codec::kJoint;
    args.spec.methods.push_back(method);
  }
  QuantizeSpec feedback = args.spec.methods.front();
  feedback.error_feedback = true;
  args.spec.methods.push_back(feedback);
  args.spec.methods.push_back(feedback);  // asked twice, measured once
  const auto created = service.jobs().CreateStudyJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  service.StartWorker();
  const JobView done = service.Finish(created->job.id);
  ASSERT_EQ(done.job.state, JobState::kSucceeded) << done.job.error.message;
  EXPECT_EQ(done.job.kind, JobKind::kStudy);
  EXPECT_EQ(done.candidates.size(), 6u);
  EXPECT_TRUE(service.catalog().ListArtifacts({}, "")->items.empty());
  const auto study = service.jobs().GetStudy(done.job.id);
  ASSERT_TRUE(study.ok()) << study.status();
  ASSERT_EQ(study->rows.size(), 6u);
  for (const StudyRow& row : study->rows) {
    EXPECT_GT(row.quality.kl_mean, 0) << row.method;
    EXPECT_EQ(row.tensors.size(), 14u);
    EXPECT_GT(row.ideal_distortion, 0) << row.method;
  }
  // Rows of the kind that was probed have a prediction, and not one that is out of this world.
  const StudyRow& scaled = study->rows[0];
  EXPECT_GT(scaled.predicted_kl, 0.3 * scaled.quality.kl_mean);
  EXPECT_LT(scaled.predicted_kl, 3 * scaled.quality.kl_mean);
  EXPECT_EQ(StudyJson(*study), StudyJson(*service.jobs().GetStudy(done.job.id)));

  args.spec.probes = false;
  args.spec.methods.resize(1);
  const auto quick = service.jobs().CreateStudyJob(args);
  ASSERT_TRUE(quick.ok()) << quick.status();
  const JobView rows = service.Finish(quick->job.id);
  ASSERT_EQ(rows.candidates.size(), 2u) << rows.job.error.message;
  EXPECT_EQ(rows.candidates[0].measured.quality.kl_mean, study->rows[0].quality.kl_mean);
  EXPECT_EQ(service.jobs().GetStudy(quick->job.id)->rows[0].predicted_kl, 0);
}

TEST_F(CoreJobTest, RefusesATokenizerThatDoesNotFit) {
  TinyModelOptions options;
  options.vocab_size = 262;
  ASSERT_TRUE(WriteTinyModel(options, dir_ / "import/small").ok());
  std::filesystem::copy_file(dir_ / "import/tiny/tokenizer.json", dir_ / "import/small/tokenizer.json",
                             std::filesystem::copy_options::overwrite_existing);
  Service service(dir_, "bad", 1);
  const auto status = service.catalog().Import(UploadKind::kCheckpoint, "small", "", "").status();
  EXPECT_EQ(ReasonOf(status), "TOKENIZER_MISMATCH") << status;
  EXPECT_TRUE(service.catalog().ListCheckpoints({})->items.empty());
}

}  // namespace
}  // namespace qamserve
