// A ModelRegistry with real stores in a temporary folder and fake weights, and two checkpoints to load.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/serving/model_registry.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/serving/fake_loader.h"
#include "tests/support/temp_folder.h"

namespace qamserve {

class NullSink : public TokenSink {
 public:
  bool OnToken(const TokenEvent&) override { return true; }
  void OnDone(const GenerationSummary& summary) override { reason = summary.reason; }
  std::optional<FinishReason> reason;
};

class ModelRegistryTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_ / "blobs");
    blobs_ = DirectoryBlobStore::Open({.root = dir_ / "blobs", .reserve_bytes = 0, .free_bytes = {}}).value();
    store_ = OpenSqliteMetadataStore(dir_ / "meta").value();
    catalog_ = std::make_unique<Catalog>(CatalogOptions{}, *store_, *blobs_);
    one_ = AddCheckpoint("one");
    two_ = AddCheckpoint("two");
    Reopen();
  }

  void Reopen() {
    registry_.reset();
    RegistryOptions options;
    options.memory_limit_bytes = memory_limit_bytes_;
    options.routing_seed = 7;
    options.on_change = [this](const ServedModelView& view) {
      changes_.push_back(view.name + ":" + ServedModelStateName(view.state));
    };
    registry_ = std::make_unique<ModelRegistry>(options, *catalog_, loader_);
    ASSERT_TRUE(registry_->RestoreNames().ok());
  }

  std::string AddCheckpoint(const std::string& content) {
    const BlobInfo blob = blobs_->CommitBytes(content).value();
    CheckpointRecord record;
    record.digest = blob.digest;
    record.files = {{.name = "model.gguf", .sha256 = blob.digest, .size_bytes = blob.size}};
    EXPECT_TRUE(store_->PutCheckpoint(record).ok());
    return ResourceName("checkpoints", blob.digest);
  }

  TempFolder dir_;
  int64_t memory_limit_bytes_ = 2500;  // two models of the fake loader
  std::shared_ptr<FakeState> state_ = std::make_shared<FakeState>();
  FakeLoader loader_{state_};
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<MetadataStore> store_;
  std::unique_ptr<Catalog> catalog_;
  std::vector<std::string> changes_;
  std::unique_ptr<ModelRegistry> registry_;
  std::string one_;
  std::string two_;
};

}  // namespace qamserve
