// Models, embeddings, and what every endpoint does with requests that are none.
#include <absl/strings/escaping.h>
#include <gmock/gmock.h>

#include <cstring>
#include <set>

#include "tests/server/http/golden_text.h"
#include "tests/server/http/openai_fixture.h"

namespace qamserve::openai {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class OpenAiPartTest : public OpenAiFixture {
 protected:
  OpenAiPartTest() {
    // A vector of the input's length and a half; a token for each byte.
    inference_.embed = [](const v1::EmbedRequest& request, v1::EmbedResponse* response) {
      for (const v1::EmbedInput& input : request.inputs()) {
        const int size = input.has_tokens() ? input.tokens().ids_size() : static_cast<int>(input.text().size());
        v1::Embedding* embedding = response->add_embeddings();
        embedding->add_values(static_cast<float>(size));
        embedding->add_values(0.5F);
        embedding->set_tokens(size);
      }
      return grpc::Status::OK;
    };
  }
};

TEST_F(OpenAiPartTest, TakesItsPathsOnly) {
  for (const char* path : {"/v1/models", "/v1/models/m", "/v1/completions", "/v1/chat/completions", "/v1/embeddings"}) {
    EXPECT_TRUE(part_.takes(Head("GET", path))) << path;
  }
  for (const char* path : {"/", "/v1", "/v1/modelsx", "/v1/servedModels", "/v1/chat", "/v1/completions/", "/v1/jobs"}) {
    EXPECT_FALSE(part_.takes(Head("GET", path))) << path;
  }
}

TEST_F(OpenAiPartTest, ListsModelsThatAreReady) { ExpectGolden("models.json", Get("/v1/models").body); }

TEST_F(OpenAiPartTest, TellsOfOneModel) {
  for (const char* id : {"m", "servedModels/m", "servedModels%2Fm", "%6D"}) {
    const Json model = Parsed(Get(std::string("/v1/models/") + id));
    EXPECT_EQ(model["id"], "m") << id;
    EXPECT_EQ(model["object"], "model");
    EXPECT_EQ(model["max_model_len"], 4096);
  }
  EXPECT_EQ(Parsed(Get("/v1/models/chat"))["created"], 1'700'000'001);
  EXPECT_EQ(Parsed(Get("/v1/models/aliases/chat"))["id"], "chat");
  for (const char* id : {"none", "slow", "", "a/b"}) {
    EXPECT_EQ(ErrorOf(Get(std::string("/v1/models/") + id), 404, "model_not_found")["param"], "model") << id;
  }
  ErrorOf(Get("/v1/models/locked"), 403, "key_scope");
  ErrorOf(Get("/v1/models/%zz"), 400, "percent_encoding");
}

TEST_F(OpenAiPartTest, Embeds) {
  ExpectGolden("embeddings.json", Post("/v1/embeddings", R"({"model": "m", "input": ["ab", "c"]})").body);
  EXPECT_TRUE(inference_.embeds().at(0).normalize());
  const Json tokens = Parsed(Post(
      "/v1/embeddings", R"({"model": "m", "input": [[1, 2, 3]], "encoding_format": "base64", "normalize": false})"));
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(tokens["data"][0]["embedding"].get<std::string>(), &bytes));
  float values[2] = {};
  ASSERT_EQ(bytes.size(), sizeof(values));
  std::memcpy(values, bytes.data(), sizeof(values));
  EXPECT_THAT(values, ElementsAre(3.0F, 0.5F));
  EXPECT_FALSE(inference_.embeds().at(1).normalize());
}

TEST_F(OpenAiPartTest, ManyInputsAreSeveralCalls) {
  Json body = {{"model", "m"}, {"input", Json::array()}};
  int64_t tokens = 0;
  for (int i = 0; i < 150; ++i) {
    body["input"].push_back(std::string(i + 1, 'x'));
    tokens += i + 1;
  }
  const Json answer = Parsed(Post("/v1/embeddings", TextOf(body)));
  ASSERT_EQ(answer["data"].size(), 150u);
  for (int i = 0; i < 150; ++i) {
    EXPECT_EQ(answer["data"][i]["index"], i);
    EXPECT_EQ(answer["data"][i]["embedding"][0], i + 1);
  }
  EXPECT_EQ(answer["usage"]["total_tokens"], tokens);
  const std::vector<v1::EmbedRequest> calls = inference_.embeds();
  ASSERT_EQ(calls.size(), 3u);
  EXPECT_EQ(calls[0].model(), "m");
  EXPECT_EQ(calls[1].model(), "servedModels/m") << "vectors of two models do not go together";
}

TEST_F(OpenAiPartTest, ErrorsOfEmbeddings) {
  ErrorOf(Post("/v1/embeddings", R"({"model": "m", "input": "a", "dimensions": 2})"), 400, "unsupported_parameter");
  inference_.embed = [](const v1::EmbedRequest&, v1::EmbedResponse*) {
    return ToGrpcStatus(InvalidArgument("PROMPT_EMPTY", "inputs[0] has no tokens"));
  };
  EXPECT_EQ(ErrorOf(Post("/v1/embeddings", R"({"model": "m", "input": ""})"), 400, "prompt_empty")["param"], "input");
}

TEST_F(OpenAiPartTest, OtherMethodsAreRefused) {
  FakeAnswer answer = Get("/v1/chat/completions");
  ErrorOf(answer, 405, "method");
  EXPECT_EQ(answer.field("allow"), "POST");
  answer = Post("/v1/models", "{}");
  ErrorOf(answer, 405, "method");
  EXPECT_EQ(answer.field("allow"), "GET");
  ErrorOf(Send(Head("DELETE", "/v1/models/m")), 405, "method");
}

TEST_F(OpenAiPartTest, OtherTypesAreRefused) {
  for (const char* type : {"", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"}) {
    HttpRequestHead head = Head("POST", "/v1/completions");
    head.fields = {{"Content-Type", type}};
    ErrorOf(Send(head, "{}"), 415, "content_type");
  }
  HttpRequestHead head = Head("POST", "/v1/completions");
  head.fields = {{"content-type", "Application/JSON ; charset=utf-8"}};
  EXPECT_EQ(Send(head, R"({"model": "m", "prompt": "a"})").status, 200);
}

TEST_F(OpenAiPartTest, BodiesThatAreNoRequestsAreRefused) {
  const char* path = "/v1/chat/completions";
  ErrorOf(Post(path, ""), 400, "json_invalid");
  ErrorOf(Post(path, "{\"model\": "), 400, "json_invalid");
  EXPECT_EQ(ErrorOf(Post(path, "null"), 400, "invalid_type")["param"], "body");
  ErrorOf(Post(path, std::string(100'000, '[')), 400, "json_limit");
  EXPECT_EQ(ErrorOf(Post(path, R"({"model": "a", "model": "b"})"), 400, "json_duplicate")["param"], "model");
  const Json error = ErrorOf(Post(path, std::string((1 << 20) + 1, ' ')), 413, "http_body_size");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("1048576"));
}

TEST_F(OpenAiPartTest, LargeBodiesAreReadOnOtherThreads) {
  Executor executor(1, 1);
  OpenAiOptions options;
  options.executor = &executor;
  const HttpPart part = OpenAiPart(calls_, options);
  const std::string body = TextOf(Json{{"model", "m"}, {"prompt", std::string(200'000, 'x')}});
  FakeClient client(Head("POST", "/v1/completions"), body);
  client.SendTo(part.handle);
  EXPECT_EQ(client.Wait().status, 200);
  EXPECT_EQ(inference_.generates().at(0).prompt().size(), 200'000u);
  executor.Stop();
  FakeClient late(Head("POST", "/v1/completions"), body);
  late.SendTo(part.handle);
  ErrorOf(late.Wait(), 503, "shutting_down");
}

TEST_F(OpenAiPartTest, ABodyThatStopsIsToldSo) {
  FakeClient client(Head("POST", "/v1/completions"), "{\"model\"", /*body_ends=*/false);
  client.FailBody(MakeError(absl::StatusCode::kDeadlineExceeded, "HTTP_SLOW", "no more bytes came"));
  client.SendTo(part_.handle);
  ErrorOf(client.Wait(), 408, "http_slow");
}

TEST_F(OpenAiPartTest, ABadTimeoutIsRefused) {
  HttpRequestHead head = Head("POST", "/v1/completions");
  head.fields.emplace_back("X-Request-Timeout", "soon");
  EXPECT_EQ(ErrorOf(Send(head, "{}"), 400, "http_timeout")["param"], "x-request-timeout");
}

TEST_F(OpenAiPartTest, IdsAreRandomWithoutAnotherSource) {
  const HttpPart part = OpenAiPart(calls_);
  std::set<std::string> ids;
  for (int i = 0; i < 3; ++i) {
    FakeClient client(Head("POST", "/v1/completions"), R"({"model": "m", "prompt": "a"})");
    client.SendTo(part.handle);
    const Json answer = Parsed(client.Wait());
    EXPECT_GT(answer["created"].get<int64_t>(), 1'700'000'000);
    EXPECT_FALSE(answer.contains("system_fingerprint"));
    ids.insert(answer["id"].get<std::string>());
  }
  EXPECT_EQ(ids.size(), 3u);
}

}  // namespace
}  // namespace qamserve::openai
