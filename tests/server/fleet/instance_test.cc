// Signs of life, and what becomes of those that give none.
#include "server/fleet/instance.h"

#include <gmock/gmock.h>

#include "tests/server/fleet/fleet_fixture.h"

namespace qamserve {
namespace {

class InstanceTest : public FleetTest {
 protected:
  static InstanceOptions Options(const std::string& id) {
    InstanceOptions options;
    options.record.id = id;
    options.record.roles = {"api"};
    options.interval = absl::Milliseconds(10);
    return options;
  }
  InstanceRecord Row(const std::string& id) {
    const std::vector<InstanceRecord> instances = store_->ListInstances().value();
    for (const InstanceRecord& instance : instances) {
      if (instance.id == id) return instance;
    }
    return {};
  }
};

TEST_F(InstanceTest, ShowsThatItLivesAndLeavesWithoutATrace) {
  auto instance = Instance::Start(Options("a"), *store_);
  ASSERT_TRUE(instance.ok()) << instance.status();
  const int64_t first_ms = Row("a").seen_ms;
  EXPECT_GT(first_ms, 0);
  EXPECT_TRUE(Eventually([&] { return Row("a").seen_ms > first_ms; }));
  (*instance)->SetDraining();
  EXPECT_TRUE(Eventually([&] { return Row("a").draining; }));
  (*instance)->Leave();
  EXPECT_EQ(Row("a").id, "");
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(Row("a").id, "") << "no sign of life comes after the end";
}

TEST_F(InstanceTest, ARowThatWasRemovedComesBack) {
  auto instance = Instance::Start(Options("a"), *store_);
  ASSERT_TRUE(instance.ok());
  ASSERT_TRUE(store_->DeleteInstance("a").ok());
  EXPECT_TRUE(Eventually([&] { return Row("a").id == "a"; }));
}

TEST_F(InstanceTest, SeesThatItIsAskedToDrain) {
  auto instance = Instance::Start(Options("a"), *store_);
  ASSERT_TRUE(instance.ok());
  std::atomic<int> calls{0};
  std::atomic<bool> requested{true};
  (*instance)->FollowDrainRequests([&](bool now) {
    requested = now;
    ++calls;
  });
  EXPECT_FALSE(requested);
  EXPECT_EQ(calls, 1);
  ASSERT_TRUE(store_->RequestDrain("a", true).ok());
  ASSERT_TRUE(Eventually([&] { return requested.load(); }));
  const int64_t seen_ms = Row("a").seen_ms;
  ASSERT_TRUE(Eventually([&] { return Row("a").seen_ms > seen_ms; }));
  EXPECT_EQ(calls, 2) << "only changes are told";
  // Who is taken for dead does not forget it.
  ASSERT_TRUE(store_->DeleteInstance("a").ok());
  ASSERT_TRUE(Eventually([&] { return Row("a").id == "a"; }));
  EXPECT_TRUE(Row("a").drain_requested);
  EXPECT_FALSE(Row("a").draining) << "it does not end";
  ASSERT_TRUE(store_->RequestDrain("a", false).ok());
  EXPECT_TRUE(Eventually([&] { return !requested; }));
  (*instance)->Leave();
}

TEST_F(InstanceTest, SweepsAwayThoseThatAreSilentAndWhatTheyLeft) {
  InstanceRecord dead;
  dead.id = "dead";
  dead.roles = {"inference"};
  ASSERT_TRUE(store_->PutInstance(dead).ok());
  ASSERT_TRUE(store_->PutServedModel({.name = "m", .source = one_}).ok());
  ASSERT_TRUE(*store_->ClaimReplica("m", "dead"));
  // Nobody finished this unload.
  ASSERT_TRUE(store_->PutServedModel({.name = "m", .source = one_, .replicas = 0}).ok());
  InstanceOptions options = Options("a");
  options.settle = absl::Milliseconds(100);
  std::atomic<int64_t> gone{0};
  options.sweep = [&] { gone += fleet_->Sweep(300).value_or(0); };
  auto instance = Instance::Start(options, *store_);
  ASSERT_TRUE(instance.ok());
  EXPECT_TRUE(Eventually([&] { return gone == 1; }));
  EXPECT_EQ(Row("a").id, "a");
  EXPECT_TRUE(Eventually([&] { return store_->ListServedModels()->empty(); }));
  EXPECT_TRUE(Rows("m").empty());
}

TEST_F(InstanceTest, DoesNotSweepBeforeOthersHadTimeToShowThemselves) {
  InstanceOptions options = Options("a");
  options.settle = absl::Milliseconds(400);
  std::atomic<int> sweeps{0};
  options.sweep = [&] { ++sweeps; };
  const absl::Time start = absl::Now();
  auto instance = Instance::Start(options, *store_);
  ASSERT_TRUE(instance.ok());
  EXPECT_TRUE(Eventually([&] { return sweeps > 0; }));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(390));
}

}  // namespace
}  // namespace qamserve
