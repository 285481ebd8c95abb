// POST /v1/chat/completions, whole and as a stream.
#include <gmock/gmock.h>

#include <limits>
#include <set>
#include <thread>

#include "tests/server/http/golden_text.h"
#include "tests/server/http/openai_fixture.h"

namespace qamserve::openai {
namespace {

using testing::HasSubstr;

constexpr char kPath[] = "/v1/chat/completions";
constexpr char kHello[] = R"({"model": "m", "messages": [{"role": "user", "content": "hi"}]})";

std::string With(std::string_view more) {
  std::string body = kHello;
  body.pop_back();
  return fmt::format("{}, {}}}", body, more);
}

constexpr char kTool[] =
    R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])";

class OpenAiChatTest : public OpenAiFixture {};

TEST_F(OpenAiChatTest, AnswersWhole) {
  const FakeAnswer answer = Post(kPath, kHello);
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.field("content-type"), "application/json; charset=utf-8");
  ExpectGolden("chat.json", answer.body);
  const std::vector<v1::ChatRequest> chats = inference_.chats();
  ASSERT_EQ(chats.size(), 1u);
  EXPECT_EQ(chats[0].model(), "m");
  EXPECT_EQ(chats[0].messages(0).content(), "hi");
  EXPECT_EQ(chats[0].params().logprobs(), 0);
}

TEST_F(OpenAiChatTest, Streams) {
  const FakeAnswer answer = Post(kPath, With(R"("stream": true, "stream_options": {"include_usage": true})"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.field("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(answer.field("cache-control"), "no-cache");
  EXPECT_TRUE(answer.ended);
  ExpectGolden("chat.sse", answer.body);
}

TEST_F(OpenAiChatTest, StreamsLogprobs) {
  v1::GenerateResponse half = SaidToken("\xE2\x82", -0.25);  // half of a character
  half.set_text("");
  Says({SaidToken("Hi", -0.5), half, Ended(v1::FINISH_REASON_LENGTH)});
  ExpectGolden("chat_logprobs.sse", Post(kPath, With(R"("stream": true, "logprobs": true, "top_logprobs": 1)")).body);
  EXPECT_EQ(inference_.chats().at(0).params().logprobs(), 1);
}

TEST_F(OpenAiChatTest, LogprobsOfAWholeAnswer) {
  Says({SaidToken("Hi", -0.5), SaidToken("!", -std::numeric_limits<double>::infinity()),
        Ended(v1::FINISH_REASON_LENGTH)});
  const Json choice = Parsed(Post(kPath, With(R"("logprobs": true)")))["choices"][0];
  EXPECT_EQ(TextOf(choice["logprobs"]),
            R"({"content":[{"token":"Hi","bytes":[72,105],"logprob":-0.5,"top_logprobs":[]},)"
            R"({"token":"!","bytes":[33],"logprob":-9999.0,"top_logprobs":[]}],"refusal":null})");
  EXPECT_EQ(choice["finish_reason"], "length");
}

TEST_F(OpenAiChatTest, SeveralChoicesRunSideBySide) {
  inference_.say = [](int number, grpc::ServerContext&, ResponseWriter& writer) {
    writer.Write(Said(fmt::format("choice {}", number)));
    writer.Write(Ended(v1::FINISH_REASON_STOP, 1 + number));
    return grpc::Status::OK;
  };
  const Json answer = Parsed(Post(kPath, With(R"("n": 3, "seed": 11)")));
  ASSERT_EQ(answer["choices"].size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(answer["choices"][i]["index"], i);
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 5) << "the prompt is one";
  EXPECT_EQ(answer["usage"]["completion_tokens"], 1 + 2 + 3);
  std::set<uint64_t> seeds;
  for (const v1::ChatRequest& chat : inference_.chats()) seeds.insert(chat.params().seed());
  EXPECT_EQ(seeds.size(), 3u);
  EXPECT_EQ(seeds.count(11), 1u);
}

TEST_F(OpenAiChatTest, ChoicesOfAStreamAreTold) {
  const FakeAnswer answer = Post(kPath, With(R"("n": 2, "stream": true)"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(answer.body, HasSubstr(fmt::format(R"({{"index":{},"delta":{{"role":"assistant")", i)));
    EXPECT_THAT(answer.body,
                HasSubstr(fmt::format(R"({{"index":{},"delta":{{}},"logprobs":null,"finish_reason":"stop"}})", i)));
  }
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(OpenAiChatTest, CallsTools) {
  Says({Said("I look. <tool_"), Said("call>{\"name\": \"f\", \"argu"), Said("ments\": {\"a\": 1}}</tool_call>"),
        Ended(v1::FINISH_REASON_STOP)});
  ExpectGolden("chat_tools.json", Post(kPath, With(kTool)).body);
  ids_ = 0;
  ExpectGolden("chat_tools.sse", Post(kPath, With(fmt::format("{}, \"stream\": true", kTool))).body);
  EXPECT_THAT(inference_.chats().at(0).tools_json(), HasSubstr(R"("name":"f")"));
}

TEST_F(OpenAiChatTest, OnlyOneCallWithoutParallelCalls) {
  Says({Said("<tool_call>{\"name\": \"f\"}</tool_call><tool_call>{\"name\": \"f\"}</tool_call>"),
        Said("<tool_call>{\"name\": \"f\"}</tool_call>"), Ended(v1::FINISH_REASON_STOP)});
  EXPECT_EQ(Parsed(Post(kPath, With(kTool)))["choices"][0]["message"]["tool_calls"].size(), 3u);
  const std::string one = With(fmt::format("{}, \"parallel_tool_calls\": false", kTool));
  EXPECT_EQ(Parsed(Post(kPath, one))["choices"][0]["message"]["tool_calls"].size(), 1u);
}

TEST_F(OpenAiChatTest, AForcedCallIsConstrained) {
  Says({Said("{\"name\": \"f\", "), Said("\"arguments\": {\"a\": 1}}"), Ended(v1::FINISH_REASON_STOP)});
  const Json choice = Parsed(Post(kPath, With(fmt::format("{}, \"tool_choice\": \"required\"", kTool))))["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_TRUE(choice["message"]["content"].is_null());
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["arguments"], R"({"a":1})");
  EXPECT_THAT(inference_.chats().at(0).params().constraint().json_schema(), HasSubstr(R"("const":"f")"));
}

TEST_F(OpenAiChatTest, AForcedCallThatIsCutOffSaysSo) {
  Says({Said("{\"name\": \"f\", \"arguments\": {\"a\": "), Ended(v1::FINISH_REASON_LENGTH)});
  const Json choice = Parsed(Post(kPath, With(fmt::format("{}, \"tool_choice\": \"required\"", kTool))))["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["arguments"], R"({"a": )");
}

TEST_F(OpenAiChatTest, PassesTheKeyOn) {
  HttpRequestHead head = Head("POST", kPath);
  head.fields.emplace_back("Authorization", "Bearer sk-1");
  EXPECT_EQ(Send(head, kHello).status, 200);
  EXPECT_EQ(inference_.authorization(), "Bearer sk-1");
}

TEST_F(OpenAiChatTest, AnErrorBeforeTheFirstWordHasItsStatus) {
  for (const char* stream : {"false", "true"}) {
    const std::string body = With(fmt::format("\"stream\": {}", stream));
    Says({}, ToGrpcStatus(NotFound("MODEL_NOT_FOUND", "no model \"m\"")));
    Json error = ErrorOf(Post(kPath, body), 404, "model_not_found");
    EXPECT_EQ(error["type"], "not_found_error");
    EXPECT_EQ(error["param"], "model");
    Says({}, ToGrpcStatus(InvalidArgument("PROMPT_TOO_LONG", "the prompt has 9 tokens; at most 8 fit the context")));
    error = ErrorOf(Post(kPath, body), 400, "context_length_exceeded");
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_EQ(error["param"], "messages");
    Says({}, ToGrpcStatus(ResourceExhausted("QUEUE_FULL", "16 requests run and 256 wait")));
    FakeAnswer busy = Post(kPath, body);
    EXPECT_EQ(ErrorOf(busy, 429, "queue_full")["type"], "rate_limit_error");
    EXPECT_EQ(busy.field("retry-after"), "1");
    Says({}, ToGrpcStatus(InvalidArgument("SAMPLING_PARAM", "top_p must be above 0 to 1; got 2")));
    EXPECT_EQ(ErrorOf(Post(kPath, body), 400, "invalid_value")["param"], "top_p");
  }
}

TEST_F(OpenAiChatTest, EveryCodeHasItsStatus) {
  const auto post = [this](absl::StatusCode code, std::string_view reason) {
    Says({}, ToGrpcStatus(MakeError(code, reason, "message")));
    return Post(kPath, With(R"("response_format": {"type": "json_object"})"));
  };
  FakeAnswer answer = post(absl::StatusCode::kUnauthenticated, "KEY_MISSING");
  EXPECT_EQ(ErrorOf(answer, 401, "key_missing")["type"], "authentication_error");
  EXPECT_EQ(answer.field("www-authenticate"), "Bearer");
  EXPECT_EQ(ErrorOf(post(absl::StatusCode::kPermissionDenied, "KEY_SCOPE"), 403, "key_scope")["type"],
            "permission_error");
  EXPECT_EQ(ErrorOf(post(absl::StatusCode::kInternal, "LOGITS_NOT_FINITE"), 500, "logits_not_finite")["type"],
            "server_error");
  EXPECT_EQ(ErrorOf(post(absl::StatusCode::kInvalidArgument, "CONSTRAINT_INVALID"), 400, "constraint_invalid")["param"],
            "response_format");
  ErrorOf(post(absl::StatusCode::kResourceExhausted, "CONSTRAINT_SIZE"), 400, "constraint_size");
  ErrorOf(post(absl::StatusCode::kResourceExhausted, "KV_MEMORY"), 503, "kv_memory");
  ErrorOf(post(absl::StatusCode::kUnavailable, "MODEL_NOT_READY"), 503, "model_not_ready");
  ErrorOf(post(absl::StatusCode::kDeadlineExceeded, "DEADLINE"), 504, "deadline");
  ErrorOf(post(absl::StatusCode::kUnimplemented, "TOKENIZER_UNSUPPORTED"), 501, "tokenizer_unsupported");
  EXPECT_EQ(
      ErrorOf(post(absl::StatusCode::kInvalidArgument, "CHAT_TEMPLATE_TOOLS"), 400, "chat_template_tools")["param"],
      "tools");
}

TEST_F(OpenAiChatTest, AnErrorInAStreamIsItsLastWord) {
  Says({Said("Hel"), Ended(v1::FINISH_REASON_DEADLINE)},
       ToGrpcStatus(MakeError(absl::StatusCode::kDeadlineExceeded, "DEADLINE", "too late")));
  ExpectGolden("chat_error.sse", Post(kPath, With(R"("stream": true)")).body);
  ErrorOf(Post(kPath, kHello), 504, "deadline");
}

TEST_F(OpenAiChatTest, TheErrorOfOneChoiceEndsTheOthers) {
  std::atomic<int> cancelled{0};
  inference_.say = [&cancelled](int number, grpc::ServerContext& context, ResponseWriter& writer) {
    writer.Write(Said("a"));
    if (number == 1) return ToGrpcStatus(Internal("LOGITS_NOT_FINITE", "broken"));
    while (!context.IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ++cancelled;
    return grpc::Status::CANCELLED;
  };
  ErrorOf(Post(kPath, With("\"n\": 3")), 500, "logits_not_finite");
  while (cancelled < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST_F(OpenAiChatTest, AClientThatLeavesCancelsItsCalls) {
  for (const char* stream : {"false", "true"}) {
    std::atomic<int> begun{0};
    std::atomic<int> cancelled{0};
    inference_.say = [&](int, grpc::ServerContext& context, ResponseWriter& writer) {
      writer.Write(Said("a"));
      ++begun;
      while (!context.IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ++cancelled;
      return grpc::Status::CANCELLED;
    };
    FakeClient client(Head("POST", kPath), With(fmt::format("\"n\": 2, \"stream\": {}", stream)));
    client.SendTo(part_.handle);
    while (begun < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(cancelled, 0);
    client.Vanish();
    while (cancelled < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(client.WaitForRelease());
  }
}

TEST_F(OpenAiChatTest, ASlowReaderHoldsItsModelBack) {
  constexpr int kMessages = 400;
  std::atomic<int> written{0};
  inference_.say = [&written](int, grpc::ServerContext&, ResponseWriter& writer) {
    for (int i = 0; i < kMessages; ++i) {
      writer.Write(Said(std::string(10'000, 'x')));
      ++written;
    }
    writer.Write(Ended(v1::FINISH_REASON_STOP));
    return grpc::Status::OK;
  };
  FakeClient client(Head("POST", kPath), With("\"stream\": true"));
  client.StopReading();
  client.SendTo(part_.handle);
  while (written == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_LT(client.answer().body.size(), 100'000u) << "what is not read is not asked for";
  client.ResumeReading();
  const FakeAnswer answer = client.Wait();
  EXPECT_GT(answer.body.size(), 4'000'000u);
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(OpenAiChatTest, AStreamThatIsSilentIsKeptAlive) {
  std::mutex mutex;
  std::condition_variable changed;
  bool go_on = false;
  inference_.say = [&](int, grpc::ServerContext&, ResponseWriter& writer) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return go_on; });
    writer.Write(Said("late"));
    writer.Write(Ended(v1::FINISH_REASON_STOP));
    return grpc::Status::OK;
  };
  OpenAiOptions options;
  options.ping_interval = absl::Milliseconds(5);
  const HttpPart part = OpenAiPart(calls_, options);
  FakeClient client(Head("POST", kPath), With("\"stream\": true"));
  client.SendTo(part.handle);
  ASSERT_TRUE(client.WaitForBody(": ping\n\n")) << "before the first word";
  {
    std::lock_guard lock(mutex);
    go_on = true;
  }
  changed.notify_all();
  const FakeAnswer answer = client.Wait();
  EXPECT_EQ(answer.status, 200);
  EXPECT_THAT(answer.body, HasSubstr("late"));
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
}

}  // namespace
}  // namespace qamserve::openai
