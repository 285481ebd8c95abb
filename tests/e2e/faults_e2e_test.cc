// Requests that go wrong, over a real connection to a real engine: each ends with a clear status, the one beside it
// says what it would have said alone, and no block of the KV cache stays behind, which /metrics tells.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "qamserve/v1/checkpoint.grpc.pb.h"
#include "qamserve/v1/inference.grpc.pb.h"
#include "qamserve/v1/serving.grpc.pb.h"
#include "server/server.h"
#include "tests/support/raw_http.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

// The reason in a status's google.rpc.ErrorInfo.
std::string ReasonOf(const grpc::Status& status) {
  google::rpc::Status wire;
  google::rpc::ErrorInfo info;
  if (!wire.ParseFromString(status.error_details()) || wire.details().empty()) return "";
  return wire.details(0).UnpackTo(&info) ? info.reason() : "";
}

class FaultsE2eTest : public testing::Test {
 protected:
  // So many tokens that a test can act before they are said.
  static constexpr int kContext = 4096;

  void SetUp() override {
    TinyModelOptions model;
    model.context_length = kContext;
    ASSERT_TRUE(WriteTinyModel(model, dir_ / "tiny").ok());
    options_.data_dir = dir_ / "data";
    options_.listen = "127.0.0.1:0";
    options_.http_listen = "off";
    options_.metrics_listen = "127.0.0.1:0";
    options_.import_root = dir_.path();
    options_.threads = 2;
    options_.memory_limit_mib = 512;
    options_.kv_mib = 2;  // one whole context, shared by all
    options_.disk_reserve_mib = 0;
    options_.drain_seconds = 10;
    limits_.max_unsent_bytes = 64 << 10;
  }

  void Start() {
    ServerParts parts;
    parts.limits = limits_;
    auto server = Server::Start(options_, Log::Silent(), parts);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    inference_ = v1::InferenceService::NewStub(channel_);
    v1::ImportCheckpointRequest import;
    import.set_kind(v1::UPLOAD_KIND_CHECKPOINT);
    import.set_path("tiny");
    v1::CompleteUploadResponse imported;
    grpc::ClientContext import_context;
    ASSERT_TRUE(v1::CheckpointService::NewStub(channel_)->ImportCheckpoint(&import_context, import, &imported).ok());
    v1::LoadModelRequest load;
    load.set_name("tiny");
    load.set_source(imported.checkpoint().name());
    v1::ServedModel model;
    grpc::ClientContext load_context;
    const grpc::Status loaded = v1::ServingService::NewStub(channel_)->LoadModel(&load_context, load, &model);
    ASSERT_TRUE(loaded.ok()) << loaded.error_message();
  }

  static v1::GenerateRequest Request(int max_tokens, uint64_t seed = 7) {
    v1::GenerateRequest request;
    request.set_model("tiny");
    request.set_prompt("hello there");
    request.mutable_params()->set_max_tokens(max_tokens);
    request.mutable_params()->set_seed(seed);
    request.mutable_params()->set_ignore_eos(true);
    return request;
  }

  struct Answer {
    grpc::Status status;
    std::vector<int32_t> tokens;
    v1::GenerateResponse last;
  };
  static Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>& reader) {
    Answer answer;
    v1::GenerateResponse response;
    while (reader.Read(&response)) {
      answer.tokens.insert(answer.tokens.end(), response.tokens().begin(), response.tokens().end());
      answer.last = response;
    }
    answer.status = reader.Finish();
    return answer;
  }
  Answer Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    return ReadAll(*inference_->Generate(&context, request));
  }

  // The value of a series, named as /metrics prints it; -1 if there is none.
  double Metric(const std::string& series) const {
    const std::string text = HttpGet(server_->metrics_port(), "/metrics").body;
    const size_t at = text.find("\n" + series + " ");
    if (at != std::string::npos) return std::atof(text.c_str() + at + series.size() + 2);
    return -1;
  }
  // Waits until a series has a value; what it has, if that does not come.
  double WaitFor(const std::string& series, double value) const {
    for (int i = 0; i < 500 && Metric(series) != value; ++i) usleep(10'000);
    return Metric(series);
  }
  void ExpectAllBlocksBack() const {
    EXPECT_EQ(WaitFor("qamserve_kv_cache_blocks_used{model=\"tiny\"}", 0), 0);
    EXPECT_GT(Metric("qamserve_kv_cache_blocks{model=\"tiny\"}"), 100);
    EXPECT_EQ(Metric("qamserve_requests_running{model=\"tiny\"}"), 0);
    EXPECT_EQ(Metric("qamserve_requests_waiting{model=\"tiny\"}"), 0);
  }

  TempFolder dir_;
  ServerOptions options_;
  RpcLimits limits_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
};

TEST_F(FaultsE2eTest, AClientThatStopsReadingEndsAlone) {
  Start();
  const Answer wanted = Generate(Request(300));
  ASSERT_TRUE(wanted.status.ok()) << wanted.status.error_message();
  v1::GenerateRequest flood = Request(4000, 9);
  flood.mutable_params()->set_logprobs(20);  // about 2 MB in all
  // A connection that takes no more than a stream's first window unread: gRPC would widen it to megabytes.
  grpc::ChannelArguments narrow;
  narrow.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  narrow.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
  const auto channel = grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), narrow);
  const auto reader = v1::InferenceService::NewStub(channel);
  grpc::ClientContext context;
  const auto silent = reader->Generate(&context, flood);
  // Nothing is read from it, while another goes on.
  const Answer beside = Generate(Request(300));
  EXPECT_TRUE(beside.status.ok()) << beside.status.error_message();
  EXPECT_EQ(beside.tokens, wanted.tokens);
  EXPECT_EQ(WaitFor("qamserve_requests_total{model=\"tiny\",outcome=\"slow_reader\"}", 1), 1);
  ExpectAllBlocksBack();
  const Answer late = ReadAll(*silent);
  EXPECT_EQ(late.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(late.status), "SLOW_READER");
  EXPECT_THAT(late.status.error_message(), HasSubstr("65536"));
  EXPECT_LT(late.tokens.size(), 4000u);
}

TEST_F(FaultsE2eTest, ATimeoutEndsARequestWithWhatWasSaid) {
  Start();
  const Answer wanted = Generate(Request(300));
  v1::GenerateRequest hasty = Request(kContext);
  hasty.set_timeout_seconds(0.05);
  hasty.set_priority(-100);
  std::future<Answer> beside = std::async(std::launch::async, [this] { return Generate(Request(300)); });
  const Answer answer = Generate(hasty);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(ReasonOf(answer.status), "DEADLINE");
  EXPECT_EQ(answer.last.finish_reason(), v1::FINISH_REASON_DEADLINE);
  EXPECT_LT(answer.tokens.size(), 4000u);
  EXPECT_EQ(beside.get().tokens, wanted.tokens);
  ExpectAllBlocksBack();
}

// Eight answers that need twice the memory there is: some are computed again, none fails, all are what they would be.
TEST_F(FaultsE2eTest, MoreThanTheCacheHoldsIsSaidInTurns) {
  Start();
  constexpr int kRequests = 8, kTokens = 1000;
  std::vector<Answer> wanted;
  wanted.reserve(kRequests);
  for (int i = 0; i < kRequests; ++i) wanted.push_back(Generate(Request(kTokens, static_cast<uint64_t>(i) + 1)));
  std::vector<std::future<Answer>> answers;
  answers.reserve(kRequests);
  for (int i = 0; i < kRequests; ++i) {
    answers.push_back(
        std::async(std::launch::async, [this, i] { return Generate(Request(kTokens, static_cast<uint64_t>(i) + 1)); }));
  }
  for (size_t i = 0; i < answers.size(); ++i) {
    const Answer answer = answers[i].get();
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.tokens, wanted[i].tokens) << i;
  }
  EXPECT_GT(Metric("qamserve_preemptions_total{model=\"tiny\"}"), 0);
  ExpectAllBlocksBack();
}

// With drafts and an 8-bit cache, which flags of the server turn on.
TEST_F(FaultsE2eTest, OptionsOfTheEngineReachIt) {
  options_.kv_type = "int8";
  options_.draft_tokens = 4;
  options_.no_prefix_cache = true;
  Start();
  v1::GenerateRequest request = Request(200);
  request.set_prompt("one two one two one two one two one two");
  request.mutable_params()->set_temperature(0);
  const Answer first = Generate(request), again = Generate(request);
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  EXPECT_EQ(first.tokens, again.tokens);
  EXPECT_EQ(again.last.usage().cached_prompt_tokens(), 0);
  EXPECT_GT(Metric("qamserve_draft_tokens_total{model=\"tiny\"}"), 0);
  // A quarter of the bytes and its scales: more than twice the blocks of floats.
  EXPECT_GT(Metric("qamserve_kv_cache_blocks{model=\"tiny\"}"), 2 * kContext / 32);
  ExpectAllBlocksBack();
}

TEST_F(FaultsE2eTest, LogProbabilitiesAreThoseOfScoring) {
  Start();
  v1::TokenizeRequest tokenize;
  tokenize.set_model("tiny");
  tokenize.set_text("hello there");
  tokenize.set_add_special(true);
  v1::TokenizeResponse prompt;
  grpc::ClientContext tokenize_context;
  ASSERT_TRUE(inference_->Tokenize(&tokenize_context, tokenize, &prompt).ok());
  v1::GenerateRequest request = Request(6);
  request.mutable_prompt_tokens()->mutable_ids()->CopyFrom(prompt.tokens());
  request.mutable_params()->set_temperature(0);
  request.mutable_params()->set_logprobs(3);
  grpc::ClientContext context;
  const auto reader = inference_->Generate(&context, request);
  std::vector<v1::TokenLogprob> said;
  for (v1::GenerateResponse response; reader->Read(&response);) {
    said.insert(said.end(), response.logprobs().begin(), response.logprobs().end());
  }
  ASSERT_TRUE(reader->Finish().ok());
  ASSERT_EQ(said.size(), 6u);
  v1::ScoreRequest score;
  score.set_model("tiny");
  score.mutable_tokens()->mutable_ids()->CopyFrom(prompt.tokens());
  for (const v1::TokenLogprob& token : said) score.mutable_tokens()->add_ids(token.token());
  v1::ScoreResponse scores;
  grpc::ClientContext score_context;
  ASSERT_TRUE(inference_->Score(&score_context, score, &scores).ok());
  for (int i = 0; i < 6; ++i) {
    const v1::TokenLogprob& token = said[static_cast<size_t>(i)];
    EXPECT_NEAR(token.logprob(), scores.logprobs(prompt.tokens_size() - 1 + i), 1e-5) << i;
    ASSERT_EQ(token.top_size(), 3);
    EXPECT_EQ(token.top(0).token(), token.token()) << "the best one, at temperature 0";
    EXPECT_GE(token.top(0).logprob(), token.top(1).logprob());
    EXPECT_GE(token.top(1).logprob(), token.top(2).logprob());
  }
}

// What is refused at once names the field and its limits, and leaves nothing behind.
TEST_F(FaultsE2eTest, AbsurdRequestsAreRefusedByName) {
  Start();
  using Change = void (*)(v1::GenerateRequest&);
  struct Case {
    const char* reason;
    const char* message;
    Change change;
  };
  const Case cases[] = {
      {"PROMPT_EMPTY", "at least 1", [](v1::GenerateRequest& r) { r.mutable_prompt_tokens(); }},
      {"PROMPT_EMPTY", "prompt_tokens", [](v1::GenerateRequest& r) { r.clear_input(); }},
      {"PROMPT_TOO_LONG", "at most 4095", [](v1::GenerateRequest& r) { r.set_prompt(std::string(100'000, 'x')); }},
      {"PROMPT_TOKEN", "319", [](v1::GenerateRequest& r) { r.mutable_prompt_tokens()->add_ids(320); }},
      {"SAMPLING_PARAM", "max_tokens is -5", [](v1::GenerateRequest& r) { r.mutable_params()->set_max_tokens(-5); }},
      {"SAMPLING_PARAM", "temperature is nan",
       [](v1::GenerateRequest& r) { r.mutable_params()->set_temperature(std::numeric_limits<double>::quiet_NaN()); }},
      {"SAMPLING_PARAM", "0 to 100", [](v1::GenerateRequest& r) { r.mutable_params()->set_temperature(1e30); }},
      {"SAMPLING_PARAM", "top_k is -1", [](v1::GenerateRequest& r) { r.mutable_params()->set_top_k(-1); }},
      {"SAMPLING_PARAM", "top_p is 0", [](v1::GenerateRequest& r) { r.mutable_params()->set_top_p(0); }},
      {"SAMPLING_PARAM", "min_p is 1", [](v1::GenerateRequest& r) { r.mutable_params()->set_min_p(1); }},
      {"SAMPLING_PARAM", "repetition_penalty is inf",
       [](v1::GenerateRequest& r) {
         r.mutable_params()->set_repetition_penalty(std::numeric_limits<double>::infinity());
       }},
      {"SAMPLING_PARAM", "params.stop", [](v1::GenerateRequest& r) { r.mutable_params()->add_stop(""); }},
      {"SAMPLING_PARAM", "0 to 20", [](v1::GenerateRequest& r) { r.mutable_params()->set_logprobs(-1); }},
      {"REQUEST_OPTION", "-100 to 100", [](v1::GenerateRequest& r) { r.set_priority(-101); }},
      {"REQUEST_OPTION", "timeout_seconds", [](v1::GenerateRequest& r) { r.set_timeout_seconds(-1); }},
  };
  for (const Case& bad : cases) {
    v1::GenerateRequest request = Request(5);
    bad.change(request);
    const Answer answer = Generate(request);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << bad.message;
    EXPECT_EQ(ReasonOf(answer.status), bad.reason) << bad.message;
    EXPECT_THAT(answer.status.error_message(), HasSubstr(bad.message));
    EXPECT_EQ(answer.tokens.size(), 0u);
  }
  // Extreme, and allowed.
  v1::GenerateRequest hot = Request(20);
  hot.mutable_params()->set_temperature(100);
  hot.mutable_params()->set_top_p(1e-300);
  hot.mutable_params()->set_top_k(1 << 22);
  hot.mutable_params()->set_repetition_penalty(1e-3);
  hot.mutable_params()->set_max_tokens(1 << 24);
  hot.mutable_params()->clear_ignore_eos();
  hot.set_timeout_seconds(20);
  EXPECT_TRUE(Generate(hot).status.ok()) << Generate(hot).status.error_message();
  ExpectAllBlocksBack();
  EXPECT_EQ(Metric("qamserve_requests_total{model=\"tiny\",outcome=\"refused\"}"), std::size(cases));
}

}  // namespace
}  // namespace qamserve
