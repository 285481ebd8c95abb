#include "server/serving/load_wishes.h"

#include <gmock/gmock.h>

#include "tests/server/serving/registry_fixture.h"

namespace qamserve {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class LoadWishesTest : public ModelRegistryTest {
 protected:
  void SetUp() override {
    ModelRegistryTest::SetUp();
    artifact_ = AddArtifact("weights");
  }

  std::string AddArtifact(const std::string& content) {
    const BlobInfo blob = blobs_->CommitBytes(content).value();
    ArtifactRecord record;
    record.digest = blob.digest;
    record.files = {{.name = "model.safetensors", .sha256 = blob.digest, .size_bytes = blob.size}};
    EXPECT_TRUE(store_->PutArtifact(record).ok());
    return blob.digest;
  }

  // What is in the store when a process was killed right after its job had ended.
  void FinishedJob(const std::string& id, const std::string& load_as) {
    JobRecord job;
    job.id = id;
    job.key = id;
    job.state = JobState::kSucceeded;
    job.artifact = artifact_;
    job.load_as = load_as;
    ASSERT_TRUE(store_->InsertJob(job, {}).ok());
  }

  // As a process does that starts.
  void Restart() {
    Reopen();
    ASSERT_TRUE(registry_->Restore().ok());
    See();
  }
  void See() {
    LoadWishOptions options;
    options.load = [this](const LoadArgs& args) { return registry_->Load(args).status(); };
    options.on_error = [this](const LoadArgs& args, const absl::Status& error, bool again) {
      errors_.push_back(args.name + " " + ReasonOf(error) + (again ? " again" : ""));
    };
    const absl::StatusOr<int> left = SeeToLoadWishes(options, *store_, [] { return false; });
    ASSERT_TRUE(left.ok()) << left.status();
    left_ = *left;
  }
  int Loads() const {
    const std::lock_guard lock(state_->mutex);
    return state_->loads;
  }
  LoadArgs Args(const std::string& name, const std::string& source) const {
    LoadArgs args;
    args.name = name;
    args.source = source;
    return args;
  }

  std::string artifact_;
  std::vector<std::string> errors_;
  int left_ = -1;
};

TEST_F(LoadWishesTest, AWishThatNobodyWasToldOfIsSeenToAtTheNextStart) {
  FinishedJob("j", LoadWish("m"));
  Restart();
  ASSERT_TRUE(registry_->IsServed("m"));
  EXPECT_EQ((*registry_->Find("m"))->source(), ResourceName("artifacts", artifact_));
  EXPECT_THAT(errors_, IsEmpty());
  EXPECT_EQ(left_, 0);
  EXPECT_EQ(store_->GetJob("j")->load_as, "m");
  See();
  EXPECT_EQ(Loads(), 1) << "once";
}

TEST_F(LoadWishesTest, WhatWasUnloadedStaysUnloaded) {
  FinishedJob("j", LoadWish("m"));
  Restart();
  ASSERT_TRUE(registry_->Unload("m", 0, "").ok());
  Restart();
  EXPECT_FALSE(registry_->IsServed("m"));
}

// The row of the model and the end of the wish are one transaction: killed right after it, the next process finds the
// model wanted and no wish.
TEST_F(LoadWishesTest, NothingCanHappenBetweenTheModelsRowAndTheEndOfTheWish) {
  FinishedJob("j", LoadWish("m"));
  LoadArgs args = Args("m", ResourceName("artifacts", artifact_));
  args.wish = store_->ListLoadWishes()->front();
  ASSERT_TRUE(registry_->Load(args).ok());
  EXPECT_EQ(store_->ListServedModels()->size(), 1u);
  EXPECT_THAT(*store_->ListLoadWishes(), IsEmpty());
}

// Their program loaded them, and whoever unloaded one of them meant it.
TEST_F(LoadWishesTest, JobsOfProgramsWithoutTheMarkAreLeftAlone) {
  FinishedJob("j", "m");
  Restart();
  EXPECT_FALSE(registry_->IsServed("m"));
}

TEST_F(LoadWishesTest, AModelThatIsThereAlreadyEndsTheWish) {
  ASSERT_TRUE(registry_->Load(Args("m", ResourceName("artifacts", artifact_))).ok());
  FinishedJob("j", LoadWish("m"));
  See();
  EXPECT_THAT(errors_, IsEmpty());
  EXPECT_EQ(left_, 0);
  EXPECT_THAT(*store_->ListLoadWishes(), IsEmpty());
}

TEST_F(LoadWishesTest, ALoadThatFailsEndsItsWishButNotThoseOfOthers) {
  ASSERT_TRUE(registry_->Load(Args("taken", one_)).ok());
  FinishedJob("j1", LoadWish("taken"));
  FinishedJob("j2", LoadWish("m"));
  See();
  EXPECT_THAT(errors_, ElementsAre("taken MODEL_NAME_TAKEN"));
  EXPECT_TRUE(registry_->IsServed("m"));
  EXPECT_EQ(left_, 0);
  EXPECT_THAT(*store_->ListLoadWishes(), IsEmpty());
}

TEST_F(LoadWishesTest, WhatAServerThatShutsDownRefusesItsSuccessorLoads) {
  FinishedJob("j", LoadWish("m"));
  registry_->DrainAll(absl::InfinitePast());
  See();
  EXPECT_THAT(errors_, ElementsAre("m SHUTTING_DOWN again"));
  EXPECT_EQ(left_, 1);
  Restart();
  EXPECT_TRUE(registry_->IsServed("m"));
}

}  // namespace
}  // namespace qamserve
