// A fleet of processes over PostgreSQL and an S3 server: one api, two workers, two inference instances. A model is
// uploaded, quantized and served twice; then processes are killed, and what they did goes on.
#include <absl/time/clock.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/e2e/process.h"
#include "tests/support/postgres_server.h"
#include "tests/support/prerequisite.h"
#include "tests/support/raw_http.h"
#include "tests/support/s3_server.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

// Far longer than any step takes: what is waited for happens, or the test fails.
constexpr absl::Duration kPatience = absl::Seconds(90);

bool Eventually(const std::function<bool()>& condition, absl::Duration patience = kPatience) {
  const absl::Time deadline = absl::Now() + patience;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(50));
  }
  return true;
}

class FleetE2eTest : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT(PostgresServer::Missing());
    SKIP_WITHOUT(S3Server::Missing());
    auto postgres = PostgresServer::Start();
    ASSERT_TRUE(postgres.ok()) << postgres.status();
    postgres_ = *std::move(postgres);
    auto database = postgres_->NewDatabase();
    ASSERT_TRUE(database.ok()) << database.status();
    database_ = *std::move(database);
    auto s3 = S3Server::Start();
    ASSERT_TRUE(s3.ok()) << s3.status();
    s3_ = *std::move(s3);
    setenv("AWS_ACCESS_KEY_ID", S3Server::key().access_key.c_str(), 1);
    setenv("AWS_SECRET_ACCESS_KEY", S3Server::key().secret_key.c_str(), 1);
    // The URI holds a password: it goes by the environment, as it should.
    setenv("QAMSERVE_METADATA_STORE", database_.c_str(), 1);
    // A job of a few seconds.
    const TinyModelOptions model{.hidden_size = 128,
                                 .intermediate_size = 384,
                                 .num_layers = 4,
                                 .head_dim = 32,
                                 .context_length = 4096,
                                 .dtype = DType::kF16};
    ASSERT_TRUE(WriteTinyModel(model, dir_ / "tiny").ok());
  }

  std::unique_ptr<Process> Start(const std::string& role, const std::string& name) {
    return std::make_unique<Process>(std::vector<std::string>{"--roles",
                                                              role,
                                                              "--data-dir",
                                                              dir_ / name,
                                                              "--blob-store",
                                                              std::string("s3://") + S3Server::kBucket + "/fleet",
                                                              "--s3-endpoint",
                                                              s3_->endpoint(),
                                                              "--listen",
                                                              "127.0.0.1:0",
                                                              "--http-listen",
                                                              role == "api" ? "127.0.0.1:0" : "off",
                                                              "--metrics-listen",
                                                              "off",
                                                              "--threads",
                                                              "1",
                                                              "--kv-mib",
                                                              "16",
                                                              "--memory-limit-mib",
                                                              "512",
                                                              "--disk-reserve-mib",
                                                              "0",
                                                              "--lease-seconds",
                                                              "3",
                                                              "--drain-seconds",
                                                              "5"},
                                     role == "api");
  }

  // The text of an answer of one token over OpenAI's protocol; empty if there was none.
  static std::string Chat(int port) {
    const std::string body =
        R"({"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]})";
    RawClient client(port);
    client.Send(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: " +
        std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" + body);
    const RawAnswer answer = client.ReadAnswer();
    const auto json = nlohmann::json::parse(answer.body, nullptr, false);
    if (answer.status == 200 && json.is_object()) return json["choices"][0]["finish_reason"].get<std::string>();
    ADD_FAILURE() << answer.status << " " << answer.body;
    return "";
  }

  TempFolder dir_;
  std::unique_ptr<PostgresServer> postgres_;
  std::unique_ptr<S3Server> s3_;
  std::string database_;
};

TEST_F(FleetE2eTest, TheRoadOfAModelThroughAFleetThatLosesProcesses) {
  const auto api = Start("api", "api");
  ASSERT_NE(api->line(), "") << "the api process did not start";
  const auto first_worker = Start("worker", "worker-1");
  const auto second_worker = Start("worker", "worker-2");
  auto first_replica = Start("inference", "inference-1");
  const auto second_replica = Start("inference", "inference-2");
  Client client({.address = api->address()});

  const auto uploaded = client.Upload({.path = dir_ / "tiny"}, [](const TransferProgress&) {});
  ASSERT_TRUE(uploaded.ok()) << uploaded.status();

  v1::CreateQuantizeJobRequest create;
  create.set_checkpoint(uploaded->checkpoint().name());
  create.mutable_spec()->set_codec(v1::CODEC_TRELLIS);
  create.mutable_spec()->set_bpw(3.5);
  for (v1::TextSelection* text :
       {create.mutable_spec()->mutable_calibration(), create.mutable_spec()->mutable_evaluation()}) {
    text->set_windows(2);
    text->set_window_tokens(64);
  }
  const auto job = client.CreateQuantizeJob(create);
  ASSERT_TRUE(job.ok()) << job.status();
  // A worker dies in the middle of it, with a task in its hands.
  bool killed = false;
  const auto done = client.WatchJob(
      job->name(),
      [&](const v1::Job& change) {
        if (killed || change.progress().weights_done() == 0) return;
        first_worker->Signal(SIGKILL);
        killed = true;
      },
      [](const absl::Status&) {});
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_TRUE(killed);
  ASSERT_EQ(done->state(), v1::JOB_STATE_SUCCEEDED) << done->error().message();

  v1::LoadModelRequest load;
  load.set_name("tiny");
  load.set_source(done->artifact());
  load.set_replicas(2);
  const auto loaded = client.LoadModel(load);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto ready = [&] {
    const auto model = client.GetServedModel("servedModels/tiny");
    return model.ok() ? model->ready_replicas() : -1;
  };
  ASSERT_TRUE(Eventually([&] { return ready() == 2; }));
  for (int i = 0; i < 4; ++i) EXPECT_NE(Chat(api->http_port()), "");

  // One of the two that answer goes without a word: requests go on from the first one on.
  first_replica->Signal(SIGKILL);
  for (int i = 0; i < 20; ++i) EXPECT_NE(Chat(api->http_port()), "") << i;
  ASSERT_TRUE(Eventually([&] { return ready() == 1; })) << "it is taken for dead";
  // A new one takes its place.
  first_replica = Start("inference", "inference-3");
  ASSERT_TRUE(Eventually([&] { return ready() == 2; }));
  EXPECT_NE(Chat(api->http_port()), "");

  // In order.
  second_replica->Signal(SIGTERM);
  EXPECT_EQ(second_replica->Wait(), 0);
  // An api process reads the rows after it was told of a change. One that waited for silence would take longer than this.
  EXPECT_TRUE(Eventually([&] { return ready() == 1; }, absl::Seconds(12))) << "its rows went with it";
  v1::UnloadModelRequest unload;
  unload.set_name("servedModels/tiny");
  const auto unloaded = client.UnloadModel(unload);
  ASSERT_TRUE(unloaded.ok()) << unloaded.status();
  EXPECT_EQ(unloaded->state(), v1::SERVED_MODEL_STATE_UNLOADED);
  for (Process* process : {second_worker.get(), first_replica.get(), api.get()}) {
    process->Signal(SIGTERM);
    EXPECT_EQ(process->Wait(), 0);
  }
}

}  // namespace
}  // namespace qamserve
