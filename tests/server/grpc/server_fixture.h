// A whole server in this process on a free port, with real stores in a temporary folder and fake weights.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/base/digest.h"
#include "google/rpc/error_details.pb.h"
#include "qamserve/v1/artifact.grpc.pb.h"
#include "qamserve/v1/checkpoint.grpc.pb.h"
#include "qamserve/v1/inference.grpc.pb.h"
#include "qamserve/v1/job.grpc.pb.h"
#include "qamserve/v1/serving.grpc.pb.h"
#include "server/server.h"
#include "tests/server/serving/fake_loader.h"
#include "tests/support/temp_folder.h"

namespace qamserve {

// Plans one task that never ends before it is stopped.
class IdleRunner final : public TaskRunner {
 public:
  absl::StatusOr<JobPlan> Plan(const JobSpec& spec, int) override {
    JobPlan plan;
    plan.spec = spec;
    plan.estimate.artifact_bytes = 1234;
    plan.estimate.tensors = 1;
    plan.tasks.resize(1);
    plan.tasks[0].stage = TaskStage::kPrepare;
    plan.tasks[0].name = "wait";
    plan.tasks[0].spec_json = "{}";
    return plan;
  }
  absl::StatusOr<TaskOutcome> Run(const TaskInput&, ThreadPool&, ProgressFn progress) override {
    while (true) {
      RETURN_IF_ERROR(progress(0.5));
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
};

// The reason in a status's google.rpc.ErrorInfo.
inline std::string ReasonOf(const grpc::Status& status) {
  google::rpc::Status wire;
  google::rpc::ErrorInfo info;
  if (!wire.ParseFromString(status.error_details()) || wire.details().empty()) return "";
  return wire.details(0).UnpackTo(&info) ? info.reason() : "";
}

class ServerFixture : public testing::Test {
 protected:
  void SetUp() override { Restart(); }

  virtual ServerOptions Options() const {
    ServerOptions options;
    options.data_dir = dir_ / "data";
    options.listen = "127.0.0.1:0";
    options.http_listen = "127.0.0.1:0";
    options.metrics_listen = metrics_ ? "127.0.0.1:0" : "off";
    options.import_root = dir_.path();
    options.threads = 1;
    options.memory_limit_mib = 64;
    options.disk_reserve_mib = 0;
    options.drain_seconds = drain_seconds_;
    return options;
  }

  void Restart() {
    server_.reset();
    ServerParts parts = parts_;
    parts.loader = &loader_;
    parts.runner = &runner_;
    parts.limits = limits_;
    parts.inspect = [](const FileSet&) -> absl::StatusOr<CheckpointFacts> {
      return CheckpointFacts{.architecture = "llama", .parameters = 42};
    };
    auto server = Server::Start(Options(), Log::Silent(), parts);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    Connect(grpc::InsecureChannelCredentials());
  }

  void Connect(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    channel_ = grpc::CreateChannel(server_->address(), credentials);
    checkpoints_ = v1::CheckpointService::NewStub(channel_);
    jobs_ = v1::JobService::NewStub(channel_);
    artifacts_ = v1::ArtifactService::NewStub(channel_);
    serving_ = v1::ServingService::NewStub(channel_);
    inference_ = v1::InferenceService::NewStub(channel_);
  }

  template <typename Call, typename Request, typename Response>
  static grpc::Status Ask(Call call, const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    return call(&context, request, response);
  }

  v1::Upload CreateUpload(const std::string& name, const std::string& content, v1::UploadKind kind) {
    v1::CreateUploadRequest request;
    request.set_kind(kind);
    v1::FileInfo* file = request.add_files();
    file->set_name(name);
    file->set_sha256(Sha256Hex(content));
    file->set_size_bytes(static_cast<int64_t>(content.size()));
    v1::Upload upload;
    grpc::ClientContext context;
    const grpc::Status status = checkpoints_->CreateUpload(&context, request, &upload);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return upload;
  }

  grpc::Status Send(const std::string& upload, const std::string& sha256, int64_t offset,
                    const std::vector<std::string>& chunks, v1::UploadFileResponse* response) {
    grpc::ClientContext context;
    const auto writer = checkpoints_->UploadFile(&context, response);
    v1::UploadFileRequest request;
    request.set_upload(upload);
    request.set_sha256(sha256);
    request.set_offset(offset);
    for (const std::string& chunk : chunks) {
      request.set_data(chunk);
      if (!writer->Write(request)) break;
      request.Clear();
    }
    writer->WritesDone();
    return writer->Finish();
  }

  grpc::Status Complete(const std::string& upload, v1::CompleteUploadResponse* response) {
    v1::CompleteUploadRequest request;
    request.set_name(upload);
    grpc::ClientContext context;
    return checkpoints_->CompleteUpload(&context, request, response);
  }

  // The name of a checkpoint that the fake inspector accepts.
  std::string MakeCheckpoint() {
    const std::string content = std::string("GGUF\x03\0\0\0", 8) + std::string(100, 'x');
    const v1::Upload upload = CreateUpload("model.gguf", content, v1::UPLOAD_KIND_CHECKPOINT);
    v1::UploadFileResponse sent;
    const grpc::Status status = Send(upload.name(), Sha256Hex(content), 0, {content}, &sent);
    EXPECT_TRUE(status.ok()) << status.error_message();
    v1::CompleteUploadResponse response;
    const grpc::Status completed = Complete(upload.name(), &response);
    EXPECT_TRUE(completed.ok()) << completed.error_message();
    return response.checkpoint().name();
  }

  grpc::Status LoadModel(const std::string& name, const std::string& source, v1::ServedModel* model) {
    v1::LoadModelRequest request;
    request.set_name(name);
    request.set_source(source);
    grpc::ClientContext context;
    return serving_->LoadModel(&context, request, model);
  }

  TempFolder dir_;
  bool metrics_ = false;
  double drain_seconds_ = 5;
  RpcLimits limits_;
  ServerParts parts_;  // what a test sets of them is kept, but for those that Restart sets
  std::shared_ptr<FakeState> state_ = std::make_shared<FakeState>();
  FakeLoader loader_{state_};
  IdleRunner runner_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::ArtifactService::Stub> artifacts_;
  std::unique_ptr<v1::ServingService::Stub> serving_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
};

}  // namespace qamserve
