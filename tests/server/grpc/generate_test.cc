// Served models and generation over a real connection, with a fake engine.
#include <gmock/gmock.h>

#include <chrono>
#include <limits>
#include <optional>

#include "tests/server/grpc/server_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class GenerateTest : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    v1::ServedModel model;
    const grpc::Status status = LoadModel("m", MakeCheckpoint(), &model);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(model.state(), v1::SERVED_MODEL_STATE_READY);
  }

  static v1::GenerateRequest Request(int max_tokens) {
    v1::GenerateRequest request;
    request.set_model("m");
    request.set_prompt("hello");
    request.mutable_params()->set_max_tokens(max_tokens);
    return request;
  }

  struct Answer {
    grpc::Status status;
    std::string text;
    int tokens = 0;
    v1::GenerateResponse last;
  };
  static Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>& reader) {
    Answer answer;
    v1::GenerateResponse response;
    while (reader.Read(&response)) {
      answer.text += response.text();
      answer.tokens += response.tokens_size();
      answer.last = response;
    }
    answer.status = reader.Finish();
    return answer;
  }
  Answer Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    return ReadAll(*inference_->Generate(&context, request));
  }
};

TEST_F(GenerateTest, StreamsTextAndEndsWithUsage) {
  const Answer answer = Generate(Request(5));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, "aaaaa");
  EXPECT_EQ(answer.tokens, 5);
  EXPECT_EQ(answer.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.last.usage().completion_tokens(), 5);
  EXPECT_GT(answer.last.usage().prompt_tokens(), 0);
  EXPECT_NE(answer.last.usage().seed(), 0u);
}

TEST_F(GenerateTest, CompilesConstraintsForTheModel) {
  const auto compiled = [&](const v1::OutputConstraint& constraint) {
    v1::GenerateRequest request = Request(1);
    *request.mutable_params()->mutable_constraint() = constraint;
    const Answer answer = Generate(request);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    std::lock_guard lock(state_->mutex);
    return state_->last_constraint;
  };
  v1::OutputConstraint constraint;
  constraint.set_json_object(true);
  EXPECT_TRUE(*compiled(constraint)->Matches(R"({"a": 1})"));
  constraint.set_json_object(false);
  EXPECT_EQ(compiled(constraint), nullptr);
  constraint.set_regex("a+");
  EXPECT_TRUE(*compiled(constraint)->Matches("aa"));
  constraint.set_grammar("root ::= [0-9]");
  EXPECT_TRUE(*compiled(constraint)->Matches("7"));
  constraint.set_choice_json(R"(["yes", "no"])");
  EXPECT_TRUE(*compiled(constraint)->Matches("no"));
  constraint.set_json_schema(R"({"type": "integer"})");
  const auto schema = compiled(constraint);
  EXPECT_TRUE(*schema->Matches("12"));
  EXPECT_FALSE(*schema->Matches("1.5"));
  // The same text again is what was compiled before.
  EXPECT_EQ(compiled(constraint), schema);
}

TEST_F(GenerateTest, RefusesBadConstraints) {
  const auto status = [&](const v1::OutputConstraint& constraint) {
    v1::GenerateRequest request = Request(1);
    *request.mutable_params()->mutable_constraint() = constraint;
    return Generate(request).status;
  };
  v1::OutputConstraint constraint;
  EXPECT_EQ(ReasonOf(status(constraint)), "CONSTRAINT_INVALID");
  constraint.set_json_schema(R"({"properties": {"a": {"not": {}}}})");
  EXPECT_EQ(status(constraint).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(status(constraint)), "CONSTRAINT_INVALID");
  EXPECT_THAT(status(constraint).error_message(), HasSubstr("params.constraint: #/properties/a/not"));
  constraint.set_regex("(");
  EXPECT_EQ(ReasonOf(status(constraint)), "CONSTRAINT_INVALID");
  constraint.set_regex(std::string(200 << 10, 'a'));
  EXPECT_EQ(status(constraint).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(status(constraint)), "CONSTRAINT_SIZE");
}

TEST_F(GenerateTest, RefusesBadRequests) {
  v1::GenerateRequest request = Request(5);
  request.set_model("other");
  EXPECT_EQ(ReasonOf(Generate(request).status), "MODEL_NOT_FOUND");
  request = Request(5);
  request.clear_input();
  EXPECT_EQ(ReasonOf(Generate(request).status), "PROMPT_EMPTY");
  request = Request(5);
  for (int i = 0; i < 17; ++i) request.mutable_params()->add_stop("x");
  EXPECT_EQ(ReasonOf(Generate(request).status), "SAMPLING_PARAM");
  request = Request(5);
  request.mutable_params()->set_logprobs(21);
  EXPECT_EQ(ReasonOf(Generate(request).status), "SAMPLING_PARAM");
  request = Request(5);
  request.mutable_params()->set_top_p(-1);
  EXPECT_EQ(ReasonOf(Generate(request).status), "SAMPLING_PARAM");
  v1::ChatRequest chat;
  chat.set_model("m");
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(ReadAll(*inference_->Chat(&context, chat)).status), "CHAT_MESSAGES");
}

TEST_F(GenerateTest, ChatUsesTheTemplate) {
  v1::ChatRequest request;
  request.set_model("servedModels/m");
  v1::ChatMessage* message = request.add_messages();
  message->set_role("user");
  message->set_content("hi");
  request.mutable_params()->set_max_tokens(2);
  grpc::ClientContext context;
  const Answer answer = ReadAll(*inference_->Chat(&context, request));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, "aa");
  EXPECT_GT(answer.last.usage().prompt_tokens(), 5) << "role and markers are part of the prompt";
}

TEST_F(GenerateTest, CancellingFreesTheSequence) {
  state_->Set([this] { state_->hold = true; });
  grpc::ClientContext context;
  const auto reader = inference_->Generate(&context, Request(100));
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->running == 1; }));
  context.TryCancel();
  EXPECT_EQ(ReadAll(*reader).status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(state_->WaitUntil([this] { return state_->running == 0 && state_->cancelled == 1; }));
}

TEST_F(GenerateTest, ADeadlineFreesTheSequence) {
  state_->Set([this] { state_->hold = true; });
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  const auto reader = inference_->Generate(&context, Request(100));
  EXPECT_EQ(ReadAll(*reader).status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(state_->WaitUntil([this] { return state_->running == 0; }));
}

TEST_F(GenerateTest, TheDeadlineOfTheCallIsThatOfTheRequest) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(5));
  ASSERT_TRUE(ReadAll(*inference_->Generate(&context, Request(2))).status.ok());
  const auto left = [this] {
    std::optional<std::chrono::steady_clock::time_point> deadline;
    state_->Set([&] { deadline = state_->last_request.deadline; });
    return deadline ? std::chrono::duration<double>(*deadline - std::chrono::steady_clock::now()).count() : -1;
  };
  EXPECT_NEAR(left(), 300, 20);
  EXPECT_TRUE(Generate(Request(2)).status.ok());
  EXPECT_EQ(left(), -1) << "neither the call nor the request has one";
  v1::GenerateRequest request = Request(2);
  request.set_timeout_seconds(100);
  request.set_priority(-7);
  const Answer answer = Generate(request);
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.last.usage().cached_prompt_tokens(), 1);
  EXPECT_NEAR(left(), 100, 20);
  state_->Set([this] { EXPECT_EQ(state_->last_request.priority, -7); });
  grpc::ClientContext sooner;
  sooner.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(40));
  ASSERT_TRUE(ReadAll(*inference_->Generate(&sooner, request)).status.ok());
  EXPECT_NEAR(left(), 40, 20);
}

TEST_F(GenerateTest, ARequestThatRunsOutOfTimeKeepsWhatWasSaid) {
  state_->Set([this] { state_->hold = true; });
  v1::GenerateRequest request = Request(1000);
  request.set_timeout_seconds(50);
  grpc::ClientContext context;
  const auto reader = inference_->Generate(&context, request);
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->running == 1; }));
  state_->Set([this] { state_->expire = true; });
  const Answer answer = ReadAll(*reader);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(ReasonOf(answer.status), "DEADLINE");
  EXPECT_EQ(answer.last.finish_reason(), v1::FINISH_REASON_DEADLINE);
  EXPECT_GT(answer.last.usage().prompt_tokens(), 0);
}

TEST_F(GenerateTest, RefusesBadRequestOptions) {
  v1::GenerateRequest request = Request(5);
  request.set_priority(101);
  EXPECT_EQ(ReasonOf(Generate(request).status), "REQUEST_OPTION");
  for (const double seconds : {-1.0, 1e9, std::numeric_limits<double>::quiet_NaN()}) {
    request = Request(5);
    request.set_timeout_seconds(seconds);
    EXPECT_EQ(ReasonOf(Generate(request).status), "REQUEST_OPTION") << seconds;
  }
}

TEST_F(GenerateTest, ASlowReaderStallsOnlyItself) {
  state_->Set([this] { state_->token_text = std::string(10'000, 'x'); });
  grpc::ClientContext slow_context;
  // Reads nothing: HTTP/2 flow control holds its messages back.
  const auto slow = inference_->Generate(&slow_context, Request(1000));
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->cancelled == 1; })) << "10 MB pass the limit of 1 MiB";
  const Answer other = Generate(Request(5));
  EXPECT_TRUE(other.status.ok()) << other.status.error_message();
  EXPECT_EQ(other.tokens, 5);
  const Answer answer = ReadAll(*slow);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(answer.status), "SLOW_READER");
  EXPECT_LT(answer.text.size(), 9'000'000u);
}

TEST_F(GenerateTest, DrainLetsRunningGenerationsEnd) {
  state_->Set([this] { state_->hold = true; });
  grpc::ClientContext context;
  const auto reader = inference_->Generate(&context, Request(4));
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->running == 1; }));
  std::thread drain([this] { server_->Drain(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  state_->Set([this] { state_->hold = false; });
  const Answer answer = ReadAll(*reader);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens, 4);
  drain.join();
  EXPECT_EQ(state_->frees, 1);
  // What was served comes back.
  Restart();
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->loads == 2; }));
}

TEST_F(GenerateTest, TheDrainDeadlineEndsTheRest) {
  drain_seconds_ = 0.1;
  Restart();
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->loads == 2; }));
  v1::ServedModel model;
  for (int i = 0; i < 100 && model.state() != v1::SERVED_MODEL_STATE_READY; ++i) {
    v1::GetServedModelRequest get;
    get.set_name("servedModels/m");
    grpc::ClientContext context;
    ASSERT_TRUE(serving_->GetServedModel(&context, get, &model).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  state_->Set([this] { state_->hold = true; });
  grpc::ClientContext context;
  const auto reader = inference_->Generate(&context, Request(4));
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->running == 1; }));
  server_->Drain();
  const Answer answer = ReadAll(*reader);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(answer.status), "MODEL_DRAINED");
}

TEST_F(GenerateTest, TokenizesAndScores) {
  v1::TokenizeRequest request;
  request.set_model("m");
  request.set_text("hello wörld");
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(inference_->Tokenize(&context, request, &tokens).ok());
  v1::DetokenizeRequest back;
  back.set_model("m");
  *back.mutable_tokens() = tokens.tokens();
  v1::DetokenizeResponse text;
  grpc::ClientContext back_context;
  ASSERT_TRUE(inference_->Detokenize(&back_context, back, &text).ok());
  EXPECT_EQ(text.text(), "hello wörld");
  back.add_tokens(1'000'000);
  grpc::ClientContext bad_context;
  EXPECT_EQ(ReasonOf(inference_->Detokenize(&bad_context, back, &text)), "PROMPT_TOKEN");
  v1::ScoreRequest score;
  score.set_model("m");
  score.set_text("hello");
  v1::ScoreResponse scores;
  grpc::ClientContext score_context;
  ASSERT_TRUE(inference_->Score(&score_context, score, &scores).ok());
  EXPECT_EQ(scores.logprobs_size(), scores.tokens_size() - 1);
  score.clear_text();
  grpc::ClientContext empty_context;
  EXPECT_EQ(ReasonOf(inference_->Score(&empty_context, score, &scores)), "SCORE_TOO_SHORT");
}

TEST_F(GenerateTest, PagesOfServedModels) {
  v1::ServedModel model;
  ASSERT_TRUE(LoadModel("a", MakeCheckpoint(), &model).ok());
  v1::ListServedModelsRequest request;
  request.set_page_size(1);
  v1::ListServedModelsResponse page;
  grpc::ClientContext context;
  ASSERT_TRUE(serving_->ListServedModels(&context, request, &page).ok());
  ASSERT_EQ(page.models_size(), 1);
  EXPECT_EQ(page.models(0).name(), "servedModels/a");
  request.set_page_token(page.next_page_token());
  v1::ListServedModelsResponse next;
  grpc::ClientContext next_context;
  ASSERT_TRUE(serving_->ListServedModels(&next_context, request, &next).ok());
  ASSERT_EQ(next.models_size(), 1);
  EXPECT_EQ(next.models(0).name(), "servedModels/m");
  EXPECT_EQ(next.next_page_token(), "");
}

}  // namespace
}  // namespace qamserve
