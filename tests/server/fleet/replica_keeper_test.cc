// Served models over several instances: claimed, loaded, told, scaled, moved and let go.
#include "server/fleet/replica_keeper.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/server/fleet/fleet_fixture.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using testing::SizeIs;

class CountingSink : public TokenSink {
 public:
  bool OnToken(const TokenEvent&) override { return true; }
  void OnDone(const GenerationSummary& summary) override { reason = static_cast<int>(summary.reason); }
  std::atomic<int> reason{-1};
};

class ReplicaKeeperTest : public FleetTest {
 protected:
  // A request that runs until the node's state lets it go on, or it is cancelled.
  static std::shared_ptr<CountingSink> HoldRequest(Node& node, const std::string& model) {
    node.state->Set([&] { node.state->hold = true; });
    auto sink = std::make_shared<CountingSink>();
    EXPECT_TRUE((*node.models().Find(model))->Submit({1}, SamplingParams{}, sink).ok());
    return sink;
  }
  // The first instance, which has failed to load "m".
  Node& AddNodeThatFails(const std::string& id, int32_t replicas) {
    Node& node = AddNode(id);
    node.state->Set([&] { node.state->load_status = Unavailable("FILE_IO", "disk went away"); });
    EXPECT_TRUE(fleet_->Want(Args("m", one_, replicas)).ok());
    EXPECT_TRUE(Eventually([&] { return View("m").state == ServedModelState::kFailed; }));
    return node;
  }
  // An instance that is only a row.
  void AddRow(const std::string& id) {
    InstanceRecord instance;
    instance.id = id;
    instance.host = "host-" + id;
    instance.address = id + ":1";
    instance.roles = {"inference"};
    ASSERT_TRUE(store_->PutInstance(instance).ok());
  }
};

TEST_F(ReplicaKeeperTest, LoadsOnAsManyInstancesAsAreWanted) {
  for (const char* id : {"a", "b", "c"}) AddNode(id);
  const absl::StatusOr<ServedModelView> view = Load("m", one_, 2);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->state, ServedModelState::kReady);
  EXPECT_GE(view->ready_replicas, 1);
  ASSERT_TRUE(AwaitReady("m", 2));
  EXPECT_EQ(CountHolders("m"), 2);
  const ServedModelView both = View("m");
  EXPECT_EQ(both.replicas, 2);
  EXPECT_EQ(both.memory_bytes, 2 * 1110);
  EXPECT_EQ(both.context_tokens, 128);
  EXPECT_TRUE(both.chat);
  EXPECT_TRUE(both.error.ok()) << both.error;
  // The same again changes nothing; another source does not fit the name.
  ASSERT_TRUE(Load("m", one_).ok());
  EXPECT_EQ(View("m").replicas, 2);
  EXPECT_EQ(ReasonOf(Load("m", two_).status()), "MODEL_NAME_TAKEN");
}

TEST_F(ReplicaKeeperTest, ModelsSpreadOverInstances) {
  AddNode("a");
  AddNode("b");
  ASSERT_TRUE(Load("m", one_).ok());
  ASSERT_TRUE(Load("n", two_).ok());
  EXPECT_EQ(nodes_[0]->models().List().size(), 1u);
  EXPECT_EQ(nodes_[1]->models().List().size(), 1u);
}

TEST_F(ReplicaKeeperTest, ScalesUpAndDown) {
  for (const char* id : {"a", "b", "c"}) AddNode(id);
  ASSERT_TRUE(Load("m", one_, 1).ok());
  ASSERT_TRUE(Load("m", one_, 3).ok());
  ASSERT_TRUE(AwaitReady("m", 3));
  ASSERT_TRUE(Load("m", one_, 1).ok());
  ASSERT_TRUE(Eventually([&] { return Rows("m").size() == 1; }));
  EXPECT_TRUE(Eventually([&] { return CountHolders("m") == 1; }));
  // No more went than were too many.
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(View("m").ready_replicas, 1);
  int loads = 0;
  for (const auto& node : nodes_) loads += node->state->loads;
  EXPECT_EQ(loads, 3);
}

TEST_F(ReplicaKeeperTest, UnloadWaitsForRunningRequestsAndFreesTheName) {
  Node& node = AddNode("a");
  ASSERT_TRUE(Load("m", one_).ok());
  const auto sink = HoldRequest(node, "m");
  ASSERT_TRUE(Eventually([&] { return View("m").running == 1; })) << "load is told";
  std::thread unload([&] { EXPECT_TRUE(Unload("m", 60).ok()); });
  ASSERT_TRUE(Eventually([&] {
    return Rows("m") == std::map<std::string, ReplicaState>{{"a", ReplicaState::kDraining}};
  }));
  EXPECT_EQ(View("m").state, ServedModelState::kDraining);
  EXPECT_EQ(ReasonOf(Load("m", one_).status()), "MODEL_BUSY");
  EXPECT_EQ(ReasonOf(Unload("m").status()), "MODEL_STATE");
  // Told first, done then.
  EXPECT_TRUE(
      Eventually([&] { return ReasonOf((*node.models().Find("m"))->tokenizer().status()) == "MODEL_NOT_READY"; }));
  node.state->Set([&] { node.state->hold = false; });
  unload.join();
  EXPECT_EQ(sink->reason, static_cast<int>(FinishReason::kLength));
  EXPECT_EQ(ReasonOf(fleet_->Get("m").status()), "MODEL_NOT_FOUND");
  EXPECT_EQ(node.state->frees, 1);
  EXPECT_TRUE(Load("m", two_).ok());
}

TEST_F(ReplicaKeeperTest, TheDrainSecondsOfUnloadHold) {
  Node& node = AddNode("a");
  ASSERT_TRUE(Load("m", one_).ok());
  const auto sink = HoldRequest(node, "m");
  const absl::StatusOr<ServedModelView> unloaded = Unload("m", 0.05);
  ASSERT_TRUE(unloaded.ok()) << unloaded.status();
  EXPECT_EQ(unloaded->state, ServedModelState::kUnloaded);
  EXPECT_EQ(sink->reason, static_cast<int>(FinishReason::kCancelled));
}

TEST_F(ReplicaKeeperTest, ALoadThatFailsEverywhereIsTakenBack) {
  for (const char* id : {"a", "b"}) {
    Node& node = AddNode(id);
    node.state->load_status = Unavailable("FILE_IO", "disk went away");
  }
  const absl::Status failed = Load("m", one_).status();
  EXPECT_EQ(ReasonOf(failed), "FILE_IO");
  EXPECT_THAT(MessageOf(failed), AllOf(HasSubstr("on host-"), HasSubstr("disk went away")));
  EXPECT_EQ(ReasonOf(fleet_->Get("m").status()), "MODEL_NOT_FOUND");
  EXPECT_TRUE(Eventually([&] { return Rows("m").empty(); }));
  for (const auto& node : nodes_) EXPECT_FALSE(node->Has("m"));
}

TEST_F(ReplicaKeeperTest, AnInstanceThatFailsLeavesItToAnother) {
  AddNodeThatFails("a", 2);
  EXPECT_THAT(MessageOf(View("m").error), HasSubstr("disk went away"));
  AddNode("b");
  ASSERT_TRUE(AwaitReady("m", 1));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_THAT(Rows("m"), ElementsAre(Pair("a", ReplicaState::kFailed), Pair("b", ReplicaState::kReady)))
      << "it says why there is one too few";
  EXPECT_THAT(MessageOf(View("m").error), HasSubstr("disk went away"));
  AddNode("c");
  EXPECT_TRUE(Eventually([&] {
    return Rows("m") == std::map<std::string, ReplicaState>{{"b", ReplicaState::kReady}, {"c", ReplicaState::kReady}};
  })) << "nothing is amiss any more";
}

TEST_F(ReplicaKeeperTest, AnInstanceThatLosesItsDeviceLeavesItToAnother) {
  Node& a = AddNode("a");
  ASSERT_TRUE(Load("m", one_).ok());
  a.state->Set([&] { a.state->error = a.state->load_status = Internal("CUDA_LOST", "the device is gone"); });
  const auto sink = std::make_shared<CountingSink>();
  ASSERT_TRUE((*a.models().Find("m"))->Submit({1}, SamplingParams{}, sink).ok());
  const std::map<std::string, ReplicaState> failed = {{"a", ReplicaState::kFailed}};
  ASSERT_TRUE(Eventually([&] { return Rows("m") == failed; })) << "there is nobody else";
  EXPECT_EQ(sink->reason, static_cast<int>(FinishReason::kError));
  EXPECT_THAT(MessageOf(View("m").error), HasSubstr("the device is gone"));
  EXPECT_FALSE(a.Has("m"));
  EXPECT_EQ(a.state->frees, 1);
  AddNode("b");
  ASSERT_TRUE(AwaitReady("m", 1));
  EXPECT_EQ(Rows("m")["b"], ReplicaState::kReady);
  EXPECT_EQ(a.state->loads, 1) << "the pause before a retry is a minute here";
}

TEST_F(ReplicaKeeperTest, AFailureThatOthersMadeUpForIsNotForgotten) {
  Node& a = AddNodeThatFails("a", 1);
  Node& b = AddNode("b");
  const std::map<std::string, ReplicaState> only_b = {{"b", ReplicaState::kReady}};
  ASSERT_TRUE(Eventually([&] { return Rows("m") == only_b; }));
  EXPECT_TRUE(View("m").error.ok());
  // The pause of a minute goes on; meanwhile it says again why it does not take the place.
  b.Leave();
  EXPECT_TRUE(Eventually([&] { return View("m").state == ServedModelState::kFailed; }));
  EXPECT_THAT(Rows("m"), ElementsAre(Pair("a", ReplicaState::kFailed)));
  EXPECT_THAT(MessageOf(View("m").error), HasSubstr("disk went away"));
  EXPECT_EQ(a.state->loads, 1);
}

TEST_F(ReplicaKeeperTest, AFailureThatOthersMadeUpForIsTriedAgainAtOnceWhereMoreAreAskedFor) {
  Node& a = AddNodeThatFails("a", 1);
  AddNode("b");
  const std::map<std::string, ReplicaState> only_b = {{"b", ReplicaState::kReady}};
  ASSERT_TRUE(Eventually([&] { return Rows("m") == only_b; }));
  a.state->Set([&] { a.state->load_status = absl::OkStatus(); });
  ASSERT_TRUE(Load("m", one_, 2).ok());
  EXPECT_TRUE(AwaitReady("m", 2)) << "the pause before a retry is a minute here";
  EXPECT_EQ(a.state->loads, 2);
}

TEST_F(ReplicaKeeperTest, LoadingAgainTriesAgainAtOnce) {
  Node& node = AddNode("a");
  node.state->load_status = Unavailable("FILE_IO", "disk went away");
  ASSERT_TRUE(fleet_->Want(Args("m", one_)).ok());
  ASSERT_TRUE(Eventually([&] { return View("m").state == ServedModelState::kFailed; }));
  node.state->Set([&] { node.state->load_status = absl::OkStatus(); });
  const absl::StatusOr<ServedModelView> view = Load("m", one_);
  ASSERT_TRUE(view.ok()) << view.status() << ": the pause before a retry is a minute here";
  EXPECT_EQ(view->ready_replicas, 1);
  EXPECT_TRUE(View("m").error.ok());
}

TEST_F(ReplicaKeeperTest, WhatDoesNotFitIsToldWithItsReason) {
  AddNode("small", 2500);  // two models of the fake loader
  ASSERT_TRUE(Load("m", one_).ok());
  ASSERT_TRUE(Load("n", two_).ok());
  const absl::Status full = Load("o", one_).status();
  EXPECT_EQ(ReasonOf(full), "MEMORY_LIMIT");
  EXPECT_THAT(MessageOf(full), AllOf(HasSubstr("host-small"), HasSubstr("2500")));
  AddNode("large");
  EXPECT_TRUE(Load("o", one_).ok());
}

TEST_F(ReplicaKeeperTest, WithoutAnInstanceTheLoadGoesOnWhenItsCallerHasGone) {
  LoadArgs args = Args("m", one_);
  args.deadline = absl::Now() + absl::Milliseconds(50);
  const absl::Status late = fleet_->Load(args).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(late), "LOAD_DEADLINE");
  EXPECT_THAT(MessageOf(late), HasSubstr("there are 0"));
  args.deadline = absl::InfiniteFuture();
  args.still_wanted = [] { return Cancelled("CANCELLED", "the caller has gone"); };
  EXPECT_EQ(ReasonOf(fleet_->Load(args).status()), "CANCELLED");
  EXPECT_EQ(View("m").state, ServedModelState::kLoading);
  AddNode("a");
  EXPECT_TRUE(AwaitReady("m", 1));
}

TEST_F(ReplicaKeeperTest, AnotherInstanceTakesThePlaceOfOneThatIsGone) {
  AddNode("a");
  AddNode("b");
  ASSERT_TRUE(Load("m", one_).ok());
  Node& holder = *(nodes_[0]->Has("m") ? nodes_[0] : nodes_[1]);
  Node& other = *(nodes_[0]->Has("m") ? nodes_[1] : nodes_[0]);
  holder.Leave();
  EXPECT_TRUE(Eventually([&] { return other.Has("m"); }));
  ASSERT_TRUE(AwaitReady("m", 1));
  EXPECT_THAT(Rows("m"), ElementsAre(Pair(other.id(), ReplicaState::kReady)));
  EXPECT_THAT(*store_->ListInstances(), SizeIs(1));
}

TEST_F(ReplicaKeeperTest, AnInstanceThatDrainsIsReplacedWhileItsRequestsRun) {
  AddNode("a");
  AddNode("b");
  ASSERT_TRUE(Load("m", one_).ok());
  Node& holder = *(nodes_[0]->Has("m") ? nodes_[0] : nodes_[1]);
  Node& other = *(nodes_[0]->Has("m") ? nodes_[1] : nodes_[0]);
  const auto sink = HoldRequest(holder, "m");
  std::thread leave([&] { holder.Leave(); });
  ASSERT_TRUE(Eventually([&] { return other.Has("m") && View("m").ready_replicas == 1; }));
  EXPECT_EQ(sink->reason, -1) << "it still runs";
  holder.state->Set([&] { holder.state->hold = false; });
  leave.join();
  EXPECT_EQ(sink->reason, static_cast<int>(FinishReason::kLength));
}

TEST_F(ReplicaKeeperTest, AnInstanceThatWasAskedToDrainHandsOverWithoutAGap) {
  Node& a = AddNode("a");
  ASSERT_TRUE(Load("m", one_).ok());
  const auto sink = HoldRequest(a, "m");
  ASSERT_TRUE(store_->RequestDrain("a", true).ok());
  // There is nobody else: it is told as DRAINING, so that another one would take it, and goes on answering.
  ASSERT_TRUE(Eventually([&] { return Rows("m")["a"] == ReplicaState::kDraining; }));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_TRUE(a.Has("m"));
  EXPECT_EQ(View("m").state, ServedModelState::kReady);
  EXPECT_EQ(View("m").ready_replicas, 1);
  Node& b = AddNode("b");
  b.state->load_status = Unavailable("FILE_IO", "disk went away");
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_TRUE(a.Has("m"));
  Node& c = AddNode("c");
  ASSERT_TRUE(Eventually([&] { return Rows("m")["c"] == ReplicaState::kReady; }));
  EXPECT_TRUE(Eventually([&] { return ReasonOf((*a.models().Find("m"))->tokenizer().status()) == "MODEL_NOT_READY"; }));
  EXPECT_TRUE(c.Has("m"));
  EXPECT_EQ(sink->reason, -1) << "what runs goes on";
  a.state->Set([&] { a.state->hold = false; });
  EXPECT_TRUE(Eventually([&] { return !Rows("m").contains("a"); }));
  EXPECT_EQ(sink->reason, static_cast<int>(FinishReason::kLength));
  EXPECT_FALSE(a.Has("m"));
  EXPECT_EQ(a.state->loads, 1);
}

TEST_F(ReplicaKeeperTest, AnInstanceThatWasAskedToDrainClaimsNothingUntilThatIsTakenBack) {
  Node& a = AddNode("a");
  ASSERT_TRUE(store_->RequestDrain("a", true).ok());
  ASSERT_TRUE(fleet_->Want(Args("m", one_)).ok());
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_TRUE(Rows("m").empty());
  EXPECT_THAT(MessageOf(View("m").error), HasSubstr("there are 0"));
  ASSERT_TRUE(store_->RequestDrain("a", false).ok());
  ASSERT_TRUE(AwaitReady("m", 1));
  // Taken back before another one has it: as if nothing had been.
  ASSERT_TRUE(store_->RequestDrain("a", true).ok());
  ASSERT_TRUE(Eventually([&] { return Rows("m")["a"] == ReplicaState::kDraining; }));
  ASSERT_TRUE(store_->RequestDrain("a", false).ok());
  EXPECT_TRUE(Eventually([&] { return Rows("m")["a"] == ReplicaState::kReady; }));
  EXPECT_EQ(a.state->loads, 1);
}

TEST_F(ReplicaKeeperTest, AModelStaysWhereAllThatHaveItWereAskedToDrain) {
  AddNode("a");
  AddNode("b");
  ASSERT_TRUE(Load("m", one_, 2).ok());
  ASSERT_TRUE(AwaitReady("m", 2));
  for (const char* id : {"a", "b"}) ASSERT_TRUE(store_->RequestDrain(id, true).ok());
  ASSERT_TRUE(Eventually([&] {
    const auto rows = Rows("m");
    return std::all_of(rows.begin(), rows.end(), [](const auto& row) { return row.second == ReplicaState::kDraining; });
  }));
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_GE(CountHolders("m"), 1);
  EXPECT_EQ(View("m").state, ServedModelState::kReady);
  // Unloading is obeyed all the same.
  EXPECT_TRUE(Unload("m").ok());
}

TEST_F(ReplicaKeeperTest, AnInstanceThatWasTakenForDeadClaimsItsPlaceAgain) {
  Node& node = AddNode("a");
  ASSERT_TRUE(Load("m", one_).ok());
  ASSERT_TRUE(store_->DeleteInstance("a").ok());  // as others do after a silence; its replicas' rows go with it
  ASSERT_TRUE(AwaitReady("m", 1));
  EXPECT_EQ(node.state->loads, 1) << "it is still there, so it is not loaded again";
}

TEST_F(ReplicaKeeperTest, AnInstanceWhosePlaceWasTakenMeanwhileLetsGo) {
  Node& first = AddNode("a");
  ASSERT_TRUE(Load("m", one_).ok());
  // Somebody else has the place before "a" notices.
  AddRow("z");
  ASSERT_TRUE(store_
                  ->Exclusive("test",
                              [&]() -> absl::Status {
                                RETURN_IF_ERROR(store_->DeleteReplica("m", "a"));
                                return store_->ClaimReplica("m", "z").status();
                              })
                  .ok());
  ASSERT_TRUE(Eventually([&] { return Rows("m").size() == 1 && !(first.Has("m") && Rows("m").contains("z")); }));
  EXPECT_NE(first.Has("m"), Rows("m").contains("z")) << "one of them has it, never both";
}

TEST_F(ReplicaKeeperTest, AnInstanceThatDrainsAndWasTakenForDeadAnswersUntilAnotherDoes) {
  Node& a = AddNode("a");
  ASSERT_TRUE(Load("m", one_).ok());
  ASSERT_TRUE(store_->RequestDrain("a", true).ok());
  ASSERT_TRUE(Eventually([&] { return Rows("m")["a"] == ReplicaState::kDraining; }));
  const auto answers = [&] { return Rows("m")["a"] == ReplicaState::kDraining && View("m").ready_replicas == 1; };
  ASSERT_TRUE(store_->DeleteInstance("a").ok());
  ASSERT_TRUE(Eventually(answers)) << "nobody else has it";
  // Another one has taken the place, but does not answer yet.
  AddRow("z");
  ASSERT_TRUE(*store_->ClaimReplica("m", "z"));
  ASSERT_TRUE(store_->DeleteInstance("a").ok());
  ASSERT_TRUE(Eventually(answers));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_TRUE(answers());
  EXPECT_TRUE(a.Has("m"));
  ASSERT_TRUE(store_->PutReplica({.model = "m", .instance = "z", .state = ReplicaState::kReady, .ready_ms = 1}).ok());
  EXPECT_TRUE(Eventually([&] { return !a.Has("m"); }));
  EXPECT_TRUE(Eventually([&] { return !Rows("m").contains("a"); }));
  EXPECT_EQ(a.state->loads, 1);
}

TEST_F(ReplicaKeeperTest, ManyInstancesClaimNoMoreThanAreWanted) {
  for (int i = 0; i < 8; ++i) AddNode(fmt::format("n{}", i));
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(fleet_->Want(Args(fmt::format("m{}", i), one_, 1 + i % 3)).ok());
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(AwaitReady(fmt::format("m{}", i), 1 + i % 3));
  int loads = 0;
  for (const auto& node : nodes_) loads += node->state->loads;
  EXPECT_EQ(loads, 2 * (1 + 2 + 3));
}

TEST_F(ReplicaKeeperTest, NamesAreCheckedAsInOneProcess) {
  AddNode("a");
  ASSERT_TRUE(Load("m", one_).ok());
  EXPECT_EQ(ReasonOf(Load("Bad Name", one_).status()), "MODEL_NAME");
  EXPECT_EQ(ReasonOf(Load("n", "checkpoints/00").status()), "CHECKPOINT_NOT_FOUND");
  EXPECT_EQ(ReasonOf(Load("n", "somewhere").status()), "RESOURCE_NAME");
  EXPECT_EQ(ReasonOf(Load("n", one_, -1).status()), "REPLICAS");
  EXPECT_EQ(ReasonOf(Load("n", one_, 1'000'000).status()), "REPLICAS");
  EXPECT_EQ(ReasonOf(fleet_->Get("n").status()), "MODEL_NOT_FOUND");
  const auto update = [&](const std::string& name, std::vector<AliasTarget> targets, const std::string& etag = "") {
    return fleet_->UpdateAlias({.name = name, .targets = std::move(targets), .etag = etag});
  };
  EXPECT_EQ(ReasonOf(update("m", {{"m", 1}}).status()), "MODEL_NAME_TAKEN");
  EXPECT_EQ(ReasonOf(update("prod", {{"n", 1}}).status()), "MODEL_NOT_FOUND");
  const absl::StatusOr<AliasRecord> made = update("prod", {{"m", 1}});
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(ReasonOf(update("next", {{"prod", 1}}).status()), "ALIAS_OF_ALIAS");
  EXPECT_EQ(ReasonOf(update("prod", {{"m", 2}}, "stale").status()), "ETAG_MISMATCH");
  EXPECT_EQ(ReasonOf(Load("prod", one_).status()), "ALIAS_NAME_TAKEN");
  EXPECT_EQ(ReasonOf(Unload("m").status()), "MODEL_IN_ALIAS");
  const absl::StatusOr<AliasRecord> changed = update("prod", {{"m", 2}}, made->etag);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_NE(changed->etag, made->etag);
  // Two that have read the same alias: one of them is too late.
  std::atomic<int> wins{0};
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { wins += update("prod", {{"m", 3 + i}}, changed->etag).ok() ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wins, 1);
  EXPECT_TRUE(fleet_->DeleteAlias("prod", "", "").ok());
  EXPECT_EQ(ReasonOf(fleet_->DeleteAlias("prod", "", "")), "ALIAS_NOT_FOUND");
  EXPECT_TRUE(Unload("m").ok());
}

}  // namespace
}  // namespace qamserve
