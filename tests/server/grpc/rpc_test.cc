// Checkpoints, jobs, artifacts, health and reflection over a real connection.
#include <absl/synchronization/notification.h>
#include <absl/time/clock.h>
#include <gmock/gmock.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/generic/generic_stub.h>

#include "server/store/sqlite_metadata_store.h"
#include "tests/server/grpc/server_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

// Of grpc.health.v1.HealthCheckResponse.
constexpr int kServing = 1;
constexpr int kNotServing = 2;

class RpcTest : public ServerFixture {
 protected:
  // HealthCheckRequest and HealthCheckResponse have one field each, so that the wrapper types have their wire form.
  int Health(const std::string& service, grpc::StatusCode* code) {
    grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::Int32Value> stub(channel_);
    google::protobuf::StringValue request;
    request.set_value(service);
    google::protobuf::Int32Value response;
    grpc::ClientContext context;
    absl::Notification done;
    stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                   [&](const grpc::Status& status) {
                     *code = status.error_code();
                     done.Notify();
                   });
    done.WaitForNotification();
    return response.value();
  }

  v1::CreateQuantizeJobRequest JobRequest(const std::string& checkpoint) {
    v1::CreateQuantizeJobRequest request;
    request.set_checkpoint(checkpoint);
    request.mutable_spec()->set_bpw(4.5);
    return request;
  }
};

TEST_F(RpcTest, UploadsATextInPieces) {
  const std::string content = "hello, calibration";
  const std::string digest = Sha256Hex(content);
  const v1::Upload upload = CreateUpload("text.txt", content, v1::UPLOAD_KIND_TEXT);
  v1::UploadFileResponse sent;
  ASSERT_TRUE(Send(upload.name(), digest, 0, {content.substr(0, 5)}, &sent).ok());
  EXPECT_EQ(sent.committed_bytes(), 5);
  EXPECT_FALSE(sent.complete());

  // A wrong offset names the right one and loses nothing.
  grpc::Status status = Send(upload.name(), digest, 3, {"lo"}, &sent);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(ReasonOf(status), "UPLOAD_OFFSET");
  EXPECT_THAT(status.error_message(), HasSubstr("5"));
  ASSERT_TRUE(Send(upload.name(), digest, 5, {content.substr(5, 4), content.substr(9)}, &sent).ok());
  EXPECT_TRUE(sent.complete());
  v1::CompleteUploadResponse response;
  ASSERT_TRUE(Complete(upload.name(), &response).ok());
  EXPECT_EQ(response.text().name(), "texts/" + digest);
}

TEST_F(RpcTest, AWrongDigestStartsTheFileAgain) {
  const std::string content = "right";
  const v1::Upload upload = CreateUpload("text.txt", content, v1::UPLOAD_KIND_TEXT);
  v1::UploadFileResponse sent;
  const grpc::Status status = Send(upload.name(), Sha256Hex(content), 0, {"wrong"}, &sent);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(ReasonOf(status), "UPLOAD_DIGEST");
  v1::CompleteUploadResponse response;
  EXPECT_EQ(ReasonOf(Complete(upload.name(), &response)), "UPLOAD_INCOMPLETE");
  EXPECT_TRUE(Send(upload.name(), Sha256Hex(content), 0, {content}, &sent).ok());
}

TEST_F(RpcTest, RefusesBadUploads) {
  v1::UploadFileResponse sent;
  EXPECT_EQ(ReasonOf(Send("uploads/nothing", Sha256Hex("x"), 0, {"x"}, &sent)), "UPLOAD_NOT_FOUND");
  EXPECT_EQ(ReasonOf(Send("nonsense", Sha256Hex("x"), 0, {"x"}, &sent)), "RESOURCE_NAME");
  EXPECT_EQ(ReasonOf(Send("uploads/nothing", Sha256Hex("x"), -1, {"x"}, &sent)), "FIELD_RANGE");
  EXPECT_EQ(ReasonOf(Send("uploads/nothing", Sha256Hex("x"), 0, {}, &sent)), "UPLOAD_EMPTY");
  const std::string big(kMaxAppendBytes + 1, 'x');
  const v1::Upload upload = CreateUpload("text.txt", big, v1::UPLOAD_KIND_TEXT);
  EXPECT_EQ(ReasonOf(Send(upload.name(), Sha256Hex(big), 0, {big}, &sent)), "UPLOAD_CHUNK");

  v1::CreateUploadRequest request;
  v1::Upload response;
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(checkpoints_->CreateUpload(&context, request, &response)), "UPLOAD_KIND");
}

TEST_F(RpcTest, ListsGetsAndDeletesCheckpoints) {
  const std::string name = MakeCheckpoint();
  v1::ListCheckpointsResponse list;
  grpc::ClientContext context;
  ASSERT_TRUE(checkpoints_->ListCheckpoints(&context, {}, &list).ok());
  ASSERT_EQ(list.checkpoints_size(), 1);
  EXPECT_EQ(list.checkpoints(0).name(), name);
  EXPECT_EQ(list.checkpoints(0).architecture(), "llama");
  v1::ListCheckpointsRequest bad;
  bad.set_page_size(-1);
  grpc::ClientContext bad_context;
  EXPECT_EQ(ReasonOf(checkpoints_->ListCheckpoints(&bad_context, bad, &list)), "PAGE_SIZE");
  v1::DeleteCheckpointRequest request;
  request.set_name(name);
  v1::DeleteCheckpointResponse deleted;
  grpc::ClientContext delete_context;
  EXPECT_TRUE(checkpoints_->DeleteCheckpoint(&delete_context, request, &deleted).ok());
  grpc::ClientContext again_context;
  EXPECT_EQ(ReasonOf(checkpoints_->DeleteCheckpoint(&again_context, request, &deleted)), "CHECKPOINT_NOT_FOUND");
}

TEST_F(RpcTest, AJobIsWatchedCancelledAndGivenBack) {
  const std::string checkpoint = MakeCheckpoint();
  v1::CreateQuantizeJobRequest request = JobRequest(checkpoint);
  request.set_validate_only(true);
  v1::Job job;
  grpc::ClientContext dry_context;
  grpc::Status status = jobs_->CreateQuantizeJob(&dry_context, request, &job);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(job.name(), "");
  EXPECT_EQ(job.estimate().artifact_bytes(), 1234);

  request.set_validate_only(false);
  grpc::ClientContext context;
  ASSERT_TRUE(jobs_->CreateQuantizeJob(&context, request, &job).ok());
  EXPECT_EQ(job.checkpoint(), checkpoint);
  EXPECT_EQ(job.spec().bpw(), 4.5);
  EXPECT_TRUE(job.spec().channel_scale());

  grpc::ClientContext watch_context;
  v1::WatchJobRequest watch;
  watch.set_name(job.name());
  const auto reader = jobs_->WatchJob(&watch_context, watch);
  v1::Job seen;
  ASSERT_TRUE(reader->Read(&seen));
  while (seen.state() != v1::JOB_STATE_RUNNING && reader->Read(&seen)) {
  }
  EXPECT_EQ(seen.state(), v1::JOB_STATE_RUNNING);
  v1::CancelJobRequest cancel;
  cancel.set_name(job.name());
  grpc::ClientContext cancel_context;
  ASSERT_TRUE(jobs_->CancelJob(&cancel_context, cancel, &job).ok());
  while (reader->Read(&seen)) {
  }
  EXPECT_EQ(seen.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(RpcTest, WatchingEndsWhenTheServerDrains) {
  v1::Job job;
  grpc::ClientContext context;
  ASSERT_TRUE(jobs_->CreateQuantizeJob(&context, JobRequest(MakeCheckpoint()), &job).ok());
  grpc::ClientContext watch_context;
  v1::WatchJobRequest watch;
  watch.set_name(job.name());
  const auto reader = jobs_->WatchJob(&watch_context, watch);
  v1::Job seen;
  ASSERT_TRUE(reader->Read(&seen));
  std::thread drain([this] { server_->Drain(); });
  while (reader->Read(&seen)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "SHUTTING_DOWN");
  drain.join();
  // The task was given back: a server on the same folder goes on with the job.
  Restart();
  v1::GetJobRequest get;
  get.set_name(job.name());
  grpc::ClientContext get_context;
  ASSERT_TRUE(jobs_->GetJob(&get_context, get, &job).ok());
  EXPECT_THAT(job.state(), testing::AnyOf(v1::JOB_STATE_QUEUED, v1::JOB_STATE_RUNNING));
}

TEST_F(RpcTest, BadJobRequestsNameTheField) {
  v1::Job job;
  v1::CreateQuantizeJobRequest request = JobRequest("checkpoints/" + std::string(64, '0'));
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(jobs_->CreateQuantizeJob(&context, request, &job)), "CHECKPOINT_NOT_FOUND");
  request.set_checkpoint("nonsense");
  grpc::ClientContext name_context;
  EXPECT_EQ(ReasonOf(jobs_->CreateQuantizeJob(&name_context, request, &job)), "RESOURCE_NAME");
  request = JobRequest(MakeCheckpoint());
  request.set_load_as("No Good");
  grpc::ClientContext load_context;
  EXPECT_EQ(ReasonOf(jobs_->CreateQuantizeJob(&load_context, request, &job)), "MODEL_NAME");
  v1::GetJobRequest get;
  get.set_name("jobs/none");
  grpc::ClientContext get_context;
  EXPECT_EQ(ReasonOf(jobs_->GetJob(&get_context, get, &job)), "JOB_NOT_FOUND");
  v1::WatchJobRequest watch;
  watch.set_name("jobs/none");
  grpc::ClientContext watch_context;
  EXPECT_EQ(ReasonOf(jobs_->WatchJob(&watch_context, watch)->Finish()), "JOB_NOT_FOUND");
}

TEST_F(RpcTest, UnknownArtifacts) {
  v1::DownloadFileRequest request;
  request.set_artifact("artifacts/" + std::string(64, '0'));
  request.set_file("config.json");
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(artifacts_->DownloadFile(&context, request)->Finish()), "ARTIFACT_NOT_FOUND");
  v1::GetReportRequest report;
  report.set_artifact(request.artifact());
  v1::Report response;
  grpc::ClientContext report_context;
  EXPECT_EQ(ReasonOf(artifacts_->GetReport(&report_context, report, &response)), "ARTIFACT_NOT_FOUND");
}

TEST_F(RpcTest, HealthKnowsServicesAndModels) {
  grpc::StatusCode code;
  EXPECT_EQ(Health("", &code), kServing);
  EXPECT_EQ(Health("qamserve.v1.InferenceService", &code), kServing);
  Health("servedModels/m", &code);
  EXPECT_EQ(code, grpc::StatusCode::NOT_FOUND);
  v1::ServedModel model;
  ASSERT_TRUE(LoadModel("m", MakeCheckpoint(), &model).ok());
  EXPECT_EQ(Health("servedModels/m", &code), kServing);
  v1::UnloadModelRequest unload;
  unload.set_name("servedModels/m");
  grpc::ClientContext context;
  ASSERT_TRUE(serving_->UnloadModel(&context, unload, &model).ok());
  EXPECT_EQ(model.state(), v1::SERVED_MODEL_STATE_UNLOADED);
  EXPECT_EQ(Health("servedModels/m", &code), kNotServing);
}

// The job has ended, and its server was killed before it heard of that.
TEST_F(RpcTest, AWishToLoadOutlivesTheServer) {
  const std::string checkpoint = *ParseResourceName("checkpoints", MakeCheckpoint());
  server_.reset();
  {
    const auto store = OpenSqliteMetadataStore(dir_ / "data/metadata.sqlite").value();
    ArtifactRecord artifact;
    artifact.digest = std::string(64, 'a');
    artifact.files = store->GetCheckpoint(checkpoint)->files;
    ASSERT_TRUE(store->PutArtifact(artifact).ok());
    JobRecord job;
    job.id = job.key = "j";
    job.state = JobState::kSucceeded;
    job.artifact = artifact.digest;
    job.load_as = LoadWish("m");
    ASSERT_TRUE(store->InsertJob(job, {}).ok());
  }
  Restart();
  const auto is_served = [this] {
    grpc::StatusCode code;
    return Health("servedModels/m", &code) == kServing;
  };
  for (int i = 0; i < 4000 && !is_served(); ++i) absl::SleepFor(absl::Milliseconds(5));
  ASSERT_TRUE(is_served());
  v1::UnloadModelRequest unload;
  unload.set_name("servedModels/m");
  v1::ServedModel model;
  grpc::ClientContext context;
  ASSERT_TRUE(serving_->UnloadModel(&context, unload, &model).ok());
  // Not again.
  Restart();
  server_.reset();
  const auto store = OpenSqliteMetadataStore(dir_ / "data/metadata.sqlite").value();
  EXPECT_TRUE(store->ListServedModels()->empty());
  EXPECT_TRUE(store->ListLoadWishes()->empty());
}

TEST_F(RpcTest, ReflectionListsTheServices) {
  // ServerReflectionRequest{list_services: "*"}, by hand: the server's own copy of that proto cannot be linked twice.
  const std::string wire = "\x3a\x01*";
  grpc::Slice slice(wire);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto stream =
      stub.PrepareCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag = nullptr;
  bool ok = false;
  const auto wait = [&] { return queue.Next(&tag, &ok) && ok; };
  stream->StartCall(nullptr);
  ASSERT_TRUE(wait());
  stream->Write(request, nullptr);
  ASSERT_TRUE(wait());
  grpc::ByteBuffer response;
  stream->Read(&response, nullptr);
  ASSERT_TRUE(wait());
  grpc::Slice bytes;
  ASSERT_TRUE(response.DumpToSingleSlice(&bytes).ok());
  const std::string text(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
  for (const char* service :
       {"CheckpointService", "JobService", "ArtifactService", "ServingService", "InferenceService"}) {
    EXPECT_THAT(text, HasSubstr(std::string("qamserve.v1.") + service));
  }
  stream->WritesDone(nullptr);
  ASSERT_TRUE(wait());
  grpc::Status status;
  stream->Finish(&status, nullptr);
  ASSERT_TRUE(wait());
}

TEST_F(RpcTest, ADirectoryHasOneServer) {
  ServerOptions options = Options();
  EXPECT_EQ(qamserve::ReasonOf(Server::Start(options, Log::Silent()).status()), "DATA_DIR_LOCKED");
  options.data_dir = dir_ / "other";
  options.listen = server_->address();
  const absl::Status taken = Server::Start(options, Log::Silent()).status();
  EXPECT_EQ(qamserve::ReasonOf(taken), "LISTEN") << taken;
  EXPECT_THAT(MessageOf(taken), HasSubstr(options.listen));
}

// Whatever this machine has, it is no 64 GPUs.
TEST_F(RpcTest, ADeviceForModelsMustBeThere) {
  ServerOptions options = Options();
  options.data_dir = dir_ / "other";
  options.device = "cuda:63";
  const absl::Status missing = Server::Start(options, Log::Silent()).status();
  EXPECT_FALSE(missing.ok());
  EXPECT_THAT(MessageOf(missing), HasSubstr("--device"));
  options.roles = {"api", "worker"};
  EXPECT_TRUE(Server::Start(options, Log::Silent()).ok()) << "only inference serves models";
}

TEST_F(RpcTest, ADeviceToQuantizeOnMustBeThere) {
  ServerOptions options = Options();
  options.data_dir = dir_ / "other";
  options.quantize_device = "cuda:63";
  const absl::Status missing = Server::Start(options, Log::Silent()).status();
  EXPECT_FALSE(missing.ok());
  EXPECT_THAT(MessageOf(missing), HasSubstr("--quantize-device"));
  options.roles = {"api", "inference"};
  EXPECT_TRUE(Server::Start(options, Log::Silent()).ok()) << "only workers quantize";
}

}  // namespace
}  // namespace qamserve
