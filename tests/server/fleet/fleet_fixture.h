// A metadata store and blobs in a temporary folder, and inference instances over them with fake weights, each as a
// process of its own would be.
#pragma once

#include <absl/time/clock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/fleet/fleet_models.h"
#include "server/fleet/instance.h"
#include "server/fleet/replica_keeper.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/serving/fake_loader.h"
#include "tests/support/temp_folder.h"

namespace qamserve {

// Far longer than any of these tests takes.
inline constexpr absl::Duration kFleetPatience = absl::Seconds(20);

// Whether `condition` becomes true.
inline bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + kFleetPatience;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

// An inference process.
class Node {
 public:
  Node(const std::string& id, std::shared_ptr<MetadataStore> store, Catalog& catalog, int64_t memory_limit_bytes)
      : id_(id), store_(std::move(store)), loader_(state) {
    RegistryOptions registry;
    registry.memory_limit_bytes = memory_limit_bytes;
    registry.owns_rows = false;
    models_ = std::make_unique<ModelRegistry>(registry, catalog, loader_);
    Join();
  }
  ~Node() {
    Leave();
    models_->DrainAll(absl::InfinitePast());
  }

  void Join() {
    InstanceOptions instance;
    instance.record.id = id_;
    instance.record.host = "host-" + id_;
    instance.record.address = id_ + ":1";
    instance.record.roles = {"inference"};
    instance.record.memory_bytes = models_->memory_limit_bytes();
    instance.interval = absl::Milliseconds(20);
    instance_ = Instance::Start(instance, *store_).value();
    ReplicaKeeperOptions keeper;
    keeper.instance = id_;
    keeper.interval = absl::Milliseconds(20);
    keeper.claim_delay_ms = 200;
    keeper.retry_ms = retry_ms;
    keeper.drain_seconds = 10;
    keeper_ = std::make_unique<ReplicaKeeper>(keeper, *store_, *models_);
    instance_->FollowDrainRequests([this](bool requested) { keeper_->SetDrainRequested(requested); });
  }
  // In order, as at SIGTERM.
  void Leave() {
    if (keeper_ == nullptr) return;
    instance_->SetDraining();
    keeper_->BeginDrain();
    models_->DrainAll(absl::Now() + absl::Seconds(10));
    keeper_->Stop();
    instance_->Leave();
    keeper_ = nullptr;
  }

  const std::string& id() const { return id_; }
  ModelRegistry& models() { return *models_; }
  ReplicaKeeper& keeper() { return *keeper_; }
  bool Has(const std::string& model) const { return models_->IsServed(model); }

  const std::shared_ptr<FakeState> state = std::make_shared<FakeState>();
  int64_t retry_ms = 60'000;

 private:
  const std::string id_;
  const std::shared_ptr<MetadataStore> store_;
  FakeLoader loader_;
  std::unique_ptr<ModelRegistry> models_;
  std::unique_ptr<Instance> instance_;
  std::unique_ptr<ReplicaKeeper> keeper_;
};

class FleetTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_ / "blobs");
    blobs_ = DirectoryBlobStore::Open({.root = dir_ / "blobs", .reserve_bytes = 0, .free_bytes = {}}).value();
    store_ = OpenSqliteMetadataStore(dir_ / "meta").value();
    catalog_ = std::make_unique<Catalog>(CatalogOptions{}, *store_, *blobs_);
    fleet_ = std::make_unique<FleetModels>(FleetModelsOptions{}, *store_);
    one_ = AddCheckpoint("one");
    two_ = AddCheckpoint("two");
  }

  std::string AddCheckpoint(const std::string& content) {
    const BlobInfo blob = blobs_->CommitBytes(content).value();
    CheckpointRecord record;
    record.digest = blob.digest;
    record.files = {{.name = "model.gguf", .sha256 = blob.digest, .size_bytes = blob.size}};
    record.size_bytes = blob.size;
    EXPECT_TRUE(store_->PutCheckpoint(record).ok());
    return ResourceName("checkpoints", blob.digest);
  }

  Node& AddNode(const std::string& id, int64_t memory_limit_bytes = 100'000) {
    return *nodes_.emplace_back(std::make_unique<Node>(id, store_, *catalog_, memory_limit_bytes));
  }

  LoadArgs Args(const std::string& name, const std::string& source, int32_t replicas = 0) const {
    LoadArgs args;
    args.name = name;
    args.source = source;
    args.replicas = replicas;
    args.deadline = absl::Now() + kFleetPatience;
    return args;
  }
  absl::StatusOr<ServedModelView> Load(const std::string& name, const std::string& source, int32_t replicas = 0) {
    return fleet_->Load(Args(name, source, replicas));
  }
  absl::StatusOr<ServedModelView> Unload(const std::string& name, double drain_seconds = 5) {
    return fleet_->Unload({.name = name, .drain_seconds = drain_seconds});
  }
  ServedModelView View(const std::string& name) {
    const absl::StatusOr<ServedModelView> view = fleet_->Get(name);
    EXPECT_TRUE(view.ok()) << view.status();
    return view.ok() ? *view : ServedModelView{};
  }
  bool AwaitReady(const std::string& name, int32_t replicas) {
    return Eventually([&] { return View(name).ready_replicas == replicas; });
  }
  // Ids of the instances that have a row for the model, and its state.
  std::map<std::string, ReplicaState> Rows(const std::string& model) {
    std::map<std::string, ReplicaState> rows;
    const std::vector<ReplicaRecord> replicas = store_->ListReplicas().value();
    for (const ReplicaRecord& replica : replicas) {
      if (replica.model == model) rows[replica.instance] = replica.state;
    }
    return rows;
  }
  int CountHolders(const std::string& model) const {
    int holders = 0;
    for (const auto& node : nodes_) holders += node->Has(model) ? 1 : 0;
    return holders;
  }

  TempFolder dir_;
  std::unique_ptr<BlobStore> blobs_;
  std::shared_ptr<MetadataStore> store_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<FleetModels> fleet_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::string one_;
  std::string two_;
};

}  // namespace qamserve
