// Aliases: what they may be, whom they choose, and that no name is ever two things.
#include "server/serving/alias.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <map>
#include <thread>

#include "tests/server/serving/registry_fixture.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// Whether `hits` of `draws` fit the probability `p`: within 5 standard deviations of the binomial distribution, which a
// right choice leaves once in two million seeds.
bool Fits(int hits, int draws, double p) { return std::abs(hits - draws * p) <= 5 * std::sqrt(draws * p * (1 - p)); }

TEST(AliasTargetsTest, ErrorsNameFieldAndLimit) {
  EXPECT_TRUE(CheckAliasTargets({{"a", 0}, {"b", kMaxAliasWeight}}).ok());
  std::vector<AliasTarget> many;
  many.reserve(17);
  for (int i = 0; i < 16; ++i) many.push_back({"m" + std::to_string(i), 1});
  EXPECT_TRUE(CheckAliasTargets(many).ok());
  many.push_back({"m16", 1});
  const absl::Status too_many = CheckAliasTargets(many);
  EXPECT_EQ(ReasonOf(too_many), "ALIAS_TARGETS");
  EXPECT_THAT(MessageOf(too_many), AllOf(HasSubstr("targets"), HasSubstr("1 to 16"), HasSubstr("17")));
  EXPECT_EQ(ReasonOf(CheckAliasTargets({})), "ALIAS_TARGETS");
  const absl::Status twice = CheckAliasTargets({{"a", 1}, {"b", 1}, {"a", 2}});
  EXPECT_EQ(ReasonOf(twice), "ALIAS_TARGETS");
  EXPECT_THAT(MessageOf(twice), HasSubstr("\"a\" twice"));
  for (const int32_t weight : {-1, kMaxAliasWeight + 1}) {
    const absl::Status status = CheckAliasTargets({{"a", 1}, {"b", weight}});
    EXPECT_EQ(ReasonOf(status), "ALIAS_WEIGHT");
    EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("\"b\""), HasSubstr("0 to 1000000")));
  }
  EXPECT_EQ(ReasonOf(CheckAliasTargets({{"a", 0}, {"b", 0}})), "ALIAS_WEIGHT");
  EXPECT_EQ(ReasonOf(CheckAliasTargets({{"No Name", 1}})), "MODEL_NAME");
}

TEST(PickByWeightTest, FollowsTheWeights) {
  constexpr int kDraws = 40'000;
  const std::vector<std::vector<int32_t>> cases = {
      {1}, {1, 1}, {95, 5}, {5, 0, 95}, {0, 0, 7}, {kMaxAliasWeight, kMaxAliasWeight / 100}, {1, 2, 3, 4, 5, 6, 7, 8}};
  for (const std::vector<int32_t>& weights : cases) {
    Rng rng(3);
    std::vector<int> hits(weights.size());
    for (int i = 0; i < kDraws; ++i) {
      const std::optional<size_t> chosen = PickByWeight(weights, rng);
      ASSERT_TRUE(chosen && *chosen < weights.size());
      ++hits[*chosen];
    }
    double sum = 0;
    for (const int32_t weight : weights) sum += weight;
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_TRUE(Fits(hits[i], kDraws, weights[i] / sum)) << hits[i] << " of " << testing::PrintToString(weights);
    }
  }
  Rng rng(3);
  EXPECT_EQ(PickByWeight(std::vector<int32_t>{0, 0}, rng), std::nullopt);
  EXPECT_EQ(PickByWeight({}, rng), std::nullopt);
}

class AliasTest : public ModelRegistryTest {
 protected:
  AliasTest() { memory_limit_bytes_ = 100'000; }

  void LoadAll(const std::vector<std::string>& names) {
    for (const std::string& name : names) ASSERT_TRUE(registry_->Load({name, one_, 0, ""}).ok());
  }
  // A model that is listed as FAILED.
  void LoadInVain(const std::string& name) {
    state_->load_status = Unavailable("FILE_IO", "disk went away");
    EXPECT_FALSE(registry_->Load({name, one_, 0, ""}).ok());
    state_->load_status = absl::OkStatus();
  }
  absl::StatusOr<AliasRecord> Update(const std::string& name, const std::vector<AliasTarget>& targets) {
    return registry_->UpdateAlias({.name = name, .targets = targets});
  }
  // How often `draws` requests to `name` went to each model.
  std::map<std::string, int> Draw(const std::string& name, int draws) {
    std::map<std::string, int> hits;
    for (int i = 0; i < draws; ++i) {
      const auto model = registry_->Route(name);
      EXPECT_TRUE(model.ok()) << model.status();
      if (!model.ok()) break;
      ++hits[(*model)->name()];
    }
    return hits;
  }
};

TEST_F(AliasTest, SpreadsRequestsByWeight) {
  LoadAll({"a", "b", "c"});
  ASSERT_TRUE(Update("prod", {{"a", 95}, {"b", 5}, {"c", 0}}).ok());
  constexpr int kDraws = 10'000;
  std::map<std::string, int> hits = Draw("prod", kDraws);
  EXPECT_TRUE(Fits(hits["b"], kDraws, 0.05)) << hits["b"];
  EXPECT_EQ(hits["a"] + hits["b"], kDraws) << "a weight of 0 gets nothing";
  // The next request follows the new weights.
  ASSERT_TRUE(Update("prod", {{"b", 1}}).ok());
  EXPECT_EQ(Draw("prod", 50)["b"], 50);
  EXPECT_EQ(Draw("a", 50)["a"], 50) << "a model's own name means that model";
}

TEST_F(AliasTest, TheSeedDecidesTheChoice) {
  LoadAll({"a", "b"});
  const auto sequence = [this] {
    std::string names;
    for (int i = 0; i < 64; ++i) names += (*registry_->Route("prod"))->name();
    return names;
  };
  ASSERT_TRUE(Update("prod", {{"a", 1}, {"b", 1}}).ok());
  const std::string first = sequence();
  EXPECT_NE(sequence(), first) << "the choice goes on, it does not repeat";
  Reopen();
  ASSERT_TRUE(registry_->Restore().ok());
  EXPECT_EQ(sequence(), first);
}

TEST_F(AliasTest, TheWeightOfAnUnreadyTargetIsSpreadOverTheOthers) {
  LoadAll({"b", "c"});
  LoadInVain("a");
  ASSERT_TRUE(Update("prod", {{"a", 500}, {"b", 30}, {"c", 20}}).ok());
  constexpr int kDraws = 5000;
  std::map<std::string, int> hits = Draw("prod", kDraws);
  EXPECT_EQ(hits["b"] + hits["c"], kDraws);
  EXPECT_TRUE(Fits(hits["b"], kDraws, 0.6)) << hits["b"];
  // It gets its share once it is READY.
  LoadAll({"a"});
  hits = Draw("prod", kDraws);
  EXPECT_TRUE(Fits(hits["a"], kDraws, 500.0 / 550)) << hits["a"];
}

TEST_F(AliasTest, NoReadyTargetIsToldAsAnUnreadyModelIs) {
  LoadAll({"b"});
  LoadInVain("a");
  ASSERT_TRUE(Update("prod", {{"a", 1}, {"b", 0}}).ok());
  const absl::Status status = registry_->Route("prod").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "MODEL_NOT_READY");
  EXPECT_THAT(MessageOf(status),
              AllOf(HasSubstr("\"prod\""), HasSubstr("\"a\" is FAILED"), HasSubstr("\"b\" is READY with weight 0")));
  EXPECT_EQ(ReasonOf((*registry_->Find("a"))->tokenizer().status()), "MODEL_NOT_READY");
}

TEST_F(AliasTest, ANameIsAModelOrAnAlias) {
  LoadAll({"a", "b"});
  const absl::Status taken = Update("b", {{"a", 1}}).status();
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(taken), "MODEL_NAME_TAKEN");
  ASSERT_TRUE(Update("prod", {{"a", 1}}).ok());
  const absl::Status load = registry_->Load({"prod", one_, 0, ""}).status();
  EXPECT_EQ(load.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(load), "ALIAS_NAME_TAKEN");
  EXPECT_EQ(registry_->List().size(), 2u);
  EXPECT_FALSE(registry_->IsServed("prod"));
  EXPECT_EQ(ReasonOf(registry_->Find("prod").status()), "MODEL_NOT_FOUND");
  EXPECT_EQ(ReasonOf(registry_->RouteAlias("a").status()), "ALIAS_NOT_FOUND");
  const absl::Status unknown = registry_->Route("x").status();
  EXPECT_EQ(ReasonOf(unknown), "MODEL_NOT_FOUND");
  EXPECT_THAT(MessageOf(unknown), AllOf(HasSubstr("served: a, b"), HasSubstr("aliases: prod")));
  // Each name is free again once its owner is gone.
  ASSERT_TRUE(registry_->DeleteAlias("prod", "", "").ok());
  EXPECT_TRUE(registry_->Load({"prod", one_, 0, ""}).ok());
}

TEST_F(AliasTest, TargetsAreServedModels) {
  LoadAll({"a"});
  ASSERT_TRUE(Update("prod", {{"a", 1}}).ok());
  const absl::Status missing = Update("next", {{"a", 1}, {"ghost", 1}}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(missing), "MODEL_NOT_FOUND");
  EXPECT_THAT(MessageOf(missing), HasSubstr("\"ghost\""));
  EXPECT_EQ(ReasonOf(Update("next", {{"prod", 1}}).status()), "ALIAS_OF_ALIAS");
  EXPECT_EQ(ReasonOf(Update("Next", {{"a", 1}}).status()), "ALIAS_NAME");
  EXPECT_EQ(ReasonOf(Update("next", {{"a", -1}}).status()), "ALIAS_WEIGHT");
  ASSERT_EQ(registry_->ListAliases().size(), 1u) << "what is refused leaves nothing";
  EXPECT_EQ(store_->ListAliases()->size(), 1u);
}

TEST_F(AliasTest, AModelInAnAliasIsNotUnloaded) {
  LoadAll({"a", "b"});
  ASSERT_TRUE(Update("prod", {{"a", 1}, {"b", 0}}).ok());
  for (const char* name : {"a", "b"}) {
    const absl::Status status = registry_->Unload(name, 0, "").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(status), "MODEL_IN_ALIAS");
    EXPECT_THAT(MessageOf(status), HasSubstr("\"prod\""));
  }
  EXPECT_EQ(Draw("prod", 1)["a"], 1) << "a refused unload drains nothing";
  ASSERT_TRUE(Update("prod", {{"b", 1}}).ok());
  EXPECT_TRUE(registry_->Unload("a", 0, "").ok());
  ASSERT_TRUE(registry_->DeleteAlias("prod", "", "").ok());
  EXPECT_TRUE(registry_->Unload("b", 0, "").ok());
}

TEST_F(AliasTest, AModelThatDrainsIsNoTarget) {
  LoadAll({"a"});
  state_->Set([this] { state_->hold = true; });
  const std::shared_ptr<ServedModel> model = *registry_->Find("a");
  ASSERT_TRUE(model->Submit({1}, SamplingParams{.max_tokens = 1}, std::make_shared<NullSink>()).ok());
  std::thread unload([this] { EXPECT_TRUE(registry_->Unload("a", 60, "").ok()); });
  while (model->state() == ServedModelState::kReady) std::this_thread::yield();
  EXPECT_EQ(ReasonOf(Update("prod", {{"a", 1}}).status()), "MODEL_STATE");
  state_->Set([this] { state_->hold = false; });
  unload.join();
  EXPECT_EQ(ReasonOf(Update("prod", {{"a", 1}}).status()), "MODEL_NOT_FOUND");
}

TEST_F(AliasTest, EtagsGuardAgainstLostUpdates) {
  LoadAll({"a", "b"});
  const UpdateAliasArgs unborn = {.name = "prod", .targets = {{"a", 1}}, .etag = "x"};
  EXPECT_EQ(ReasonOf(registry_->UpdateAlias(unborn).status()), "ETAG_MISMATCH");
  const AliasRecord first = *Update("prod", {{"a", 1}});
  EXPECT_GT(first.updated_ms, 0);
  UpdateAliasArgs args = {.name = "prod", .targets = {{"b", 1}}, .etag = first.etag};
  const auto second = registry_->UpdateAlias(args);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_NE(second->etag, first.etag);
  args.targets = {{"a", 9}};
  const absl::Status stale = registry_->UpdateAlias(args).status();
  EXPECT_EQ(stale.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(stale), "ETAG_MISMATCH");
  EXPECT_EQ(registry_->GetAlias("prod")->targets[0].model, "b");
  EXPECT_EQ(ReasonOf(registry_->DeleteAlias("prod", first.etag, "")), "ETAG_MISMATCH");
  EXPECT_TRUE(registry_->DeleteAlias("prod", second->etag, "").ok());
  EXPECT_EQ(ReasonOf(registry_->DeleteAlias("prod", "", "")), "ALIAS_NOT_FOUND");
  // An alias that was deleted and made again is another one.
  EXPECT_NE(Update("prod", {{"a", 1}})->etag, first.etag);
}

TEST_F(AliasTest, ValidateOnlyChecksAndChangesNothing) {
  LoadAll({"a", "b"});
  UpdateAliasArgs args = {.name = "prod", .targets = {{"a", 1}}, .validate_only = true, .request_id = "id"};
  const auto dry = registry_->UpdateAlias(args);
  ASSERT_TRUE(dry.ok()) << dry.status();
  EXPECT_EQ(dry->targets.size(), 1u);
  EXPECT_EQ(dry->etag, "");
  EXPECT_TRUE(registry_->ListAliases().empty());
  EXPECT_TRUE(store_->ListAliases()->empty());
  args.targets = {{"ghost", 1}};
  EXPECT_EQ(ReasonOf(registry_->UpdateAlias(args).status()), "MODEL_NOT_FOUND");
  args.name = "b";
  args.targets = {{"a", 1}};
  EXPECT_EQ(ReasonOf(registry_->UpdateAlias(args).status()), "MODEL_NAME_TAKEN");
  args.name = "prod";
  args.validate_only = false;
  EXPECT_TRUE(registry_->UpdateAlias(args).ok()) << "the dry runs used up no request id";
}

TEST_F(AliasTest, TheSameRequestIdUpdatesOnce) {
  LoadAll({"a", "b"});
  const UpdateAliasArgs args = {.name = "prod", .targets = {{"a", 1}}, .request_id = "id-1"};
  const std::string etag = registry_->UpdateAlias(args)->etag;
  EXPECT_EQ(registry_->UpdateAlias(args)->etag, etag);
  UpdateAliasArgs other = args;
  other.targets = {{"b", 1}};
  EXPECT_EQ(ReasonOf(registry_->UpdateAlias(other).status()), "REQUEST_ID_REUSED");
  ASSERT_TRUE(registry_->DeleteAlias("prod", "", "id-2").ok());
  EXPECT_TRUE(registry_->DeleteAlias("prod", "", "id-2").ok()) << "the answer was lost, and is given again";
}

TEST_F(AliasTest, ComesBackAfterARestart) {
  LoadAll({"a", "b"});
  const AliasRecord before = *Update("prod", {{"b", 2}, {"a", 1}});
  ASSERT_TRUE(Update("gone", {{"a", 1}}).ok());
  ASSERT_TRUE(registry_->DeleteAlias("gone", "", "").ok());
  Reopen();
  // Before the models are back nothing can take the names.
  const absl::Status early = registry_->Route("prod").status();
  EXPECT_EQ(ReasonOf(early), "MODEL_NOT_READY");
  EXPECT_THAT(MessageOf(early), HasSubstr("\"b\" is not loaded"));
  EXPECT_EQ(ReasonOf(registry_->Load({"prod", one_, 0, ""}).status()), "ALIAS_NAME_TAKEN");
  EXPECT_EQ(ReasonOf(Update("a", {{"b", 1}}).status()), "MODEL_NAME_TAKEN");
  EXPECT_TRUE(Update("early", {{"a", 1}}).ok()) << "a model that is about to come back may be a target";
  ASSERT_TRUE(registry_->Restore().ok());
  ASSERT_EQ(registry_->ListAliases().size(), 2u);
  const auto after = registry_->GetAlias("prod");
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(after->etag, before.etag);
  EXPECT_EQ(after->updated_ms, before.updated_ms);
  ASSERT_EQ(after->targets.size(), 2u);
  EXPECT_EQ(after->targets[0].model, "b");
  EXPECT_EQ(after->targets[0].weight, 2);
  std::map<std::string, int> hits = Draw("prod", 3000);
  EXPECT_TRUE(Fits(hits["b"], 3000, 2.0 / 3)) << hits["b"];
  // What was restored is no longer about to come: an unloaded model is gone for aliases too.
  ASSERT_TRUE(registry_->DeleteAlias("prod", "", "").ok());
  ASSERT_TRUE(registry_->Unload("b", 0, "").ok());
  EXPECT_EQ(ReasonOf(Update("prod", {{"b", 1}}).status()), "MODEL_NOT_FOUND");
  EXPECT_TRUE(Update("b", {{"a", 1}}).ok());
}

TEST_F(AliasTest, ThereIsALimit) {
  LoadAll({"a"});
  for (size_t i = 0; i < kMaxAliases; ++i) ASSERT_TRUE(Update("alias-" + std::to_string(i), {{"a", 1}}).ok());
  const absl::Status status = Update("one-more", {{"a", 1}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "ALIAS_LIMIT");
  EXPECT_THAT(MessageOf(status), HasSubstr("256"));
  EXPECT_TRUE(Update("alias-0", {{"a", 2}}).ok()) << "those that are there can be updated";
}

// Updates and unloads that race: each is refused or waits for the other, so that none goes half-way.
TEST_F(AliasTest, NoAliasNamesAModelThatIsGone) {
  LoadAll({"a", "b"});
  std::atomic<bool> done{false};
  std::thread updates([&] {
    for (int i = 0; !done; ++i) Update("prod", {{i % 2 == 0 ? "a" : "b", 1}}).IgnoreError();
  });
  // Until both have won often enough: how the threads are scheduled is the machine's affair.
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  int refused = 0;
  for (int unloaded = 0; (unloaded < 25 || refused == 0) && std::chrono::steady_clock::now() < give_up;) {
    const absl::Status status = registry_->Unload("a", 0, "").status();
    if (!status.ok()) {
      EXPECT_EQ(ReasonOf(status), "MODEL_IN_ALIAS");
      ++refused;
      continue;
    }
    ++unloaded;
    for (const AliasRecord& alias : registry_->ListAliases()) EXPECT_NE(alias.targets[0].model, "a");
    LoadAll({"a"});
    // A turn for the other thread, which could starve otherwise.
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  done = true;
  updates.join();
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace qamserve
