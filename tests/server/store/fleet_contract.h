// The test suite of every MetadataStore's rows about processes and what they serve, of its events and its exclusion.
// See metadata_store_fixture.h for how an engine plugs in.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/store/metadata_store_fixture.h"

namespace qamserve {

template <typename Factory>
class FleetContract : public MetadataStoreFixture<Factory> {
 protected:
  bool Claim(const std::string& model, const std::string& instance) {
    const auto claimed = this->store_->ClaimReplica(model, instance);
    EXPECT_TRUE(claimed.ok()) << claimed.status();
    return claimed.ok() && *claimed;
  }
  bool Reclaim(const std::string& model, const std::string& instance) {
    const auto claimed = this->store_->ReclaimReplica(model, instance);
    EXPECT_TRUE(claimed.ok()) << claimed.status();
    return claimed.ok() && *claimed;
  }
};
TYPED_TEST_SUITE_P(FleetContract);

TYPED_TEST_P(FleetContract, KnowsItsInstances) {
  const int64_t begin = this->store_->NowMs();
  InstanceRecord instance = SomeInstance("b");
  instance.seen_ms = 1;  // the store knows better
  ASSERT_TRUE(this->store_->PutInstance(instance).ok());
  InstanceRecord older = SomeInstance("a");
  older.started_ms = 10;
  older.roles = {"api"};
  older.pools = {};
  older.draining = true;
  ASSERT_TRUE(this->store_->PutInstance(older).ok());
  const auto found = this->store_->ListInstances();
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ(found->at(0).id, "a") << "oldest first";
  EXPECT_THAT(found->at(0).roles, testing::ElementsAre("api"));
  EXPECT_THAT(found->at(0).pools, testing::IsEmpty());
  EXPECT_TRUE(found->at(0).draining);
  const InstanceRecord& kept = found->at(1);
  EXPECT_EQ(kept.host, "host of b");
  EXPECT_EQ(kept.address, "b:8080");
  EXPECT_THAT(kept.roles, testing::ElementsAre("worker", "inference"));
  EXPECT_THAT(kept.pools, testing::ElementsAre("cpu", "cuda"));
  EXPECT_EQ(kept.version, "0.1.0");
  EXPECT_EQ(kept.codec_version, "codec-1");
  EXPECT_EQ(kept.kernels, "avx2");
  EXPECT_EQ(kept.device, "cpu");
  EXPECT_EQ(kept.threads, 4);
  EXPECT_EQ(kept.memory_bytes, int64_t{7} << 30);
  EXPECT_FALSE(kept.draining);
  EXPECT_EQ(kept.started_ms, 11);
  EXPECT_GE(kept.seen_ms, begin);
  EXPECT_LE(kept.seen_ms, this->store_->NowMs());
  EXPECT_EQ(*this->store_->DeleteInstancesBefore(begin), 0);
  EXPECT_EQ(*this->store_->DeleteInstancesBefore(this->store_->NowMs() + 1), 2);
  EXPECT_TRUE(this->store_->ListInstances()->empty());
  EXPECT_TRUE(this->store_->DeleteInstance("a").ok());
}

TYPED_TEST_P(FleetContract, ADrainRequestStaysWithTheRow) {
  MetadataStore& store = *this->store_;
  EXPECT_EQ(ReasonOf(store.RequestDrain("i", true)), "INSTANCE_NOT_FOUND");
  InstanceRecord instance = SomeInstance("i");
  EXPECT_FALSE(*store.PutInstance(instance));
  ASSERT_TRUE(store.PutServedModel({.name = "m", .source = "artifacts/a"}).ok());
  ASSERT_TRUE(store.RequestDrain("i", true).ok());
  ASSERT_TRUE(store.RequestDrain("i", true).ok());
  EXPECT_FALSE(this->Claim("m", "i")) << "it takes nothing new";
  EXPECT_TRUE(*store.PutInstance(instance)) << "a sign of life leaves the request as it is, and tells of it";
  this->Reopen();
  EXPECT_TRUE(this->store_->ListInstances()->at(0).drain_requested);
  EXPECT_FALSE(this->store_->ListInstances()->at(0).draining);
  // What the instance tells of itself is another matter.
  instance.draining = true;
  EXPECT_TRUE(*this->store_->PutInstance(instance));
  EXPECT_TRUE(this->store_->ListInstances()->at(0).draining);
  ASSERT_TRUE(this->store_->RequestDrain("i", false).ok());
  EXPECT_TRUE(this->store_->ListInstances()->at(0).draining);
  instance.draining = false;
  EXPECT_FALSE(*this->store_->PutInstance(instance));
  EXPECT_FALSE(this->store_->ListInstances()->at(0).TakesNothingNew());
  EXPECT_TRUE(this->Claim("m", "i"));
  // A row that others have removed comes back with what its instance knew.
  ASSERT_TRUE(this->store_->DeleteInstance("i").ok());
  instance.drain_requested = true;
  EXPECT_TRUE(*this->store_->PutInstance(instance));
  EXPECT_TRUE(this->store_->ListInstances()->at(0).drain_requested);
}

TYPED_TEST_P(FleetContract, WhatAnInstanceHasItReclaims) {
  MetadataStore& store = *this->store_;
  ASSERT_TRUE(store.PutInstance(SomeInstance("i")).ok());
  ASSERT_TRUE(store.PutInstance(SomeInstance("j")).ok());
  EXPECT_FALSE(this->Reclaim("m", "i")) << "there is no such model";
  ASSERT_TRUE(store.PutServedModel({.name = "m", .source = "artifacts/a"}).ok());
  EXPECT_EQ(ReasonOf(store.ReclaimReplica("m", "gone").status()), "INSTANCE_NOT_FOUND");
  // One that nobody has asked to drain needs a place.
  EXPECT_TRUE(this->Reclaim("m", "i"));
  EXPECT_FALSE(this->Reclaim("m", "i")) << "it has one";
  EXPECT_EQ(store.ListReplicas()->front().state, ReplicaState::kLoading);
  EXPECT_FALSE(this->Reclaim("m", "j")) << "its place is taken";
  EXPECT_EQ(ReasonOf(store.ReclaimReplica("m", "gone").status()), "INSTANCE_NOT_FOUND")
      << "whether it needs a place is in its row";
  // One that was asked to does not, and takes none.
  ASSERT_TRUE(store.RequestDrain("j", true).ok());
  EXPECT_FALSE(this->Claim("m", "j"));
  EXPECT_TRUE(this->Reclaim("m", "j"));
  EXPECT_FALSE(this->Reclaim("m", "j")) << "it has one";
  this->Reopen();
  auto replicas = this->store_->ListReplicas();
  ASSERT_EQ(replicas->size(), 2u);
  EXPECT_EQ(replicas->at(1).instance, "j");
  EXPECT_EQ(replicas->at(1).state, ReplicaState::kDraining);
  EXPECT_EQ(replicas->at(1).ready_ms, 0);
  ASSERT_TRUE(this->store_->DeleteReplica("m", "i").ok());
  EXPECT_TRUE(this->Claim("m", "i"));
  // Of a model that is being unloaded nothing is taken back.
  ASSERT_TRUE(this->store_->DeleteReplica("m", "j").ok());
  ASSERT_TRUE(this->store_->PutServedModel({.name = "m", .source = "artifacts/a", .replicas = 0}).ok());
  EXPECT_FALSE(this->Reclaim("m", "j"));
}

TYPED_TEST_P(FleetContract, ReplicasAreClaimedOnceAsManyAsAreWanted) {
  for (const char* id : {"i1", "i2", "i3"}) ASSERT_TRUE(this->store_->PutInstance(SomeInstance(id)).ok());
  EXPECT_FALSE(this->Claim("m", "i1")) << "there is no such model";
  ASSERT_TRUE(this->store_->PutServedModel({.name = "m", .source = "artifacts/a", .replicas = 2}).ok());
  EXPECT_EQ(ReasonOf(this->store_->ClaimReplica("m", "gone").status()), "INSTANCE_NOT_FOUND");
  EXPECT_TRUE(this->Claim("m", "i1"));
  EXPECT_FALSE(this->Claim("m", "i1")) << "it has one";
  EXPECT_TRUE(this->Claim("m", "i2"));
  EXPECT_FALSE(this->Claim("m", "i3")) << "there are two";
  ReplicaRecord replica{.model = "m",
                        .instance = "i2",
                        .state = ReplicaState::kFailed,
                        .error = {"NO_MEMORY", "too large", 8},
                        .context_tokens = 3,
                        .memory_bytes = int64_t{5} << 32,
                        .chat = true,
                        .running = 6,
                        .waiting = 7,
                        .kv_used_ratio = 0.125,
                        .ready_ms = 8,
                        .updated_ms = 9};
  ASSERT_TRUE(this->store_->PutReplica(replica).ok());
  this->Reopen();
  auto found = this->store_->ListReplicas();
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ(found->at(0).instance, "i1");
  EXPECT_EQ(found->at(0).state, ReplicaState::kLoading);
  EXPECT_EQ(found->at(0).ready_ms, 0);
  const ReplicaRecord& kept = found->at(1);
  EXPECT_EQ(kept.model, "m");
  EXPECT_EQ(kept.state, ReplicaState::kFailed);
  EXPECT_EQ(kept.error.reason, "NO_MEMORY");
  EXPECT_EQ(kept.error.message, "too large");
  EXPECT_EQ(kept.error.code, 8);
  EXPECT_EQ(kept.context_tokens, 3);
  EXPECT_EQ(kept.memory_bytes, int64_t{5} << 32);
  EXPECT_TRUE(kept.chat);
  EXPECT_EQ(kept.running, 6);
  EXPECT_EQ(kept.waiting, 7);
  EXPECT_EQ(kept.kv_used_ratio, 0.125);
  EXPECT_EQ(kept.ready_ms, 8);
  EXPECT_EQ(kept.updated_ms, 9);
  // The failed one leaves its place to another instance, but not to its own.
  EXPECT_FALSE(this->Claim("m", "i2"));
  EXPECT_TRUE(this->Claim("m", "i3"));
  ASSERT_TRUE(this->store_->DeleteReplica("m", "i2").ok());
  EXPECT_TRUE(this->store_->DeleteReplica("m", "i2").ok());
  EXPECT_EQ(ReasonOf(this->store_->PutReplica(replica)), "REPLICA_NOT_FOUND");
  // With an instance go its replicas; what it had is free. A sign of life is no reason to.
  ASSERT_TRUE(this->store_->PutInstance(SomeInstance("i1")).ok());
  EXPECT_EQ(this->store_->ListReplicas()->size(), 2u);
  ASSERT_TRUE(this->store_->DeleteInstance("i1").ok());
  EXPECT_EQ(this->store_->ListReplicas()->size(), 1u);
  EXPECT_TRUE(this->Claim("m", "i2"));
  ReplicaRecord leaving = this->store_->ListReplicas()->front();
  leaving.state = ReplicaState::kDraining;
  ASSERT_TRUE(this->store_->PutReplica(leaving).ok());
  ASSERT_TRUE(this->store_->PutInstance(SomeInstance("i4")).ok());
  EXPECT_TRUE(this->Claim("m", "i4")) << "one that drains is as good as gone";
  EXPECT_EQ(*this->store_->DeleteInstancesBefore(this->store_->NowMs() + 1), 3);
  EXPECT_TRUE(this->store_->ListReplicas()->empty());
}

TYPED_TEST_P(FleetContract, ClaimsAtTheSameTimeAreNotTooMany) {
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(this->store_->PutInstance(SomeInstance("i" + std::to_string(i))).ok());
  MetadataStore& other = this->Other();
  for (int round = 0; round < 5; ++round) {
    const std::string model = "m" + std::to_string(round);
    ASSERT_TRUE(this->store_->PutServedModel({.name = model, .source = "artifacts/a", .replicas = 3}).ok());
    std::atomic<int> claimed{0};
    std::vector<std::thread> threads;
    threads.reserve(8);
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] {
        MetadataStore& store = i % 2 == 0 ? *this->store_ : other;
        const auto mine = store.ClaimReplica(model, "i" + std::to_string(i));
        EXPECT_TRUE(mine.ok()) << mine.status();
        if (mine.ok() && *mine) ++claimed;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(claimed, 3);
  }
  EXPECT_EQ(this->store_->ListReplicas()->size(), 15u);
}

TYPED_TEST_P(FleetContract, KeepsWhatIsWantedOfAServedModel) {
  ASSERT_TRUE(this->store_->PutServedModel({.name = "m", .source = "artifacts/a"}).ok());
  EXPECT_EQ(this->store_->ListServedModels()->front().replicas, 1);
  ASSERT_TRUE(this->store_
                  ->PutServedModel({.name = "m",
                                    .source = "artifacts/b",
                                    .context_tokens = 2,
                                    .created_ms = 3,
                                    .replicas = 0,
                                    .drain_seconds = 2.5})
                  .ok());
  this->Reopen();
  const auto models = this->store_->ListServedModels();
  ASSERT_EQ(models->size(), 1u);
  EXPECT_EQ(models->front().source, "artifacts/b");
  EXPECT_EQ(models->front().context_tokens, 2);
  EXPECT_EQ(models->front().created_ms, 3);
  EXPECT_EQ(models->front().replicas, 0);
  EXPECT_EQ(models->front().drain_seconds, 2.5);
}

TYPED_TEST_P(FleetContract, TellsOfWhatIsServedAndOfKeys) {
  using Kind = StoreEvent::Kind;
  EventLog log(this->Other());
  ASSERT_TRUE(log.Settle(*this->store_));
  MetadataStore& store = *this->store_;
  // What `change` tells, after it has succeeded.
  const auto told = [&](const absl::Status& change) {
    EXPECT_TRUE(change.ok()) << change;
    return log.Barrier(store);
  };
  const auto serving = testing::ElementsAre(Kind::kServing);
  InstanceRecord instance = SomeInstance("i");
  EXPECT_THAT(told(store.PutInstance(instance).status()), serving);
  EXPECT_THAT(told(store.PutInstance(instance).status()), testing::IsEmpty()) << "a sign of life";
  instance.draining = true;
  EXPECT_THAT(told(store.PutInstance(instance).status()), serving);
  instance.roles = {"inference"};
  EXPECT_THAT(told(store.PutInstance(instance).status()), serving);
  EXPECT_THAT(told(store.RequestDrain("i", true)), serving);
  EXPECT_THAT(told(store.PutInstance(instance).status()), testing::IsEmpty()) << "the instance does not know of it";
  EXPECT_THAT(told(store.RequestDrain("i", false)), serving);
  EXPECT_THAT(told(store.PutServedModel({.name = "m", .source = "artifacts/a"})), serving);
  EXPECT_THAT(told(store.ClaimReplica("m", "i").status()), serving);
  EXPECT_THAT(told(store.ClaimReplica("m", "i").status()), testing::IsEmpty());
  ReplicaRecord replica{.model = "m", .instance = "i", .running = 4};
  EXPECT_THAT(told(store.PutReplica(replica)), testing::IsEmpty()) << "how busy it is";
  replica.state = ReplicaState::kReady;
  EXPECT_THAT(told(store.PutReplica(replica)), serving);
  replica.ready_ms = 7;
  EXPECT_THAT(told(store.PutReplica(replica)), serving) << "that it answers";
  replica.ready_ms = 8;
  EXPECT_THAT(told(store.PutReplica(replica)), testing::IsEmpty());
  EXPECT_THAT(told(store.DeleteReplica("m", "i")), serving);
  EXPECT_THAT(told(store.DeleteReplica("m", "i")), testing::IsEmpty());
  EXPECT_THAT(told(store.PutAlias({.name = "p", .targets = {{"m", 1}}})), serving);
  EXPECT_THAT(told(store.DeleteAlias("p")), serving);
  EXPECT_THAT(told(store.DeleteServedModel("m")), serving);
  EXPECT_THAT(told(store.DeleteInstancesBefore(0).status()), testing::IsEmpty());
  EXPECT_THAT(told(store.DeleteInstance("i")), serving);
  const auto access = testing::ElementsAre(Kind::kAccess);
  EXPECT_THAT(told(store.InsertKey({.id = "k", .digest = "d"})), access);
  EXPECT_THAT(told(store.SetKeyUse("k", {.last_used_ms = 5})), testing::IsEmpty());
  EXPECT_THAT(told(store.UpdateKey({.id = "k", .digest = "e"})), access);
  EXPECT_THAT(told(store.DeleteKey("k")), access);
}

TYPED_TEST_P(FleetContract, AListenerHearsNothingAfterItsHandleIsGone) {
  std::atomic<int> heard{0};
  auto handle = this->store_->Listen([&](const StoreEvent&) { ++heard; });
  EventLog log(*this->store_);
  ASSERT_TRUE(log.Settle(*this->store_));
  EXPECT_GT(heard, 0) << "events go to every listener";
  handle.reset();
  const int before = heard;
  ASSERT_TRUE(this->store_->PutAlias({.name = "p"}).ok());
  EXPECT_TRUE(log.Await(StoreEvent::Kind::kServing));
  EXPECT_EQ(heard, before);
}

TYPED_TEST_P(FleetContract, ExclusiveBodiesFollowOneAnother) {
  std::atomic<int> inside{0};
  std::atomic<int> most{0};
  std::atomic<int> runs{0};
  MetadataStore& other = this->Other();
  std::vector<std::thread> threads;
  threads.reserve(6);
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      MetadataStore& store = t % 2 == 0 ? *this->store_ : other;
      const absl::Status status = store.Exclusive("collect", [&]() -> absl::Status {
        most = std::max<int>(most, ++inside);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        RETURN_IF_ERROR(store.PutSetting("k", std::to_string(++runs)));
        --inside;
        return absl::OkStatus();
      });
      EXPECT_TRUE(status.ok()) << status;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most, 1);
  EXPECT_EQ(this->store_->ListSettings()->at("k"), "6");
  // The body's status is the answer; another name is another lock.
  EXPECT_EQ(ReasonOf(this->store_->Exclusive(
                "a", [&] { return this->store_->Exclusive("b", [] { return Unavailable("NOT_NOW", "later"); }); })),
            "NOT_NOW");
}

REGISTER_TYPED_TEST_SUITE_P(FleetContract, KnowsItsInstances, ADrainRequestStaysWithTheRow, WhatAnInstanceHasItReclaims,
                            ReplicasAreClaimedOnceAsManyAsAreWanted, ClaimsAtTheSameTimeAreNotTooMany,
                            KeepsWhatIsWantedOfAServedModel, TellsOfWhatIsServedAndOfKeys,
                            AListenerHearsNothingAfterItsHandleIsGone, ExclusiveBodiesFollowOneAnother);

}  // namespace qamserve
