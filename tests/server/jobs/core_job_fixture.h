// One server's stores, jobs and worker on a data folder, with the real tasks, and a tiny model and a text to import.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "core/base/file.h"
#include "core/base/rng.h"
#include "server/jobs/job_manager.h"
#include "server/jobs/worker.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/store/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace qamserve {

inline std::string SomeText() {
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
  using MakeRunner = std::function<std::unique_ptr<TaskRunner>(Catalog&)>;

  Service(const TempDir& dir, const std::string& name, int threads, const MakeRunner& make_runner = MakeCoreRunner) {
    const std::string data = dir / name;
    std::filesystem::create_directories(data);
    blobs_ = DirectoryBlobStore::Open({.root = data, .reserve_bytes = 0, .free_bytes = {}}).value();
    store_ = OpenSqliteMetadataStore(data + "/meta").value();
    CatalogOptions options;
    options.import_root = dir / "import";
    catalog_ = std::make_unique<Catalog>(options, *store_, *blobs_);
    runner_ = make_runner(*catalog_);
    JobManagerOptions manager_options;
    manager_options.work_dir = data + "/work";
    manager_ = std::make_unique<JobManager>(manager_options, *store_, *catalog_, *runner_);
    EXPECT_TRUE(manager_->Start().ok());
    threads_ = threads;
  }

  Catalog& catalog() { return *catalog_; }
  JobManager& jobs() { return *manager_; }
  void StartWorker() {
    worker_ = std::make_unique<Worker>(WorkerOptions{.name = "w", .threads = threads_}, *manager_, *runner_);
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
  static std::unique_ptr<TaskRunner> MakeCoreRunner(Catalog& catalog) {
    return std::make_unique<CoreTaskRunner>(catalog);
  }

  int threads_ = 1;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<MetadataStore> store_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<TaskRunner> runner_;
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

}  // namespace qamserve
