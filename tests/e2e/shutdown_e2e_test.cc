// Signals to the program while a stream and a job run: what breaks off, and that the next start goes on with the job
// and finds nothing half-written.
#include <absl/time/clock.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <climits>
#include <csignal>
#include <filesystem>
#include <thread>

#include "core/base/digest.h"
#include "qamserve/v1/checkpoint.grpc.pb.h"
#include "qamserve/v1/inference.grpc.pb.h"
#include "qamserve/v1/job.grpc.pb.h"
#include "qamserve/v1/serving.grpc.pb.h"
#include "tests/e2e/process.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

// Far longer than any of these tests: what they wait for happens, or they fail.
constexpr absl::Duration kPatience = absl::Seconds(100);
// A generation of this length takes minutes even on this model, since each token attends to all before it.
constexpr int kEndless = 100'000;

// A server of its own process, and the calls that these tests make of it.
class Running {
 public:
  Running(const TempFolder& dir, const std::string& data)
      : process_({"--data-dir", dir / data, "--import-root", dir.path(), "--listen", "127.0.0.1:0", "--http-listen",
                  "off", "--metrics-listen", "off", "--threads", "1", "--kv-mib", "128", "--memory-limit-mib", "1024", "--disk-reserve-mib", "0",
                  "--drain-seconds", "3600"}),
        channel_(grpc::CreateChannel(process_.address(), grpc::InsecureChannelCredentials())),
        jobs_(v1::JobService::NewStub(channel_)),
        serving_(v1::ServingService::NewStub(channel_)),
        inference_(v1::InferenceService::NewStub(channel_)) {}

  Process& process() { return process_; }

  std::string Import() {
    v1::ImportCheckpointRequest request;
    request.set_kind(v1::UPLOAD_KIND_CHECKPOINT);
    request.set_path("tiny");
    v1::CompleteUploadResponse response;
    grpc::ClientContext context;
    const auto status = v1::CheckpointService::NewStub(channel_)->ImportCheckpoint(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.checkpoint().name();
  }

  void Load(const std::string& checkpoint) {
    v1::LoadModelRequest request;
    request.set_name("tiny");
    request.set_source(checkpoint);
    request.set_context_tokens(kEndless + 100);
    v1::ServedModel model;
    grpc::ClientContext context;
    const grpc::Status status = serving_->LoadModel(&context, request, &model);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  std::string StartJob(const std::string& checkpoint) {
    v1::CreateQuantizeJobRequest request;
    request.set_checkpoint(checkpoint);
    request.mutable_spec()->set_codec(v1::CODEC_TRELLIS);
    request.mutable_spec()->set_bpw(3.5);
    for (v1::TextSelection* text :
         {request.mutable_spec()->mutable_calibration(), request.mutable_spec()->mutable_evaluation()}) {
      text->set_windows(2);
      text->set_window_tokens(64);
    }
    v1::Job job;
    grpc::ClientContext context;
    const grpc::Status status = jobs_->CreateQuantizeJob(&context, request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job.name();
  }

  // The job as soon as `tensors` of it are done, or at its end.
  v1::Job Watch(const std::string& name, int tensors) {
    v1::WatchJobRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kPatience));
    const auto reader = jobs_->WatchJob(&context, request);
    v1::Job job;
    int done = 0;
    while (done < tensors && reader->Read(&job)) done += job.tensors_size();
    context.TryCancel();
    reader->Finish();
    return job;
  }

  grpc::Status Generate(int max_tokens, std::atomic<int>& tokens) {
    v1::GenerateRequest request;
    request.set_model("tiny");
    request.set_prompt("hello there");
    request.mutable_params()->set_max_tokens(max_tokens);
    request.mutable_params()->set_temperature(0);
    request.mutable_params()->set_ignore_eos(true);
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kPatience));
    const auto reader = inference_->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) tokens += response.tokens_size();
    return reader->Finish();
  }

 private:
  Process process_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::ServingService::Stub> serving_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
};

// A generation that only the end of the server ends.
class Stream {
 public:
  explicit Stream(Running& server) : thread_([this, &server] { status_ = server.Generate(kEndless, tokens_); }) {}
  ~Stream() {
    if (thread_.joinable()) thread_.join();
  }
  // Waits until `count` more tokens have come.
  void Await(int count) {
    const int want = tokens_ + count;
    const absl::Time deadline = absl::Now() + kPatience;
    while (tokens_ < want && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_GE(tokens_, want) << "the stream stopped";
  }
  grpc::StatusCode End() {
    thread_.join();
    return status_.error_code();
  }

 private:
  std::atomic<int> tokens_{0};
  grpc::Status status_;
  std::thread thread_;
};

class ShutdownTest : public testing::Test {
 protected:
  void SetUp() override {
    // A job of about a second.
    TinyModelOptions model{.hidden_size = 128,
                           .intermediate_size = 384,
                           .num_layers = 4,
                           .head_dim = 32,
                           .context_length = 2 * kEndless,
                           .dtype = DType::kF16};
    ASSERT_TRUE(WriteTinyModel(model, dir_ / "tiny").ok());
  }

  static void AwaitRefusal(Running& server) {
    std::atomic<int> tokens{0};
    const absl::Time deadline = absl::Now() + kPatience;
    while (server.Generate(1, tokens).ok() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
    EXPECT_EQ(server.Generate(1, tokens).error_code(), grpc::StatusCode::UNAVAILABLE);
  }

  std::vector<std::string> FilesBelow(const std::string& folder) const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_ / folder)) {
      if (entry.is_regular_file()) files.push_back(entry.path().string());
    }
    return files;
  }

  TempFolder dir_;
};

TEST_F(ShutdownTest, ASecondSignalEndsAtOnceAndTheJobGoesOn) {
  std::string artifact;
  {
    Running undisturbed(dir_, "other");
    artifact = undisturbed.Watch(undisturbed.StartJob(undisturbed.Import()), INT_MAX).artifact();
    ASSERT_NE(artifact, "");
    undisturbed.process().Signal(SIGTERM);
    EXPECT_EQ(undisturbed.process().Wait(), 0);
  }
  std::string job;
  {
    // Both before the drain has got anywhere: tasks are still at work.
    Running first(dir_, "data");
    const std::string checkpoint = first.Import();
    first.Load(checkpoint);
    Stream stream(first);
    stream.Await(10);
    job = first.StartJob(checkpoint);
    ASSERT_EQ(first.Watch(job, 2).state(), v1::JOB_STATE_RUNNING);
    first.process().Signal(SIGTERM);
    first.process().Signal(SIGINT);
    EXPECT_THAT(first.process().Wait(), testing::AnyOf(128 + SIGINT, 128 + SIGTERM));
    EXPECT_EQ(stream.End(), grpc::StatusCode::UNAVAILABLE);
  }
  {
    // The second one long after the first: the drain waits for the stream.
    Running second(dir_, "data");
    std::atomic<int> tokens{0};
    const absl::Time deadline = absl::Now() + kPatience;
    while (!second.Generate(1, tokens).ok() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
    Stream stream(second);
    stream.Await(10);
    second.process().Signal(SIGTERM);
    AwaitRefusal(second);
    stream.Await(10);
    const absl::Time signalled = absl::Now();
    second.process().Signal(SIGTERM);
    EXPECT_EQ(second.process().Wait(), 128 + SIGTERM);
    EXPECT_LT(absl::Now() - signalled, absl::Seconds(10));
    EXPECT_EQ(stream.End(), grpc::StatusCode::UNAVAILABLE);
  }
  Running third(dir_, "data");
  const v1::Job done = third.Watch(job, INT_MAX);
  EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.error().message();
  EXPECT_EQ(done.artifact(), artifact);
  third.process().Signal(SIGTERM);
  EXPECT_EQ(third.process().Wait(), 0);
  for (const char* folder : {"data/work", "data/store/incoming", "data/store/partial"}) {
    EXPECT_THAT(FilesBelow(folder), testing::IsEmpty());
  }
  for (const std::string& path : FilesBelow("data/store/blobs")) {
    const std::filesystem::path blob(path);
    EXPECT_EQ(Sha256OfFile(path).value_or(""), blob.parent_path().filename().string() + blob.filename().string());
  }
}

}  // namespace
}  // namespace qamserve
