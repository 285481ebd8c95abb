// The whole road on a tiny random model: import, quantize, report, download, load, generate, chat, score; and the
// program itself as a process.
#include <absl/time/clock.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/qamctl/run.h"
#include "core/base/digest.h"
#include "qamserve/v1/artifact.grpc.pb.h"
#include "qamserve/v1/checkpoint.grpc.pb.h"
#include "qamserve/v1/inference.grpc.pb.h"
#include "qamserve/v1/job.grpc.pb.h"
#include "qamserve/v1/serving.grpc.pb.h"
#include "server/server.h"
#include "tests/e2e/process.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class ServerE2eTest : public testing::Test {
 protected:
  void SetUp() override {
    TinyModelOptions model;
    model.dtype = DType::kF16;
    ASSERT_TRUE(WriteTinyModel(model, dir_ / "tiny").ok());
    Restart();
  }

  void Restart() {
    server_.reset();
    ServerOptions options;
    options.data_dir = dir_ / "data";
    options.listen = "127.0.0.1:0";
    options.http_listen = "off";
    options.metrics_listen = "off";
    options.import_root = dir_.path();
    options.threads = 1;
    options.memory_limit_mib = 512;
    options.kv_mib = 16;
    options.disk_reserve_mib = 0;
    options.drain_seconds = 10;
    auto server = Server::Start(options, Log::Silent());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    inference_ = v1::InferenceService::NewStub(channel_);
    serving_ = v1::ServingService::NewStub(channel_);
  }

  std::string Import() {
    v1::ImportCheckpointRequest request;
    request.set_kind(v1::UPLOAD_KIND_CHECKPOINT);
    request.set_path("tiny");
    v1::CompleteUploadResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        v1::CheckpointService::NewStub(channel_)->ImportCheckpoint(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.checkpoint().architecture(), "llama");
    return response.checkpoint().name();
  }

  void Load(const std::string& source, const std::string& name = "tiny") {
    v1::LoadModelRequest request;
    request.set_name(name);
    request.set_source(source);
    v1::ServedModel model;
    grpc::ClientContext context;
    const grpc::Status status = serving_->LoadModel(&context, request, &model);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(model.state(), v1::SERVED_MODEL_STATE_READY);
    EXPECT_GT(model.memory_bytes(), 0);
    EXPECT_TRUE(model.chat());
  }

  // "tiny" is an artifact of "base": near it, and its hidden states too.
  void CompareWithItsOrigin() {
    v1::CompareRequest compare;
    compare.set_base("base");
    compare.set_other("tiny");
    compare.set_prompt("hello");
    compare.set_text(" there, all of you");
    v1::CompareResponse compared;
    grpc::ClientContext context;
    const grpc::Status status = inference_->Compare(&context, compare, &compared);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_GT(compared.tokens_size(), 0);
    EXPECT_GT(compared.kl_mean(), 0);
    EXPECT_LT(compared.kl_mean(), 1);
    EXPECT_LT(compared.tokens(0).other_logprob(), 0);

    v1::EmbedRequest embed;
    embed.add_inputs()->set_text("hello there");
    embed.set_normalize(true);
    std::vector<v1::EmbedResponse> answers(2);
    for (size_t i = 0; i < answers.size(); ++i) {
      embed.set_model(i == 0 ? "base" : "tiny");
      grpc::ClientContext embed_context;
      ASSERT_TRUE(inference_->Embed(&embed_context, embed, &answers[i]).ok());
    }
    const auto& base = answers[0].embeddings(0).values();
    const auto& other = answers[1].embeddings(0).values();
    ASSERT_EQ(base.size(), other.size());
    double cosine = 0;
    for (int i = 0; i < base.size(); ++i) cosine += static_cast<double>(base[i]) * static_cast<double>(other[i]);
    EXPECT_GT(cosine, 0.9);
    EXPECT_LT(cosine, 1 - 1e-9);
  }

  int Running() {
    v1::GetServedModelRequest request;
    request.set_name("servedModels/tiny");
    v1::ServedModel model;
    grpc::ClientContext context;
    EXPECT_TRUE(serving_->GetServedModel(&context, request, &model).ok());
    return model.running() + model.waiting();
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
  static v1::GenerateRequest Greedy(int max_tokens) {
    v1::GenerateRequest request;
    request.set_model("tiny");
    request.set_prompt("hello there");
    request.mutable_params()->set_max_tokens(max_tokens);
    request.mutable_params()->set_temperature(0);
    request.mutable_params()->set_ignore_eos(true);
    return request;
  }
  Answer Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    return ReadAll(*inference_->Generate(&context, request));
  }

  // Waits for the end of a quantize job of the tiny model.
  v1::Job Quantize(const std::string& checkpoint) {
    v1::CreateQuantizeJobRequest request;
    request.set_checkpoint(checkpoint);
    request.mutable_spec()->set_bpw(5.5);
    for (v1::TextSelection* text :
         {request.mutable_spec()->mutable_calibration(), request.mutable_spec()->mutable_evaluation()}) {
      text->set_windows(2);
      text->set_window_tokens(32);
    }
    v1::Job job;
    grpc::ClientContext context;
    const auto jobs = v1::JobService::NewStub(channel_);
    const grpc::Status status = jobs->CreateQuantizeJob(&context, request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    v1::WatchJobRequest watch;
    watch.set_name(job.name());
    grpc::ClientContext watch_context;
    const auto reader = jobs->WatchJob(&watch_context, watch);
    int tensors = 0;
    while (reader->Read(&job)) tensors += job.tensors_size();
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(tensors, 14) << "7 linear layers in each of 2 blocks, each told once";
    return job;
  }

  TempFolder dir_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ServingService::Stub> serving_;
};

TEST_F(ServerE2eTest, ACheckpointIsServed) {
  Load(Import());
  const Answer first = Generate(Greedy(12));
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  EXPECT_EQ(first.tokens.size(), 12u);
  EXPECT_EQ(first.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(Generate(Greedy(12)).tokens, first.tokens);

  v1::ChatRequest chat;
  chat.set_model("tiny");
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content("hi");
  *chat.mutable_params() = Greedy(4).params();
  grpc::ClientContext chat_context;
  const Answer answer = ReadAll(*inference_->Chat(&chat_context, chat));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens.size(), 4u);

  v1::GenerateRequest too_long = Greedy(4);
  too_long.set_prompt(std::string(100'000, 'x'));
  EXPECT_EQ(Generate(too_long).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  v1::ScoreRequest score;
  score.set_model("tiny");
  score.set_text("hello there");
  v1::ScoreResponse scores;
  grpc::ClientContext score_context;
  ASSERT_TRUE(inference_->Score(&score_context, score, &scores).ok());
  ASSERT_GT(scores.logprobs_size(), 0);
  for (const double logprob : scores.logprobs()) EXPECT_LE(logprob, 0);

  Restart();
  for (int i = 0; i < 500 && Generate(Greedy(1)).status.error_code() != grpc::StatusCode::OK; ++i) usleep(10'000);
  EXPECT_EQ(Generate(Greedy(12)).tokens, first.tokens) << "the model comes back after a restart";
}

TEST_F(ServerE2eTest, CancellingAStreamFreesItsSequence) {
  Load(Import());
  grpc::ClientContext context;
  const auto reader = inference_->Generate(&context, Greedy(200));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_EQ(ReadAll(*reader).status.error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 500 && Running() > 0; ++i) usleep(10'000);
  EXPECT_EQ(Running(), 0);
}

TEST_F(ServerE2eTest, QuantizesReportsDownloadsAndServes) {
  const std::string checkpoint = Import();
  const v1::Job job = Quantize(checkpoint);
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error().reason() << ": " << job.error().message();
  EXPECT_GT(job.quality().kl_mean(), 0);

  const auto artifacts = v1::ArtifactService::NewStub(channel_);
  v1::GetReportRequest report_request;
  report_request.set_artifact(job.artifact());
  v1::Report report;
  grpc::ClientContext report_context;
  const grpc::Status reported = artifacts->GetReport(&report_context, report_request, &report);
  ASSERT_TRUE(reported.ok()) << reported.error_message();
  EXPECT_TRUE(nlohmann::json::accept(report.json()));
  EXPECT_EQ(report.tensors_size(), 14);

  v1::GetArtifactRequest get;
  get.set_name(job.artifact());
  v1::Artifact artifact;
  grpc::ClientContext get_context;
  ASSERT_TRUE(artifacts->GetArtifact(&get_context, get, &artifact).ok());
  for (const v1::FileInfo& file : artifact.files()) {
    v1::DownloadFileRequest request;
    request.set_artifact(job.artifact());
    request.set_file(file.name());
    grpc::ClientContext context;
    const auto reader = artifacts->DownloadFile(&context, request);
    std::string bytes;
    v1::DownloadFileResponse piece;
    while (reader->Read(&piece)) bytes += piece.data();
    ASSERT_TRUE(reader->Finish().ok());
    EXPECT_EQ(Sha256Hex(bytes), file.sha256()) << file.name();
  }

  Load(job.artifact());
  const Answer answer = Generate(Greedy(8));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens.size(), 8u);
  Load(checkpoint, "base");
  CompareWithItsOrigin();
  v1::DeleteArtifactRequest remove;
  remove.set_name(job.artifact());
  v1::DeleteArtifactResponse removed;
  grpc::ClientContext remove_context;
  EXPECT_EQ(artifacts->DeleteArtifact(&remove_context, remove, &removed).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

// qamctl in this process, against a server in it.
struct Said {
  int code = 0;
  std::string out;
  std::string err;
};
Said Qamctl(const std::string& address, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--address", address});
  std::istringstream in;
  std::ostringstream out;
  std::ostringstream err;
  qamctl::Interrupts interrupts;
  qamctl::Terminal terminal{.in = in, .out = out, .err = err, .interrupts = interrupts, .now_seconds = [] {
                              return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
                            }};
  const int code = qamctl::RunQamctl(arguments, terminal);
  return {code, out.str(), err.str()};
}

TEST_F(ServerE2eTest, FullPrecisionIsMadeServedAndTold) {
  const std::string checkpoint = Import();
  const auto run = [this](const std::vector<std::string>& arguments) { return Qamctl(server_->address(), arguments); };
  const Said made = run({"quantize", checkpoint, "--codec", "full", "--evaluation-windows", "2", "--window-tokens",
                         "32", "--name", "plain", "--watch"});
  ASSERT_EQ(made.code, 0) << made.err;
  const Said report = run({"report", "plain", "--json"});
  const auto json = nlohmann::json::parse(report.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << report.out << report.err;
  EXPECT_EQ(json["spec"]["codec"], "full");
  EXPECT_EQ(json["tensors"][0]["type"], "F16");
  EXPECT_TRUE(json["quality"]["chat_template"]) << "the tiny model has one, and its own samples are measured on";
  ASSERT_EQ(run({"load", "plain", "--name", "tiny"}).code, 0);
  const Answer answer = Generate(Greedy(8));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens.size(), 8u);
  const Said refused = run({"quantize", checkpoint, "--codec", "full", "--error-feedback"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, testing::AllOf(HasSubstr("CODEC_OPTION"), HasSubstr("error_feedback")));
}

TEST_F(ServerE2eTest, AnAliasMovesFromOneModelToAnother) {
  const std::string checkpoint = Import();
  const auto run = [this](const std::vector<std::string>& arguments) { return Qamctl(server_->address(), arguments); };
  // Which model answers one request to the alias.
  const auto answerer = [&] {
    const Said said = run({"generate", "prod", "hello", "--max-tokens", "1", "--temperature", "0", "--json"});
    const auto line = nlohmann::json::parse(said.out.substr(0, said.out.find('\n')), nullptr, false);
    return said.code == 0 ? line.value("model", "") : said.out + said.err;
  };
  for (const char* name : {"old", "new"}) ASSERT_EQ(run({"load", checkpoint, "--name", name}).code, 0);
  ASSERT_EQ(run({"alias", "set", "prod", "old"}).code, 0);
  EXPECT_EQ(answerer(), "servedModels/old");
  ASSERT_EQ(run({"alias", "set", "prod", "old=1", "new=1"}).code, 0);
  std::map<std::string, int> answers;
  // A fair choice leaves one of the two out once in 2^47 runs.
  for (int i = 0; i < 48; ++i) ++answers[answerer()];
  EXPECT_THAT(answers,
              testing::UnorderedElementsAre(testing::Key("servedModels/old"), testing::Key("servedModels/new")));
  const Said refused = run({"unload", "old"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("MODEL_IN_ALIAS"));
  EXPECT_THAT(run({"models"}).out, HasSubstr("prod 50 %"));
  ASSERT_EQ(run({"alias", "set", "prod", "new"}).code, 0);
  EXPECT_EQ(run({"unload", "old"}).code, 0);

  Restart();
  EXPECT_THAT(run({"alias", "list"}).out, HasSubstr("prod   new 100 %"));
  for (int i = 0; i < 500 && answerer() != "servedModels/new"; ++i) usleep(10'000);
  EXPECT_EQ(answerer(), "servedModels/new");
  EXPECT_EQ(run({"alias", "delete", "prod"}).code, 0);
  EXPECT_EQ(run({"generate", "prod", "hello"}).code, 3) << "not found";
}

TEST(ProcessTest, PrintsItsAddressAndEndsCleanlyAtSigterm) {
  TempFolder dir;
  const std::vector<std::string> arguments = {"--data-dir",    dir / "data",  "--listen",         "127.0.0.1:0",
                                              "--http-listen", "127.0.0.1:0", "--metrics-listen", "off"};
  Process process(arguments);
  EXPECT_THAT(process.line(), testing::MatchesRegex("listening on 127\\.0\\.0\\.1:[0-9]+"));
  Process second(arguments);
  EXPECT_EQ(second.line(), "");
  EXPECT_EQ(second.Wait(), 1) << "the folder is in use";
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 0);
  Process help({"--help"});
  EXPECT_EQ(help.Wait(), 0);
  Process remote({"--listen", "0.0.0.0:0"});
  EXPECT_EQ(remote.Wait(), 2);
}

}  // namespace
}  // namespace qamserve
