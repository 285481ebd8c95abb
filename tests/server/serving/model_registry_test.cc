#include "server/serving/model_registry.h"

#include <absl/time/clock.h>
#include <gmock/gmock.h>

#include "tests/server/serving/registry_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

TEST(ServedModelMachineTest, HasOnlyTheArrowsOfTheDrawing) {
  using Event = ServedModelEvent;
  const std::vector<std::vector<Event>> allowed = {{Event::kReady, Event::kDrain, Event::kUnload},
                                                   {Event::kFail, Event::kUnload},
                                                   {Event::kReady, Event::kFail},
                                                   {Event::kReady, Event::kDrain, Event::kFail}};
  for (const auto& path : allowed) {
    ServedModelMachine machine;
    for (const Event event : path) EXPECT_TRUE(machine.Apply(event, 7, Internal("X", "x")).ok());
  }
  ServedModelMachine machine;
  EXPECT_EQ(ReasonOf(machine.Apply(Event::kDrain, 1)), "MODEL_STATE");
  EXPECT_EQ(machine.state(), ServedModelState::kLoading);
  ASSERT_TRUE(machine.Apply(Event::kReady, 1).ok());
  EXPECT_FALSE(machine.Apply(Event::kReady, 1).ok());
  EXPECT_FALSE(machine.Apply(Event::kUnload, 1).ok());
  EXPECT_EQ(machine.ready_ms(), 1);
}

TEST_F(ModelRegistryTest, LoadsOnceAndSaysWhatIsServed) {
  const auto view = registry_->Load({"m", one_, 0, ""});
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->state, ServedModelState::kReady);
  EXPECT_EQ(view->memory_bytes, 1110);
  EXPECT_TRUE(view->chat);
  EXPECT_TRUE(registry_->Load({"m", one_, 0, ""}).ok());
  EXPECT_EQ(state_->loads, 1);
  EXPECT_EQ(ReasonOf(registry_->Load({"m", two_, 0, ""}).status()), "MODEL_NAME_TAKEN");
  const absl::Status missing = registry_->Find("n").status();
  EXPECT_EQ(ReasonOf(missing), "MODEL_NOT_FOUND");
  EXPECT_THAT(MessageOf(missing), HasSubstr("served: m"));
}

TEST_F(ModelRegistryTest, RefusesWhatDoesNotFitAndNamesBothNumbers) {
  ASSERT_TRUE(registry_->Load({"a", one_, 0, ""}).ok());
  ASSERT_TRUE(registry_->Load({"b", two_, 0, ""}).ok());
  const absl::Status status = registry_->Load({"c", one_, 0, ""}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "MEMORY_LIMIT");
  EXPECT_THAT(MessageOf(status), HasSubstr("1110"));
  EXPECT_THAT(MessageOf(status), HasSubstr("2500"));
  EXPECT_THAT(MessageOf(status), HasSubstr("280 are free"));
  ASSERT_TRUE(registry_->Unload("a", 0, "").ok());
  EXPECT_TRUE(registry_->Load({"c", one_, 0, ""}).ok());
}

// The numbers in the brackets are those of the memory that is limited, and add up to what is needed of it.
TEST_F(ModelRegistryTest, OfAModelOnAGpuOnlyTheWeightsCount) {
  EXPECT_THAT(MessageOf([&] {
                state_->plan.weight_bytes = 3000;
                return registry_->Load({"host", one_, 0, ""}).status();
              }()),
              HasSubstr("needs 3110 bytes (3000 weights, 100 KV cache, 10 scratch), but of the limit of 2500 bytes"));
  state_->plan.on_device = true;
  const absl::Status status = registry_->Load({"gpu", one_, 0, ""}).status();
  EXPECT_EQ(ReasonOf(status), "MEMORY_LIMIT");
  EXPECT_THAT(MessageOf(status),
              HasSubstr("needs 3000 bytes (3000 weights; the GPU has a copy of them, 100 KV cache and 10 scratch"));
  state_->plan.weight_bytes = 2450;  // with the KV cache it would be too much
  const auto view = registry_->Load({"gpu", one_, 0, ""});
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->memory_bytes, 2450);
}

TEST_F(ModelRegistryTest, ChecksNamesAndSources) {
  EXPECT_EQ(ReasonOf(registry_->Load({"Bad Name", one_, 0, ""}).status()), "MODEL_NAME");
  EXPECT_EQ(ReasonOf(registry_->Load({std::string(64, 'a'), one_, 0, ""}).status()), "MODEL_NAME");
  EXPECT_TRUE(absl::IsNotFound(registry_->Load({"m", "checkpoints/" + std::string(64, '0'), 0, ""}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(registry_->Load({"m", "nonsense", 0, ""}).status()));
  EXPECT_TRUE(registry_->List().empty());
}

TEST_F(ModelRegistryTest, AFailedLoadIsListedAndCanBeTriedAgain) {
  state_->load_status = Unavailable("FILE_IO", "disk went away");
  EXPECT_EQ(ReasonOf(registry_->Load({"m", one_, 0, ""}).status()), "FILE_IO");
  ASSERT_EQ(registry_->List().size(), 1u);
  EXPECT_EQ(registry_->List()[0].state, ServedModelState::kFailed);
  EXPECT_EQ(registry_->List()[0].memory_bytes, 0);
  EXPECT_TRUE(store_->ListServedModels()->empty());
  state_->load_status = absl::OkStatus();
  EXPECT_TRUE(registry_->Load({"m", one_, 0, ""}).ok());
}

TEST_F(ModelRegistryTest, ComesBackAfterARestart) {
  ASSERT_TRUE(registry_->Load({"a", one_, 64, ""}).ok());
  ASSERT_TRUE(registry_->Load({"b", two_, 0, ""}).ok());
  ASSERT_TRUE(registry_->Unload("b", 0, "").ok());
  Reopen();
  ASSERT_TRUE(registry_->Restore().ok());
  ASSERT_EQ(registry_->List().size(), 1u);
  EXPECT_EQ(registry_->List()[0].name, "a");
  EXPECT_EQ(registry_->List()[0].context_tokens, 64);
  EXPECT_EQ(registry_->List()[0].state, ServedModelState::kReady);

  state_->load_status = Unavailable("FILE_IO", "disk went away");
  Reopen();
  ASSERT_TRUE(registry_->Restore().ok());
  ASSERT_EQ(registry_->List().size(), 1u);
  EXPECT_EQ(registry_->List()[0].state, ServedModelState::kFailed);
  EXPECT_EQ(store_->ListServedModels()->size(), 1u) << "a passing failure must not forget the model";
}

// Whoever finds it out, every model on the GPU has FAILED, its engine is freed, and it can be loaded again.
TEST_F(ModelRegistryTest, AModelWhoseDeviceIsLostHasFailed) {
  memory_limit_bytes_ = 3200;  // one on the CPU and two on a GPU
  Reopen();
  const absl::Status lost = Internal("CUDA_LOST", "waiting for the device: an illegal memory access");
  ASSERT_TRUE(registry_->Load({"on-cpu", one_, 0, ""}).ok());
  for (const bool reading : {false, true}) {
    state_->Set([&] {
      state_->plan.on_device = true;
      state_->error = absl::OkStatus();
      state_->frees = 0;
    });
    ASSERT_TRUE(registry_->Load({"m", one_, 0, ""}).ok());
    ASSERT_TRUE(registry_->Load({"n", two_, 0, ""}).ok()) << "one that failed takes no memory";
    const std::shared_ptr<ServedModel> m = *registry_->Find("m"), n = *registry_->Find("n");
    state_->Set([&] { state_->error = Internal("CUDA_ERROR", "one that passes"); });
    EXPECT_EQ(ReasonOf(m->Embed(std::vector<int32_t>{1}).status()), "CUDA_ERROR");
    EXPECT_EQ(m->state(), ServedModelState::kReady);
    state_->Set([&] { state_->error = lost; });
    if (reading) {
      EXPECT_EQ(m->Embed(std::vector<int32_t>{1}).status(), lost);
    } else {
      ASSERT_TRUE(m->Submit({1}, SamplingParams{}, std::make_shared<NullSink>()).ok());
    }
    ASSERT_TRUE(state_->WaitUntil([&] { return state_->frees == 2; })) << "both engines";
    for (const auto& model : {m, n}) {
      EXPECT_EQ(model->View().state, ServedModelState::kFailed);
      EXPECT_EQ(model->View().error, lost);
      EXPECT_EQ(model->View().memory_bytes, 0);
      EXPECT_EQ(ReasonOf(model->Embed(std::vector<int32_t>{1}).status()), "MODEL_NOT_READY");
    }
    EXPECT_EQ((*registry_->Find("on-cpu"))->state(), ServedModelState::kReady);
  }
  EXPECT_TRUE(registry_->Unload("m", 0, "").ok());
  EXPECT_EQ(ReasonOf(registry_->Find("m").status()), "MODEL_NOT_FOUND");
  EXPECT_EQ(store_->ListServedModels()->size(), 2u) << "the other one comes back with the next process";
}

TEST_F(ModelRegistryTest, UnloadWaitsForRequestsAndThenFreesTheEngine) {
  ASSERT_TRUE(registry_->Load({"m", one_, 0, ""}).ok());
  const std::shared_ptr<ServedModel> model = *registry_->Find("m");
  state_->Set([this] { state_->hold = true; });
  const auto sink = std::make_shared<NullSink>();
  SamplingParams params;
  params.max_tokens = 3;
  ASSERT_TRUE(model->Submit({1}, params, sink).ok());
  std::thread unload([this] { EXPECT_TRUE(registry_->Unload("m", 60, "").ok()); });
  while (model->state() == ServedModelState::kReady) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(ReasonOf(model->Submit({1}, params, std::make_shared<NullSink>()).status()), "MODEL_NOT_READY");
  EXPECT_EQ(state_->frees, 0);
  state_->Set([this] { state_->hold = false; });
  unload.join();
  EXPECT_EQ(sink->reason, FinishReason::kLength);
  EXPECT_EQ(model->state(), ServedModelState::kUnloaded);
  EXPECT_EQ(state_->frees, 1);
  EXPECT_THAT(changes_, testing::ElementsAre("m:LOADING", "m:READY", "m:DRAINING", "m:UNLOADED"));
}

TEST_F(ModelRegistryTest, TheDrainDeadlineCancelsWhatStillRuns) {
  ASSERT_TRUE(registry_->Load({"m", one_, 0, ""}).ok());
  state_->Set([this] { state_->hold = true; });
  const auto sink = std::make_shared<NullSink>();
  ASSERT_TRUE((*registry_->Find("m"))->Submit({1}, SamplingParams{}, sink).ok());
  registry_->DrainAll(absl::Now() + absl::Milliseconds(20));
  EXPECT_EQ(sink->reason, FinishReason::kCancelled);
  EXPECT_EQ(state_->frees, 1);
  EXPECT_EQ(ReasonOf(registry_->Load({"n", one_, 0, ""}).status()), "SHUTTING_DOWN");
  EXPECT_EQ(store_->ListServedModels()->size(), 1u) << "it must come back after the restart";
}

TEST_F(ModelRegistryTest, TheSameRequestIdLoadsOnce) {
  ASSERT_TRUE(registry_->Load({"m", one_, 0, "id-1"}).ok());
  EXPECT_TRUE(registry_->Load({"m", one_, 0, "id-1"}).ok());
  EXPECT_EQ(ReasonOf(registry_->Load({"m", two_, 0, "id-1"}).status()), "REQUEST_ID_REUSED");
  EXPECT_EQ(state_->loads, 1);
}

}  // namespace
}  // namespace qamserve
