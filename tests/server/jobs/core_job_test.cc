// The real tasks on a tiny random model: from an import to an artifact that another job measures again.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/base/file.h"
#include "core/base/rng.h"
#include "server/jobs/job_manager.h"
#include "server/jobs/worker.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/store/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

std::string SomeText() {
  Rng rng(7);
  std::string text;
  while (text.size() < 6000) {
    const uint64_t letters = 1 + rng.NextU64() % 8;
    for (uint64_t i = 0; i < letters; ++i) text += static_cast<char>('a' + rng.NextU64() % 26);
    text += rng.NextU64() % 9 == 0 ? ".\n" : " ";
  }
  return text;
}

// One server's worth of objects on one data folder.
class Service {
 public:
  explicit Service(const TempDir& dir, const std::string& name, int threads) {
    const std::string data = dir / name;
    std::filesystem::create_directories(data);
    blobs_ = DirectoryBlobStore::Open({.root = data, .reserve_bytes = 0, .free_bytes = {}}).value();
    store_ = OpenSqliteMetadataStore(data + "/meta").value();
    CatalogOptions options;
    options.import_root = dir / "import";
    catalog_ = std::make_unique<Catalog>(options, *store_, *blobs_);
    runner_ = std::make_unique<CoreTaskRunner>(*catalog_);
    JobManagerOptions manager_options;
    manager_options.work_dir = data + "/work";
    manager_ = std::make_unique<JobManager>(manager_options, *store_, *catalog_, *runner_);
    EXPECT_TRUE(manager_->Start().ok());
    threads_ = threads;
  }

  Catalog& catalog() { return *catalog_; }
  JobManager& jobs() { return *manager_; }
  void StartWorker() {
    worker_ =
        std::make_unique<Worker>(WorkerOptions{.name = "w", .pool = "cpu", .threads = threads_}, *manager_, *runner_);
  }
  void StopWorker() { worker_.reset(); }

  JobView Finish(const std::string& id) {
    JobView view;
    for (uint64_t seen = 0; !IsFinal(view.job.state) || view.job.id.empty(); seen = view.change) {
      auto next = jobs().WaitForChange(id, seen, 0, 60'000);
      EXPECT_TRUE(next.ok()) << next.status();
      if (!next.ok() || next->change == seen) break;
      view = *std::move(next);
    }
    return view;
  }

 private:
  int threads_ = 1;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<MetadataStore> store_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<CoreTaskRunner> runner_;
  std::unique_ptr<JobManager> manager_;
  std::unique_ptr<Worker> worker_;
};

class CoreJobTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_ / "import");
    ASSERT_TRUE(WriteTinyModel({}, dir_ / "import/tiny").ok());
    ASSERT_TRUE(WriteFileAtomically(dir_ / "import/text.txt", SomeText()).ok());
  }

  CreateQuantizeJobArgs Import(Service& service) {
    const auto checkpoint = service.catalog().Import(UploadKind::kCheckpoint, "tiny", "", "");
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto text = service.catalog().Import(UploadKind::kText, "text.txt", "", "");
    EXPECT_TRUE(text.ok()) << text.status();
    CreateQuantizeJobArgs args;
    if (!checkpoint.ok() || !text.ok()) return args;
    args.spec.checkpoint = std::get<CheckpointRecord>(*checkpoint).digest;
    args.spec.calibration = {.text = std::get<TextRecord>(*text).digest, .windows = 9, .window_tokens = 64};
    args.spec.evaluation = {.text = std::get<TextRecord>(*text).digest, .windows = 2, .window_tokens = 64};
    return args;
  }

  TempDir dir_;
};

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

TEST_F(CoreJobTest, ShortTextFailsWithBothCounts) {
  Service service(dir_, "short", 1);
  CreateQuantizeJobArgs args = Import(service);
  args.spec.evaluation.windows = 4000;
  const auto created = service.jobs().CreateQuantizeJob(args);
  ASSERT_TRUE(created.ok()) << created.status();
  service.StartWorker();
  const JobView view = service.Finish(created->job.id);
  EXPECT_EQ(view.job.state, JobState::kFailed);
  EXPECT_EQ(view.job.error.reason, "TEXT_TOO_SHORT") << view.job.error.message;
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
