// Score, Embed and Compare, and what Chat hands to the template, over a real connection, with a fake engine.
#include <gmock/gmock.h>

#include <cmath>

#include "tests/server/grpc/server_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class InferenceTest : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    v1::ServedModel model;
    const grpc::Status status = LoadModel("m", MakeCheckpoint(), &model);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_TRUE(model.chat());
    ASSERT_TRUE(LoadModel("n", MakeCheckpoint(), &model).ok());
  }

  grpc::Status Embed(const v1::EmbedRequest& request, v1::EmbedResponse* response) {
    grpc::ClientContext context;
    return inference_->Embed(&context, request, response);
  }
  grpc::Status Compare(const v1::CompareRequest& request, v1::CompareResponse* response) {
    grpc::ClientContext context;
    return inference_->Compare(&context, request, response);
  }
  grpc::Status Score(const v1::ScoreRequest& request, v1::ScoreResponse* response) {
    grpc::ClientContext context;
    return inference_->Score(&context, request, response);
  }
  // Reads the answer of a chat to its end.
  grpc::Status Chat(const v1::ChatRequest& request) {
    grpc::ClientContext context;
    const auto reader = inference_->Chat(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    return reader->Finish();
  }
  // The text of the prompt that the last chat became.
  std::string LastPrompt() {
    v1::DetokenizeRequest request;
    request.set_model("m");
    {
      std::lock_guard lock(state_->mutex);
      *request.mutable_tokens() = {state_->last_prompt.begin(), state_->last_prompt.end()};
    }
    v1::DetokenizeResponse text;
    grpc::ClientContext context;
    EXPECT_TRUE(inference_->Detokenize(&context, request, &text).ok());
    return text.text();
  }
  static v1::ChatRequest ChatOf(const std::vector<std::pair<std::string, std::string>>& messages) {
    v1::ChatRequest request;
    request.set_model("m");
    request.mutable_params()->set_max_tokens(1);
    for (const auto& [role, content] : messages) {
      v1::ChatMessage* message = request.add_messages();
      message->set_role(role);
      message->set_content(content);
    }
    return request;
  }
};

TEST_F(InferenceTest, ScoreGivesTheBestTokensOfEachPlace) {
  v1::ScoreRequest request;
  request.set_model("m");
  for (const int token : {60, 61, 62}) request.mutable_tokens()->add_ids(token);
  request.set_top(2);
  v1::ScoreResponse scores;
  ASSERT_TRUE(Score(request, &scores).ok());
  ASSERT_EQ(scores.details_size(), 2);
  EXPECT_EQ(scores.details(0).token(), 61);
  EXPECT_FALSE(scores.details(0).text().empty());
  EXPECT_EQ(scores.details(1).logprob(), scores.logprobs(1));
  ASSERT_EQ(scores.details(1).top_size(), 2);
  EXPECT_EQ(scores.details(1).top(1).token(), 63);
  EXPECT_EQ(scores.details(1).top(1).logprob(), -1.5);
  request.set_top(0);
  ASSERT_TRUE(Score(request, &scores).ok());
  EXPECT_EQ(scores.details_size(), 0);
  for (const int bad : {-1, 21}) {
    request.set_top(bad);
    const grpc::Status status = Score(request, &scores);
    EXPECT_EQ(ReasonOf(status), "SCORE_TOP");
    EXPECT_THAT(status.error_message(), HasSubstr("0 to 20"));
  }
}

TEST_F(InferenceTest, EmbedsInTheOrderOfTheInputs) {
  v1::EmbedRequest request;
  request.set_model("m");
  for (const int token : {3, 4}) request.add_inputs()->mutable_tokens()->add_ids(token);
  request.mutable_inputs(1)->mutable_tokens()->add_ids(7);
  request.add_inputs()->set_text("hello");
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(request, &response).ok());
  EXPECT_EQ(response.model(), "servedModels/m");
  ASSERT_EQ(response.embeddings_size(), 3);
  EXPECT_THAT(response.embeddings(0).values(), testing::ElementsAre(1, 3));
  EXPECT_THAT(response.embeddings(1).values(), testing::ElementsAre(2, 7));
  EXPECT_EQ(response.embeddings(1).tokens(), 2);
  EXPECT_GT(response.embeddings(2).tokens(), 0);
  request.set_normalize(true);
  ASSERT_TRUE(Embed(request, &response).ok());
  EXPECT_NEAR(response.embeddings(0).values(0), 1 / std::sqrt(10), 1e-7);
  EXPECT_NEAR(response.embeddings(0).values(1), 3 / std::sqrt(10), 1e-7);
}

TEST_F(InferenceTest, EmbedNamesTheInputThatIsWrong) {
  v1::EmbedRequest request;
  request.set_model("m");
  v1::EmbedResponse response;
  EXPECT_EQ(ReasonOf(Embed(request, &response)), "EMBED_INPUTS");
  request.add_inputs()->set_text("fine");
  request.add_inputs()->set_text("");
  grpc::Status status = Embed(request, &response);
  EXPECT_EQ(ReasonOf(status), "PROMPT_EMPTY");
  EXPECT_THAT(status.error_message(), HasSubstr("inputs[1]"));
  request.mutable_inputs(1)->mutable_tokens();
  EXPECT_EQ(ReasonOf(Embed(request, &response)), "PROMPT_EMPTY");
  for (int i = 0; i < 129; ++i) request.mutable_inputs(1)->mutable_tokens()->add_ids(5);
  status = Embed(request, &response);
  EXPECT_EQ(ReasonOf(status), "PROMPT_TOO_LONG");
  EXPECT_THAT(status.error_message(), HasSubstr("inputs[1] has 129 tokens; at most 128"));
  for (int i = 0; i < 300; ++i) request.add_inputs()->set_text("x");
  status = Embed(request, &response);
  EXPECT_EQ(ReasonOf(status), "EMBED_INPUTS");
  EXPECT_THAT(status.error_message(), HasSubstr("1 to 256"));
  request.clear_inputs();
  request.add_inputs()->set_text("x");
  request.set_model("absent");
  EXPECT_EQ(ReasonOf(Embed(request, &response)), "MODEL_NOT_FOUND");
}

TEST_F(InferenceTest, ComparesTheTokensOfTheText) {
  v1::CompareRequest request;
  request.set_base("m");
  request.set_other("servedModels/n");
  request.set_prompt("before");
  request.set_text("text");
  v1::CompareResponse response;
  const grpc::Status status = Compare(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.base(), "servedModels/m");
  EXPECT_EQ(response.other(), "servedModels/n");
  std::string text;
  for (const v1::TokenComparison& token : response.tokens()) text += token.text();
  EXPECT_EQ(text, "text");
  EXPECT_EQ(response.kl_mean(), 0.25);
  EXPECT_DOUBLE_EQ(response.top1_agreement(), 1.0 / response.tokens_size());
  EXPECT_EQ(response.tokens(0).base_logprob(), -1);
  EXPECT_EQ(response.tokens(0).other_logprob(), -2);
  EXPECT_TRUE(response.tokens(0).same_top());
  EXPECT_EQ(response.tokens(1).other_top(), response.tokens(1).token() + 1);
  EXPECT_FALSE(response.tokens(1).other_top_text().empty());

  // The same text behind messages.
  request.clear_prompt();
  *request.mutable_messages() = ChatOf({{"user", "hi"}}).messages();
  v1::CompareResponse chat;
  ASSERT_TRUE(Compare(request, &chat).ok());
  EXPECT_EQ(chat.tokens_size(), response.tokens_size());
  // With nothing before it there is no distribution of its first token.
  request.clear_messages();
  ASSERT_TRUE(Compare(request, &chat).ok());
  EXPECT_EQ(chat.tokens_size(), response.tokens_size() - 1);
}

TEST_F(InferenceTest, CompareSaysWhatItCannotDo) {
  v1::CompareRequest request;
  request.set_base("m");
  request.set_other("n");
  v1::CompareResponse response;
  EXPECT_EQ(ReasonOf(Compare(request, &response)), "COMPARE_TOO_SHORT");
  request.set_prompt("before");
  EXPECT_EQ(ReasonOf(Compare(request, &response)), "COMPARE_TOO_SHORT");
  request.set_text(std::string(1100, '\n'));
  const grpc::Status too_long = Compare(request, &response);
  EXPECT_EQ(ReasonOf(too_long), "COMPARE_TOO_LONG");
  EXPECT_THAT(too_long.error_message(), HasSubstr("1024"));
  request.set_text("text");
  *request.mutable_messages() = ChatOf({{"user", "hi"}}).messages();
  EXPECT_EQ(ReasonOf(Compare(request, &response)), "COMPARE_INPUT");
  request.clear_messages();
  request.set_other("absent");
  EXPECT_EQ(ReasonOf(Compare(request, &response)), "MODEL_NOT_FOUND");
}

TEST_F(InferenceTest, ChatHandsAllOfARequestToTheTemplate) {
  state_->Set([this] {
    state_->chat_template =
        "{{ x }}|{% for t in tools or [] %}{{ t.function.name }}|{% endfor %}"
        "{% for m in messages %}{{ m | tojson }}\n{% endfor %}{{ add_generation_prompt }}";
  });
  v1::ServedModel model;
  ASSERT_TRUE(LoadModel("all", MakeCheckpoint(), &model).ok());
  v1::ChatRequest request = ChatOf({{"user", "hi"}, {"assistant", ""}, {"tool", "7"}});
  request.set_model("all");
  request.mutable_messages(0)->set_name("Ann");
  request.mutable_messages(1)->set_tool_calls_json(R"([{"id": "c", "function": {"name": "f", "arguments": "{}"}}])");
  request.mutable_messages(2)->set_tool_call_id("c");
  request.set_tools_json(R"([{"type": "function", "function": {"name": "f"}}])");
  request.set_template_args_json(R"({"x": 1.5})");
  grpc::Status status = Chat(request);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(LastPrompt(),
            "1.5|f|{\"role\": \"user\", \"content\": \"hi\", \"name\": \"Ann\"}\n"
            "{\"role\": \"assistant\", \"tool_calls\": [{\"id\": \"c\", \"function\": {\"name\": \"f\", \"arguments\": "
            "{}}}]}\n{\"role\": \"tool\", \"content\": \"7\", \"tool_call_id\": \"c\"}\nTrue");

  request.mutable_messages(1)->set_tool_calls_json("[5]");
  status = Chat(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(status), "CHAT_MESSAGES");
  EXPECT_THAT(status.error_message(), HasSubstr("messages[1].tool_calls_json[0]"));
  request.mutable_messages(1)->clear_tool_calls_json();
  request.set_tools_json("{}");
  status = Chat(request);
  EXPECT_EQ(ReasonOf(status), "CHAT_TEMPLATE_TOOLS");
  EXPECT_THAT(status.error_message(), HasSubstr("tools_json"));
  request.clear_tools_json();
  request.set_template_args_json("[]");
  EXPECT_EQ(ReasonOf(Chat(request)), "CHAT_TEMPLATE_ARGS");
}

TEST_F(InferenceTest, ChatGoesOnWithTheLastMessage) {
  v1::ChatRequest request = ChatOf({{"user", "hi"}, {"assistant", "It is"}});
  request.set_continue_last_message(true);
  const grpc::Status status = Chat(request);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(LastPrompt(), testing::EndsWith("assistant\nIt is"));
  request = ChatOf({{"user", "hi"}});
  request.set_continue_last_message(true);
  EXPECT_EQ(ReasonOf(Chat(request)), "CHAT_CONTINUE");
}

TEST_F(InferenceTest, PenaltiesAndBiasReachTheEngine) {
  v1::ChatRequest request = ChatOf({{"user", "hi"}});
  request.mutable_params()->set_presence_penalty(0.5);
  request.mutable_params()->set_frequency_penalty(-1);
  (*request.mutable_params()->mutable_logit_bias())[7] = -100;
  ASSERT_TRUE(Chat(request).ok());
  {
    std::lock_guard lock(state_->mutex);
    EXPECT_EQ(state_->last_params.presence_penalty, 0.5);
    EXPECT_EQ(state_->last_params.frequency_penalty, -1);
    EXPECT_EQ(state_->last_params.logit_bias, (std::map<int32_t, double>{{7, -100}}));
  }
  request.mutable_params()->set_presence_penalty(3);
  const grpc::Status status = Chat(request);
  EXPECT_EQ(ReasonOf(status), "SAMPLING_PARAM");
  EXPECT_THAT(status.error_message(), HasSubstr("presence_penalty is 3; allowed are -2 to 2"));
}

TEST_F(InferenceTest, ATemplateThatDoesNotWorkTakesChatAndNothingElse) {
  state_->Set([this] { state_->chat_error = InvalidArgument("CHAT_TEMPLATE_REFUSED", "chat template: no such luck"); });
  v1::ServedModel model;
  ASSERT_TRUE(LoadModel("mute", MakeCheckpoint(), &model).ok());
  EXPECT_EQ(model.state(), v1::SERVED_MODEL_STATE_READY);
  EXPECT_FALSE(model.chat());
  v1::ChatRequest request = ChatOf({{"user", "hi"}});
  request.set_model("mute");
  const grpc::Status status = Chat(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonOf(status), "CHAT_TEMPLATE_REFUSED");
  EXPECT_THAT(status.error_message(), HasSubstr("no such luck"));
  EXPECT_THAT(status.error_message(), HasSubstr("\"mute\""));
  v1::EmbedRequest embed;
  embed.set_model("mute");
  embed.add_inputs()->set_text("x");
  v1::EmbedResponse response;
  EXPECT_TRUE(Embed(embed, &response).ok());
}

}  // namespace
}  // namespace qamserve
