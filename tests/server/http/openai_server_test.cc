// The OpenAI endpoints over the services of a whole server, with fake weights: what the services say is understood.
#include <gmock/gmock.h>

#include <memory>
#include <vector>

#include "server/http/openai/json_reader.h"
#include "server/http/openai/openai_part.h"
#include "tests/server/grpc/server_fixture.h"
#include "tests/support/fake_exchange.h"

namespace qamserve::openai {
namespace {

class OpenAiServerTest : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    v1::ServedModel model;
    const grpc::Status loaded = LoadModel("m", MakeCheckpoint(), &model);
    ASSERT_TRUE(loaded.ok()) << loaded.error_message();
    part_ = OpenAiPart(std::make_shared<LocalCalls>(server_->InProcessChannel()));
  }
  void TearDown() override { part_ = {}; }

  Json Ask(const std::string& path, const std::string& body, int status = 200) {
    HttpRequestHead head;
    head.method = body.empty() ? "GET" : "POST";
    head.path = path;
    head.peer = "127.0.0.1:1";
    head.fields = {{"Content-Type", "application/json"}};
    FakeClient client(head, body);
    client.SendTo(part_.handle);
    const FakeAnswer answer = client.Wait();
    EXPECT_EQ(answer.status, status) << body << "\n" << answer.body;
    absl::StatusOr<Json> json = ParseJsonText(answer.body);
    EXPECT_TRUE(json.ok()) << answer.body;
    return json.ok() ? *json : Json();
  }
  // {"model": "m", "prompt": "hello", ...}
  Json Complete(const std::string& more, int status = 200) {
    return Ask("/v1/completions", fmt::format(R"({{"model": "m", "prompt": "hello"{}}})", more), status);
  }

  HttpPart part_;
};

TEST_F(OpenAiServerTest, CompletesChatsAndEmbeds) {
  const Json completion = Complete(R"(, "max_tokens": 5, "n": 2)");
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(completion["choices"][i]["text"], "aaaaa");
    EXPECT_EQ(completion["choices"][i]["finish_reason"], "length");
  }
  EXPECT_EQ(completion["usage"]["completion_tokens"], 10);
  const Json chat = Ask("/v1/chat/completions",
                        R"({"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]})");
  EXPECT_EQ(chat["choices"][0]["message"]["content"], "aaa");
  const Json embedding = Ask("/v1/embeddings", R"({"model": "m", "input": [[1], [5, 6, 7]], "normalize": false})");
  EXPECT_EQ(embedding["data"][1]["embedding"], Json::array({3.0, 7.0})) << "the fake's: tokens and the last one";
  EXPECT_EQ(Ask("/v1/models", "")["data"][0]["id"], "m");
  EXPECT_EQ(Ask("/v1/models/m", "")["max_model_len"], 128);
}

TEST_F(OpenAiServerTest, AliasesAnswerByTheirName) {
  v1::UpdateAliasRequest request;
  request.set_name("aliases/prod");
  request.add_targets()->set_model("m");
  request.mutable_targets(0)->set_weight(1);
  v1::Alias alias;
  grpc::ClientContext context;
  ASSERT_TRUE(serving_->UpdateAlias(&context, request, &alias).ok());
  const Json answer = Ask("/v1/completions", R"({"model": "prod", "prompt": "a", "echo": true, "logprobs": 1})");
  EXPECT_EQ(answer["model"], "prod");
  EXPECT_EQ(Ask("/v1/models/prod", "")["id"], "prod");
}

TEST_F(OpenAiServerTest, EchoGivesWhatScoreGives) {
  v1::ScoreRequest request;
  request.set_model("m");
  request.set_text("hello world");
  request.set_top(1);
  v1::ScoreResponse score;
  grpc::ClientContext context;
  ASSERT_TRUE(inference_->Score(&context, request, &score).ok());
  ASSERT_GT(score.logprobs_size(), 2);
  const Json answer = Ask("/v1/completions", R"({"model": "m", "prompt": "hello world", "max_tokens": 1, "logprobs": 1,
                                                "echo": true})");
  const Json& logprobs = answer["choices"][0]["logprobs"];
  ASSERT_EQ(static_cast<int>(logprobs["token_logprobs"].size()), score.tokens_size() + 1);
  for (int i = 0; i < score.logprobs_size(); ++i) EXPECT_EQ(logprobs["token_logprobs"][i + 1], score.logprobs(i));
  EXPECT_EQ(answer["choices"][0]["text"], "hello worlda");
  EXPECT_EQ(logprobs["text_offset"].back(), 11);
}

TEST_F(OpenAiServerTest, ErrorsOfTheServicesNameTheMember) {
  struct Wrong {
    const char* more;
    const char* param;
    const char* code;
  };
  const std::string long_stop = fmt::format(R"(, "stop": "{}")", std::string(300, 'x'));
  const Wrong wrongs[] = {
      {R"(, "top_p": 2)", "top_p", "invalid_value"},
      {R"(, "temperature": -1)", "temperature", "invalid_value"},
      {R"(, "top_k": 2147483647)", "top_k", "invalid_value"},
      {R"(, "min_p": 1)", "min_p", "invalid_value"},
      {R"(, "repetition_penalty": 0)", "repetition_penalty", "invalid_value"},
      {R"(, "presence_penalty": 3)", "presence_penalty", "invalid_value"},
      {R"(, "frequency_penalty": -3)", "frequency_penalty", "invalid_value"},
      {R"(, "logit_bias": {"5": 200})", "logit_bias", "invalid_value"},
      {R"(, "stop": "")", "stop", "invalid_value"},
      {long_stop.c_str(), "stop", "invalid_value"},
  };
  for (const Wrong& wrong : wrongs) {
    const Json error = Complete(wrong.more, 400)["error"];
    EXPECT_EQ(error["param"], wrong.param) << wrong.more << TextOf(error);
    EXPECT_EQ(error["code"], wrong.code) << wrong.more;
    EXPECT_EQ(error["type"], "invalid_request_error");
  }
  for (const char* model : {"other", "servedModels/other", "aliases/other", "No Name"}) {
    const Json error = Ask("/v1/completions", fmt::format(R"({{"model": "{}", "prompt": "a"}})", model), 404)["error"];
    EXPECT_EQ(error["code"], "model_not_found") << model;
    EXPECT_EQ(error["param"], "model");
  }
  const Json long_text =
      Ask("/v1/embeddings", fmt::format(R"({{"model": "m", "input": "{}"}})", std::string(999, 'x')), 400);
  EXPECT_EQ(long_text["error"]["code"], "context_length_exceeded");
  EXPECT_EQ(long_text["error"]["param"], "input");
}

TEST_F(OpenAiServerTest, AClientThatLeavesFreesItsSequences) {
  state_->Set([this] { state_->hold = true; });
  HttpRequestHead head;
  head.method = "POST";
  head.path = "/v1/completions";
  head.peer = "127.0.0.1:1";
  head.fields = {{"Content-Type", "application/json"}};
  FakeClient client(head, R"({"model": "m", "prompt": "a", "n": 3, "stream": true, "max_tokens": 50})");
  client.SendTo(part_.handle);
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->running == 3; }));
  client.Vanish();
  EXPECT_TRUE(state_->WaitUntil([this] { return state_->running == 0 && state_->cancelled == 3; }));
  EXPECT_TRUE(client.WaitForRelease());
}

TEST_F(OpenAiServerTest, ManyStreamsComeAndGo) {
  constexpr int kClients = 96;
  HttpRequestHead head;
  head.method = "POST";
  head.path = "/v1/completions";
  head.peer = "127.0.0.1:1";
  head.fields = {{"Content-Type", "application/json"}};
  std::vector<std::unique_ptr<FakeClient>> clients;
  clients.reserve(kClients);
  for (int i = 0; i < kClients; ++i) {
    const bool stream = i % 3 != 0;
    clients.push_back(std::make_unique<FakeClient>(
        head,
        fmt::format(R"({{"model": "m", "prompt": "a", "n": {}, "stream": {}, "max_tokens": 40}})", 1 + i % 2, stream)));
    clients.back()->SendTo(part_.handle);
    if (i % 8 == 1) clients.back()->StopReading();
    if (i % 4 == 2) clients.back()->Vanish();
  }
  for (int i = 0; i < kClients; ++i) {
    if (i % 4 == 2) {
      EXPECT_TRUE(clients[i]->WaitForRelease()) << i;
      continue;
    }
    if (i % 8 == 1 && i % 16 == 1) {
      clients[i]->Vanish();
      EXPECT_TRUE(clients[i]->WaitForRelease()) << i;
      continue;
    }
    clients[i]->ResumeReading();
    const FakeAnswer answer = clients[i]->Wait();
    EXPECT_EQ(answer.status, 200) << i << answer.body;
    EXPECT_TRUE(answer.body.ends_with(i % 3 != 0 ? "data: [DONE]\n\n" : "}")) << i << answer.body;
  }
  EXPECT_TRUE(state_->WaitUntil([this] { return state_->running == 0; }));
}

}  // namespace
}  // namespace qamserve::openai
