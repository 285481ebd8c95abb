// The OpenAI endpoints over services that say what a test tells them to, without a socket that listens. Ids count up,
// time stands still.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "qamserve/v1/inference.grpc.pb.h"
#include "qamserve/v1/serving.grpc.pb.h"
#include "server/grpc/in_process_channel.h"
#include "server/grpc/status_conversion.h"
#include "server/http/openai/json_reader.h"
#include "server/http/openai/openai_part.h"
#include "tests/support/fake_exchange.h"

namespace qamserve::openai {

using ResponseWriter = grpc::ServerWriter<v1::GenerateResponse>;

// Remembers what it was asked.
class ScriptedInference final : public v1::InferenceService::Service {
 public:
  // What is said to the `number`-th request (from 0); called from several threads at once.
  std::function<grpc::Status(int number, grpc::ServerContext& context, ResponseWriter& writer)> say;
  std::function<grpc::Status(const v1::ScoreRequest&, v1::ScoreResponse*)> score;
  std::function<grpc::Status(const v1::EmbedRequest&, v1::EmbedResponse*)> embed;

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        ResponseWriter* writer) override {
    return say(Remember(*request, generate_requests_), *context, *writer);
  }
  grpc::Status Chat(grpc::ServerContext* context, const v1::ChatRequest* request, ResponseWriter* writer) override {
    {
      std::lock_guard lock(mutex_);
      for (const auto& [name, value] : context->client_metadata()) {
        if (name == "authorization") authorization_.assign(value.data(), value.size());
      }
    }
    return say(Remember(*request, chat_requests_), *context, *writer);
  }
  grpc::Status Score(grpc::ServerContext*, const v1::ScoreRequest* request, v1::ScoreResponse* response) override {
    Remember(*request, score_requests_);
    response->set_model("servedModels/m");
    return score(*request, response);
  }
  grpc::Status Embed(grpc::ServerContext*, const v1::EmbedRequest* request, v1::EmbedResponse* response) override {
    Remember(*request, embed_requests_);
    response->set_model("servedModels/m");
    return embed(*request, response);
  }
  // A token for each byte.
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    EXPECT_TRUE(request->add_special() && request->parse_special()) << "as prompts are read";
    for (const char c : request->text()) response->add_tokens(static_cast<unsigned char>(c));
    response->set_model("servedModels/m");
    return grpc::Status::OK;
  }
  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    for (const int32_t token : request->tokens()) response->mutable_text()->push_back(static_cast<char>(token));
    response->set_model("servedModels/m");
    return grpc::Status::OK;
  }

  std::vector<v1::ChatRequest> chats() { return Copy(chat_requests_); }
  std::vector<v1::GenerateRequest> generates() { return Copy(generate_requests_); }
  std::vector<v1::ScoreRequest> scores() { return Copy(score_requests_); }
  std::vector<v1::EmbedRequest> embeds() { return Copy(embed_requests_); }
  std::string authorization() {
    std::lock_guard lock(mutex_);
    return authorization_;
  }

 private:
  template <typename Request>
  int Remember(const Request& request, std::vector<Request>& requests) {
    std::lock_guard lock(mutex_);
    requests.push_back(request);
    return static_cast<int>(requests.size()) - 1;
  }
  template <typename Request>
  std::vector<Request> Copy(const std::vector<Request>& requests) {
    std::lock_guard lock(mutex_);
    return requests;
  }

  std::mutex mutex_;
  std::string authorization_;
  std::vector<v1::ChatRequest> chat_requests_;
  std::vector<v1::GenerateRequest> generate_requests_;
  std::vector<v1::ScoreRequest> score_requests_;
  std::vector<v1::EmbedRequest> embed_requests_;
};

// Two models, of which one is not ready, and an alias.
class ScriptedServing final : public v1::ServingService::Service {
 public:
  grpc::Status ListServedModels(grpc::ServerContext*, const v1::ListServedModelsRequest* request,
                                v1::ListServedModelsResponse* response) override {
    // Two pages.
    if (request->page_token().empty()) {
      *response->add_models() = Model("m", v1::SERVED_MODEL_STATE_READY);
      response->set_next_page_token("m");
    } else {
      *response->add_models() = Model("slow", v1::SERVED_MODEL_STATE_LOADING);
    }
    return grpc::Status::OK;
  }
  grpc::Status ListAliases(grpc::ServerContext*, const v1::ListAliasesRequest*,
                           v1::ListAliasesResponse* response) override {
    *response->add_aliases() = NameOfAlias();
    return grpc::Status::OK;
  }
  grpc::Status GetServedModel(grpc::ServerContext*, const v1::GetServedModelRequest* request,
                              v1::ServedModel* response) override {
    if (request->name() == "servedModels/locked") {
      return ToGrpcStatus(MakeError(absl::StatusCode::kPermissionDenied, "KEY_SCOPE", "the key may not read"));
    }
    if (request->name() == "servedModels/m") *response = Model("m", v1::SERVED_MODEL_STATE_READY);
    if (request->name() == "servedModels/slow") *response = Model("slow", v1::SERVED_MODEL_STATE_LOADING);
    if (!response->name().empty()) return grpc::Status::OK;
    return ToGrpcStatus(NotFound("MODEL_NOT_FOUND", "no model {}", request->name()));
  }
  grpc::Status GetAlias(grpc::ServerContext*, const v1::GetAliasRequest* request, v1::Alias* response) override {
    if (request->name() != "aliases/chat") {
      return ToGrpcStatus(NotFound("ALIAS_NOT_FOUND", "no alias {}", request->name()));
    }
    *response = NameOfAlias();
    return grpc::Status::OK;
  }

 private:
  static v1::ServedModel Model(const std::string& name, v1::ServedModelState state) {
    v1::ServedModel model;
    model.set_name("servedModels/" + name);
    model.set_state(state);
    model.set_context_tokens(4096);
    model.mutable_ready_time()->set_seconds(1'700'000'000);
    return model;
  }
  static v1::Alias NameOfAlias() {
    v1::Alias alias;
    alias.set_name("aliases/chat");
    alias.mutable_update_time()->set_seconds(1'700'000'001);
    return alias;
  }
};

// --- What a model says ---
inline v1::GenerateResponse Said(const std::string& text) {
  v1::GenerateResponse message;
  message.set_text(text);
  message.set_model("servedModels/m");
  return message;
}
// With a token and its log-probability, the best ones being the token itself and "?".
inline v1::GenerateResponse SaidToken(const std::string& text, double logprob) {
  v1::GenerateResponse message = Said(text);
  v1::TokenLogprob* token = message.add_logprobs();
  token->set_text(text);
  token->set_logprob(logprob);
  v1::TokenLogprob* best = token->add_top();
  best->set_text(text);
  best->set_logprob(logprob);
  best = token->add_top();
  best->set_text("?");
  best->set_logprob(logprob - 1);
  return message;
}
inline v1::GenerateResponse Ended(v1::FinishReason reason, int completion_tokens = 2) {
  v1::GenerateResponse message = Said("");
  message.set_finish_reason(reason);
  message.mutable_usage()->set_prompt_tokens(5);
  message.mutable_usage()->set_completion_tokens(completion_tokens);
  message.mutable_usage()->set_cached_prompt_tokens(3);
  return message;
}

class OpenAiFixture : public testing::Test {
 protected:
  OpenAiFixture() {
    Says({Said("Hel"), Said("lo"), Ended(v1::FINISH_REASON_STOP)});
    grpc::ServerBuilder builder;
    builder.RegisterService(&inference_);
    builder.RegisterService(&serving_);
    server_ = builder.BuildAndStart();
    channel_ = *ConnectInProcess(*server_);
    calls_ = std::make_shared<LocalCalls>(channel_);
    OpenAiOptions options;
    options.fingerprint = [](std::string_view model) { return model == "servedModels/m" ? "fp_0123456789ab" : ""; };
    options.unix_seconds = [] { return int64_t{1'700'000'000}; };
    options.new_id = [this] { return std::to_string(++ids_); };
    options.ping_interval = absl::InfiniteDuration();
    options.max_body_bytes = 1 << 20;
    part_ = OpenAiPart(calls_, options);
  }
  ~OpenAiFixture() override {
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    part_ = {};
    calls_.reset();
    std::vector<std::shared_ptr<grpc::Channel>> channels;
    channels.push_back(std::move(channel_));
    ReleaseInProcess(std::move(channels));
  }

  // The same to every request.
  void Says(std::vector<v1::GenerateResponse> messages, grpc::Status status = grpc::Status::OK) {
    inference_.say = [messages = std::move(messages), status](int, grpc::ServerContext&, ResponseWriter& writer) {
      for (const v1::GenerateResponse& message : messages) writer.Write(message);
      return status;
    };
  }

  static HttpRequestHead Head(const std::string& method, const std::string& path) {
    HttpRequestHead head;
    head.method = method;
    head.path = path;
    head.peer = "127.0.0.1:1";
    if (method == "POST") head.fields = {{"Content-Type", "application/json"}};
    return head;
  }
  FakeAnswer Send(const HttpRequestHead& head, const std::string& body = "") {
    EXPECT_TRUE(part_.takes(head)) << head.path;
    FakeClient client(head, body);
    client.SendTo(part_.handle);
    return client.Wait();
  }
  FakeAnswer Post(const std::string& path, const std::string& body) { return Send(Head("POST", path), body); }
  FakeAnswer Get(const std::string& path) { return Send(Head("GET", path)); }

  static Json Parsed(const FakeAnswer& answer) {
    absl::StatusOr<Json> json = ParseJsonText(answer.body);
    EXPECT_TRUE(json.ok()) << json.status() << "\n" << answer.body;
    return json.ok() ? *json : Json();
  }
  // The answer's "error", whose code and HTTP status are checked.
  static Json ErrorOf(const FakeAnswer& answer, int status, const std::string& code) {
    EXPECT_EQ(answer.status, status) << answer.body;
    Json error = Parsed(answer)["error"];
    EXPECT_EQ(error["code"], code) << answer.body;
    EXPECT_FALSE(error["message"].get<std::string>().empty());
    return error;
  }

  std::atomic<int> ids_{0};
  ScriptedInference inference_;
  ScriptedServing serving_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::shared_ptr<LocalCalls> calls_;
  HttpPart part_;
};

}  // namespace qamserve::openai
