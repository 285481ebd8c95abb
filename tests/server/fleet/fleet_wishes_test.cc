// What several processes make of one wish to load (server/serving/load_wishes.h).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/serving/load_wishes.h"
#include "tests/server/fleet/fleet_fixture.h"

namespace qamserve {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

class FleetWishesTest : public FleetTest {
 protected:
  void SetUp() override {
    FleetTest::SetUp();
    other_ = std::make_unique<FleetModels>(FleetModelsOptions{}, *store_);
    const BlobInfo blob = blobs_->CommitBytes("weights").value();
    ArtifactRecord artifact;
    artifact.digest = blob.digest;
    artifact.files = {{.name = "model.safetensors", .sha256 = blob.digest, .size_bytes = blob.size}};
    ASSERT_TRUE(store_->PutArtifact(artifact).ok());
    JobRecord job;
    job.id = job.key = "j";
    job.state = JobState::kSucceeded;
    job.artifact = blob.digest;
    job.load_as = LoadWish("m");
    ASSERT_TRUE(store_->InsertJob(job, {}).ok());
    wish_ = store_->ListLoadWishes()->front();
  }

  LoadArgs Wished() const {
    LoadArgs args = Args("m", ResourceName("artifacts", wish_.artifact));
    args.wish = wish_;
    return args;
  }

  JobRecord wish_;
  std::unique_ptr<FleetModels> other_;  // of another process
};

TEST_F(FleetWishesTest, AnyProcessSeesToWhatItsMakerDidNot) {
  Node& node = AddNode("a");
  LoadWishOptions options;
  options.load = [this](const LoadArgs& args) { return other_->Want(args); };
  const absl::StatusOr<int> left = SeeToLoadWishes(options, *store_, [] { return false; });
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_EQ(*left, 0);
  EXPECT_TRUE(Eventually([&] { return node.Has("m"); }));
  EXPECT_THAT(*store_->ListLoadWishes(), IsEmpty());
}

TEST_F(FleetWishesTest, TwoProcessesThatReadTheSameWishLoadOnce) {
  ASSERT_TRUE(fleet_->Want(Wished()).ok());
  ASSERT_TRUE(other_->Want(Wished()).ok());
  EXPECT_THAT(*store_->ListServedModels(), SizeIs(1));
  // It is unloaded before the slower one gets so far.
  ASSERT_TRUE(Unload("m", 0).ok());
  ASSERT_TRUE(other_->Want(Wished()).ok());
  EXPECT_THAT(*store_->ListServedModels(), IsEmpty());
}

TEST_F(FleetWishesTest, ANameThatIsBeingUnloadedIsWaitedFor) {
  ASSERT_TRUE(store_->PutServedModel({.name = "m", .source = one_, .replicas = 0}).ok());
  std::vector<bool> again;
  LoadWishOptions options;
  options.load = [this](const LoadArgs& args) { return fleet_->Want(args); };
  options.on_error = [&](const LoadArgs&, const absl::Status& error, bool later) {
    EXPECT_EQ(ReasonOf(error), "MODEL_BUSY");
    again.push_back(later);
  };
  const auto see = [&] { return SeeToLoadWishes(options, *store_, [] { return false; }).value_or(-1); };
  EXPECT_EQ(see(), 1);
  EXPECT_EQ(again, std::vector<bool>{true});
  ASSERT_TRUE(store_->DeleteServedModel("m").ok());
  EXPECT_EQ(see(), 0);
  EXPECT_EQ(store_->ListServedModels()->front().source, ResourceName("artifacts", wish_.artifact));
}

}  // namespace
}  // namespace qamserve
