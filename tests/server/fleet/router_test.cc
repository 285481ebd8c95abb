// Which replica a request goes to, over rows that the test writes.
#include "server/fleet/router.h"

#include <absl/time/clock.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "server/store/sqlite_metadata_store.h"
#include "tests/support/temp_folder.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

class RouterTest : public testing::Test {
 protected:
  void SetUp() override { store_ = OpenSqliteMetadataStore(dir_ / "meta").value(); }

  void Start(RouterOptions options = {}) {
    options.seed = 7;
    options.interval = absl::Milliseconds(20);
    auto router = Router::Start(options, *store_);
    ASSERT_TRUE(router.ok()) << router.status();
    router_ = *std::move(router);
  }

  void AddInstance(const std::string& id, bool draining = false) {
    InstanceRecord instance;
    instance.id = id;
    instance.host = "host-" + id;
    instance.address = id + ":1";
    instance.roles = {"inference"};
    instance.draining = draining;
    ASSERT_TRUE(store_->PutInstance(instance).ok());
  }
  void AddModel(const std::string& name, int32_t replicas = 8) {
    ASSERT_TRUE(store_->PutServedModel({.name = name, .source = "artifacts/x", .replicas = replicas}).ok());
  }
  void Tell(const std::string& model, const std::string& instance, ReplicaState state, int32_t running = 0) {
    ASSERT_TRUE(store_->ClaimReplica(model, instance).ok());
    ReplicaRecord replica;
    replica.model = model;
    replica.instance = instance;
    replica.state = state;
    replica.running = running;
    replica.context_tokens = 128;
    replica.updated_ms = ++told_;
    if (state == ReplicaState::kFailed) replica.error = {"MEMORY_LIMIT", "too large", 8};
    const absl::Status put = store_->PutReplica(replica);
    ASSERT_TRUE(put.ok()) << put;
  }
  void Refresh() { router_->AwaitRefresh(absl::Seconds(20)); }

  // To which instances `requests` requests at once go.
  std::map<std::string, int> Send(const std::string& model, int requests) {
    std::vector<Route> routes;
    std::map<std::string, int> sent;
    for (int i = 0; i < requests; ++i) {
      absl::StatusOr<Route> route = router_->Choose({NameKind::kAny, model}, {});
      EXPECT_TRUE(route.ok()) << route.status();
      if (!route.ok()) break;
      ++sent[route->instance()];
      routes.push_back(*std::move(route));
    }
    return sent;
  }

  TempFolder dir_;
  std::unique_ptr<MetadataStore> store_;
  std::unique_ptr<Router> router_;
  int64_t told_ = 0;
};

TEST_F(RouterTest, TheReplicaWithTheFewestRequestsGetsTheNext) {
  AddModel("m");
  for (const char* id : {"a", "b", "c"}) AddInstance(id);
  Tell("m", "a", ReplicaState::kReady, 5);
  Tell("m", "b", ReplicaState::kReady, 2);
  Tell("m", "c", ReplicaState::kLoading);
  Start();
  // 2 + 3 of its own, then both have five.
  EXPECT_THAT(Send("m", 3), UnorderedElementsAre(testing::Pair("b", 3)));
  const std::map<std::string, int> sent = Send("m", 9);
  EXPECT_EQ(sent.at("b"), 6);
  EXPECT_EQ(sent.at("a"), 3);
  EXPECT_THAT(Send("m", 1), UnorderedElementsAre(testing::Pair("b", 1))) << "what has ended does not count";
}

TEST_F(RouterTest, WhatAReplicaHasToldIsNotCountedTwice) {
  AddModel("m");
  for (const char* id : {"a", "b"}) AddInstance(id);
  Tell("m", "a", ReplicaState::kReady);
  Start();
  std::vector<Route> routes;
  routes.reserve(4);
  for (int i = 0; i < 4; ++i) routes.push_back(*router_->Choose({NameKind::kAny, "m"}, {}));
  // It tells the four, and another one has three of somebody else's.
  Tell("m", "a", ReplicaState::kReady, 4);
  Tell("m", "b", ReplicaState::kReady, 3);
  Refresh();
  EXPECT_THAT(Send("m", 1), UnorderedElementsAre(testing::Pair("b", 1)));
  const std::map<std::string, int> sent = Send("m", 3);
  EXPECT_EQ(sent.at("b"), 2);
  EXPECT_EQ(sent.at("a"), 1);
  // Two of the four end, which it has not told yet.
  routes.resize(2);
  EXPECT_THAT(Send("m", 1), UnorderedElementsAre(testing::Pair("a", 1)));
}

TEST_F(RouterTest, AnInstanceThatWasAskedToDrainIsTheLastResort) {
  AddModel("m");
  for (const char* id : {"a", "b"}) AddInstance(id);
  Tell("m", "a", ReplicaState::kReady);
  Tell("m", "b", ReplicaState::kReady, 50);
  ASSERT_TRUE(store_->RequestDrain("a", true).ok());
  Start();
  EXPECT_THAT(Send("m", 5), UnorderedElementsAre(testing::Pair("b", 5))) << "before its keeper knows of it";
  router_->NoteFailure("b");
  EXPECT_THAT(Send("m", 5), UnorderedElementsAre(testing::Pair("b", 5))) << "one that has just failed is asked first";
  EXPECT_EQ(router_->Choose({NameKind::kAny, "m"}, {"b"})->instance(), "a");
  // It still has the model, and then not any more.
  ReplicaRecord replica = {.model = "m", .instance = "a", .state = ReplicaState::kDraining, .ready_ms = 5};
  ASSERT_TRUE(store_->PutReplica(replica).ok());
  Refresh();
  EXPECT_EQ(router_->Choose({NameKind::kAny, "m"}, {"b"})->instance(), "a");
  replica.ready_ms = 0;
  ASSERT_TRUE(store_->PutReplica(replica).ok());
  Refresh();
  EXPECT_EQ(ReasonOf(router_->Choose({NameKind::kAny, "m"}, {"b"}).status()), "MODEL_NOT_READY");
}

TEST_F(RouterTest, AliasesSpreadOverTargetsThatHaveAReadyReplica) {
  for (const char* name : {"one", "two", "three"}) AddModel(name);
  AddInstance("a");
  Tell("one", "a", ReplicaState::kReady);
  Tell("two", "a", ReplicaState::kReady);
  Tell("three", "a", ReplicaState::kLoading);
  AliasRecord alias = {"prod", {{"one", 900}, {"two", 100}, {"three", 1000}}, "e", 1};
  ASSERT_TRUE(store_->PutAlias(alias).ok());
  Start();
  std::map<std::string, int> hits;
  for (int i = 0; i < 2000; ++i) ++hits[router_->Choose({NameKind::kAny, "prod"}, {})->model()];
  EXPECT_EQ(hits["three"], 0);
  EXPECT_NEAR(hits["two"], 200, 70);  // 5 standard deviations
  EXPECT_EQ(router_->Choose({NameKind::kAlias, "prod"}, {"a"}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(router_->Choose({NameKind::kAlias, "one"}, {}).status()), "ALIAS_NOT_FOUND");
  EXPECT_EQ(ReasonOf(router_->Choose({NameKind::kModel, "prod"}, {}).status()), "MODEL_NOT_FOUND");
  // A change is known as soon as the store has told it.
  alias.targets = {{"three", 1}};
  ASSERT_TRUE(store_->PutAlias(alias).ok());
  Tell("three", "a", ReplicaState::kReady);
  Refresh();
  EXPECT_EQ(router_->Choose({NameKind::kAny, "prod"}, {})->model(), "three");
}

TEST_F(RouterTest, ErrorsSayWhatTheReplicasAreDoing) {
  AddModel("loading");
  AddModel("failed");
  AddModel("nowhere");
  AddInstance("a");
  AddInstance("going", true);
  Tell("loading", "a", ReplicaState::kLoading);
  Tell("loading", "going", ReplicaState::kReady);
  Tell("failed", "a", ReplicaState::kFailed);
  Start();
  const auto error = [&](const std::string& name) { return router_->Choose({NameKind::kAny, name}, {}).status(); };
  EXPECT_EQ(ReasonOf(error("nothing")), "MODEL_NOT_FOUND");
  EXPECT_EQ(ReasonOf(error("loading")), "MODEL_NOT_READY") << "an instance that is about to go gets nothing";
  EXPECT_THAT(MessageOf(error("loading")), HasSubstr("LOADING"));
  EXPECT_THAT(MessageOf(error("failed")), AllOf(HasSubstr("FAILED"), HasSubstr("host-a"), HasSubstr("too large")));
  EXPECT_THAT(MessageOf(error("nowhere")), HasSubstr("no inference instance has taken it yet; there are 1"));
}

TEST_F(RouterTest, DoubtfulInstancesAreAskedOnlyWhereThereIsNoOther) {
  AddModel("m");
  for (const char* id : {"a", "b"}) AddInstance(id);
  Tell("m", "a", ReplicaState::kReady);
  Tell("m", "b", ReplicaState::kReady, 50);
  Start({.avoid_ms = 60'000});
  EXPECT_THAT(Send("m", 2), UnorderedElementsAre(testing::Pair("a", 2)));
  router_->NoteFailure("a");
  EXPECT_THAT(Send("m", 2), UnorderedElementsAre(testing::Pair("b", 2)));
  EXPECT_EQ(router_->Choose({NameKind::kAny, "m"}, {"b"})->instance(), "a");
  EXPECT_EQ(ReasonOf(router_->Choose({NameKind::kAny, "m"}, {"a", "b"}).status()), "MODEL_NOT_READY");
}

TEST_F(RouterTest, AnInstanceThatIsSilentIsDoubtful) {
  AddModel("m");
  AddInstance("a");
  Tell("m", "a", ReplicaState::kReady);
  Start({.doubtful_ms = 200});
  absl::SleepFor(absl::Milliseconds(300));
  AddInstance("b");
  Tell("m", "b", ReplicaState::kReady, 50);
  Refresh();
  EXPECT_THAT(Send("m", 2), UnorderedElementsAre(testing::Pair("b", 2)));
}

TEST_F(RouterTest, ComparisonsNeedAnInstanceThatHasBoth) {
  AddModel("one");
  AddModel("two");
  for (const char* id : {"a", "b"}) AddInstance(id);
  Tell("one", "a", ReplicaState::kReady);
  Tell("two", "b", ReplicaState::kReady);
  Start();
  const auto pair = [&] { return router_->ChoosePair({NameKind::kAny, "one"}, {NameKind::kAny, "two"}, {}); };
  EXPECT_EQ(ReasonOf(pair().status()), "MODELS_APART");
  Tell("two", "a", ReplicaState::kReady, 9);
  Refresh();
  const absl::StatusOr<PairRoute> both = pair();
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_EQ(both->base.instance(), "a");
  EXPECT_EQ(both->other.instance(), "a");
  EXPECT_EQ(both->other.model(), "two");
}

TEST_F(RouterTest, GoesOnWithWhatItKnowsWhenARowIsGone) {
  AddModel("m");
  AddInstance("a");
  Tell("m", "a", ReplicaState::kReady);
  Start();
  const Route route = *router_->Choose({NameKind::kAny, "m"}, {});
  ASSERT_TRUE(store_->DeleteInstance("a").ok());
  Refresh();
  EXPECT_EQ(ReasonOf(router_->Choose({NameKind::kAny, "m"}, {}).status()), "MODEL_NOT_READY");
  router_ = nullptr;  // a route may outlive its router
}

}  // namespace
}  // namespace qamserve
