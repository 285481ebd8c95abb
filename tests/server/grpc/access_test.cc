// API keys over a real connection: every method has a scope, and what is refused to whom.
#include <absl/synchronization/notification.h>
#include <gmock/gmock.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/generic/generic_stub.h>

#include "qamserve/v1/access.grpc.pb.h"
#include "qamserve/v1/admin.grpc.pb.h"
#include "qamserve/v1/system.grpc.pb.h"
#include "server/access/method_table.h"
#include "tests/server/grpc/server_fixture.h"
#include "tests/support/raw_http.h"

namespace qamserve {
namespace {

using grpc::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(MethodTableTest, EveryMethodOfTheApiHasAScope) {
  const std::vector<const google::protobuf::FileDescriptor*> files = {
      v1::Checkpoint::descriptor()->file(),  v1::Job::descriptor()->file(),         v1::Artifact::descriptor()->file(),
      v1::ServedModel::descriptor()->file(), v1::ChatMessage::descriptor()->file(), v1::Key::descriptor()->file(),
      v1::System::descriptor()->file(),      v1::Instance::descriptor()->file()};
  size_t methods = 0;
  for (const auto* file : files) {
    ASSERT_GT(file->service_count(), 0) << file->name();
    for (int i = 0; i < file->service_count(); ++i) {
      const auto* service = file->service(i);
      for (int j = 0; j < service->method_count(); ++j) {
        ++methods;
        const MethodRule* rule = FindMethodRule(service->name(), service->method(j)->name());
        ASSERT_NE(rule, nullptr) << service->name() << "." << service->method(j)->name() << " has no scope";
        const bool any = rule->scopes.empty();
        EXPECT_EQ(any, rule->method == "GetCaller") << rule->method << " is open to any key";
        // Reading calls by their names, which the API keeps to.
        const bool reads = rule->method.starts_with("Get") || rule->method.starts_with("List") ||
                           rule->method.starts_with("Query") || rule->method.starts_with("Watch") ||
                           rule->method.starts_with("Download") || rule->method.starts_with("Backup");
        EXPECT_EQ(rule->changes, !reads && !rule->inference) << rule->method;
        EXPECT_EQ(rule->inference, rule->service == "InferenceService") << rule->method;
      }
    }
  }
  EXPECT_EQ(methods, MethodTable().size()) << "the table has methods that the API has not";
}

class AccessTest : public ServerFixture {
 protected:
  ServerOptions Options() const override {
    ServerOptions options = ServerFixture::Options();
    options.admin_key = admin_key_;
    return options;
  }

  static std::unique_ptr<grpc::ClientContext> With(const std::string& secret) {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    if (!secret.empty()) context->AddMetadata("authorization", "Bearer " + secret);
    return context;
  }
  std::unique_ptr<v1::AccessService::Stub> Access() { return v1::AccessService::NewStub(channel_); }

  grpc::Status Create(const std::string& with, const std::vector<v1::Scope>& scopes, const v1::KeyLimits& limits,
                      v1::NewKey* made, int64_t ttl_seconds = 0) {
    v1::CreateKeyRequest request;
    request.set_display_name("test");
    for (const v1::Scope scope : scopes) request.add_scopes(scope);
    *request.mutable_limits() = limits;
    request.set_ttl_seconds(ttl_seconds);
    return Access()->CreateKey(With(with).get(), request, made);
  }
  v1::NewKey Make(const std::string& with, const std::vector<v1::Scope>& scopes, const v1::KeyLimits& limits = {}) {
    v1::NewKey made;
    const grpc::Status status = Create(with, scopes, limits, &made);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return made;
  }
  // Makes the first key.
  std::string MakeAdmin() { return Make("", {v1::SCOPE_ADMIN}).secret(); }

  grpc::Status ListJobs(const std::string& secret) {
    v1::ListJobsResponse response;
    return jobs_->ListJobs(With(secret).get(), v1::ListJobsRequest(), &response);
  }
  v1::Caller GetCaller(const std::string& secret) {
    v1::Caller caller;
    const grpc::Status status = Access()->GetCaller(With(secret).get(), v1::GetCallerRequest(), &caller);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return caller;
  }
  std::vector<v1::AuditEvent> Audit(const std::string& secret) {
    v1::ListAuditEventsResponse response;
    const grpc::Status status = Access()->ListAuditEvents(With(secret).get(), v1::ListAuditEventsRequest(), &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return {response.events().begin(), response.events().end()};
  }
  grpc::Status Generate(const std::string& secret, int max_tokens) {
    v1::GenerateRequest request;
    request.set_model("m");
    request.set_prompt("hello");
    request.mutable_params()->set_max_tokens(max_tokens);
    const auto context = With(secret);
    const auto reader = inference_->Generate(context.get(), request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    return reader->Finish();
  }
  void LoadFakeModel() {
    v1::ServedModel model;
    const grpc::Status status = LoadModel("m", MakeCheckpoint(), &model);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  // Over HTTP, each over a connection of its own.
  RawAnswer Get(const std::string& path, const std::string& secret) const {
    return Exchange("GET " + path + " HTTP/1.1\r\n", secret, "");
  }
  RawAnswer Post(const std::string& path, const std::string& json, const std::string& secret) const {
    return Exchange("POST " + path + " HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: " +
                        std::to_string(json.size()) + "\r\n",
                    secret, json);
  }
  RawAnswer Exchange(const std::string& head, const std::string& secret, const std::string& body) const {
    RawClient client(server_->http_port());
    client.Send(head + "Host: localhost\r\nConnection: close\r\nAuthorization: Bearer " + secret + "\r\n\r\n" + body);
    return client.ReadAnswer();
  }
  // Seconds in google.rpc.RetryInfo; -1 without one.
  static int64_t RetrySeconds(const grpc::Status& status) {
    google::rpc::Status wire;
    if (!wire.ParseFromString(status.error_details())) return -1;
    for (const auto& detail : wire.details()) {
      google::rpc::RetryInfo retry;
      if (detail.UnpackTo(&retry)) return retry.retry_delay().seconds();
    }
    return -1;
  }

  std::string admin_key_;
};

TEST_F(AccessTest, WithoutKeysEveryoneIsAdmittedAndToldSo) {
  EXPECT_TRUE(ListJobs("").ok());
  const v1::Caller caller = GetCaller("");
  EXPECT_FALSE(caller.has_key());
  EXPECT_THAT(caller.scopes(), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(caller.requests_left(), -1);
  v1::NewKey made;
  EXPECT_EQ(ReasonOf(Create("", {v1::SCOPE_INFER}, {}, &made)), "FIRST_KEY_ADMIN");
  v1::System system;
  ASSERT_TRUE(v1::SystemService::NewStub(channel_)->GetSystem(With("").get(), v1::GetSystemRequest(), &system).ok());
  EXPECT_FALSE(system.keys_required());
}

TEST_F(AccessTest, FromTheFirstKeyOnEachCallNeedsOne) {
  const std::string admin = MakeAdmin();
  const grpc::Status missing = ListJobs("");
  EXPECT_EQ(missing.error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ReasonOf(missing), "KEY_MISSING");
  const grpc::Status unknown = ListJobs("qsk-0000000000000000000000000000000000000000000");
  EXPECT_EQ(unknown.error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ReasonOf(unknown), "KEY_UNKNOWN");
  EXPECT_TRUE(ListJobs(admin).ok());

  const v1::NewKey reader = Make(admin, {v1::SCOPE_READ});
  v1::RevokeKeyRequest revoke;
  revoke.set_name(reader.key().name());
  v1::Key revoked;
  ASSERT_TRUE(Access()->RevokeKey(With(admin).get(), revoke, &revoked).ok());
  EXPECT_EQ(revoked.state(), v1::KEY_STATE_REVOKED);
  EXPECT_EQ(ReasonOf(ListJobs(reader.secret())), "KEY_REVOKED");
  revoke.set_name(GetCaller(admin).key().name());
  const grpc::Status last = Access()->RevokeKey(With(admin).get(), revoke, &revoked);
  EXPECT_EQ(last.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonOf(last), "LAST_ADMIN_KEY");
  Restart();
  EXPECT_EQ(ReasonOf(ListJobs("")), "KEY_MISSING");
  EXPECT_TRUE(ListJobs(admin).ok());
}

TEST_F(AccessTest, EveryKindOfCallIsRefusedWithoutAKey) {
  LoadFakeModel();
  MakeAdmin();
  EXPECT_EQ(ReasonOf(Generate("", 3)), "KEY_MISSING");
  v1::UploadFileResponse sent;
  EXPECT_EQ(ReasonOf(Send("uploads/x", Sha256Hex("x"), 0, {"x"}, &sent)), "KEY_MISSING");
  {
    grpc::ClientContext context;
    v1::WatchJobRequest request;
    request.set_name("jobs/x");
    const auto reader = jobs_->WatchJob(&context, request);
    v1::Job job;
    EXPECT_FALSE(reader->Read(&job));
    EXPECT_EQ(ReasonOf(reader->Finish()), "KEY_MISSING");
  }
  {
    grpc::ClientContext context;
    const auto reader = artifacts_->DownloadFile(&context, v1::DownloadFileRequest());
    v1::DownloadFileResponse piece;
    EXPECT_FALSE(reader->Read(&piece));
    EXPECT_EQ(ReasonOf(reader->Finish()), "KEY_MISSING");
  }
  v1::TokenizeResponse tokens;
  EXPECT_EQ(ReasonOf(inference_->Tokenize(With("").get(), v1::TokenizeRequest(), &tokens)), "KEY_MISSING");
  v1::System system;
  EXPECT_EQ(ReasonOf(v1::SystemService::NewStub(channel_)->GetSystem(With("").get(), v1::GetSystemRequest(), &system)),
            "KEY_MISSING");
}

TEST_F(AccessTest, HealthAsksNobody) {
  MakeAdmin();
  grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::Int32Value> stub(channel_);
  google::protobuf::StringValue request;
  google::protobuf::Int32Value response;
  grpc::ClientContext context;
  absl::Notification done;
  grpc::Status answer;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](const grpc::Status& status) {
                   answer = status;
                   done.Notify();
                 });
  done.WaitForNotification();
  EXPECT_TRUE(answer.ok()) << answer.error_message();
}

TEST_F(AccessTest, ScopesAreNamedWhereTheyAreMissing) {
  const std::string admin = MakeAdmin();
  const std::string quantizer = Make(admin, {v1::SCOPE_QUANTIZE}).secret();
  v1::ServedModel model;
  v1::LoadModelRequest load;
  load.set_name("m");
  load.set_source("checkpoints/" + std::string(64, '0'));
  const grpc::Status refused = serving_->LoadModel(With(quantizer).get(), load, &model);
  EXPECT_EQ(refused.error_code(), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(ReasonOf(refused), "KEY_SCOPE");
  EXPECT_THAT(refused.error_message(), HasSubstr("scope admin"));
  EXPECT_TRUE(ListJobs(quantizer).ok());
  // A job that loads a model when it is done would be a way around the scope.
  v1::CreateQuantizeJobRequest job;
  job.set_checkpoint("checkpoints/" + std::string(64, '0'));
  job.set_load_as("m");
  v1::Job made;
  const grpc::Status around = jobs_->CreateQuantizeJob(With(quantizer).get(), job, &made);
  EXPECT_EQ(ReasonOf(around), "KEY_SCOPE");
  EXPECT_THAT(around.error_message(), HasSubstr("load_as"));
  job.clear_load_as();
  EXPECT_EQ(ReasonOf(jobs_->CreateQuantizeJob(With(quantizer).get(), job, &made)), "CHECKPOINT_NOT_FOUND");
}

TEST_F(AccessTest, AJobBelongsToTheKeyThatAsksForItUnlessItNamesAProject) {
  v1::CreateQuantizeJobRequest request;
  request.set_checkpoint(MakeCheckpoint());
  request.set_validate_only(true);
  const v1::NewKey made = Make(MakeAdmin(), {v1::SCOPE_QUANTIZE});
  v1::Job job;
  ASSERT_TRUE(jobs_->CreateQuantizeJob(With(made.secret()).get(), request, &job).ok());
  EXPECT_EQ("keys/" + job.project(), made.key().name());
  EXPECT_EQ(job.pool(), "cpu");
  request.set_project("team-a");
  request.set_pool("cuda");
  ASSERT_TRUE(jobs_->CreateQuantizeJob(With(made.secret()).get(), request, &job).ok());
  EXPECT_EQ(job.project(), "team-a");
  EXPECT_EQ(job.pool(), "cuda");
  request.set_project("Team A");
  EXPECT_EQ(ReasonOf(jobs_->CreateQuantizeJob(With(made.secret()).get(), request, &job)), "PROJECT");
}

TEST_F(AccessTest, KeysAreListedShownRotatedAndDeleted) {
  const std::string admin = MakeAdmin();
  v1::KeyLimits limits;
  limits.set_requests_per_minute(100);
  const v1::NewKey made = Make(admin, {v1::SCOPE_READ, v1::SCOPE_INFER}, limits);
  EXPECT_TRUE(made.secret().starts_with(made.key().hint()));
  v1::GetKeyRequest get;
  get.set_name(made.key().name());
  v1::Key key;
  ASSERT_TRUE(Access()->GetKey(With(admin).get(), get, &key).ok());
  EXPECT_EQ(key.display_name(), "test");
  EXPECT_THAT(key.scopes(), ElementsAre(v1::SCOPE_READ, v1::SCOPE_INFER));
  EXPECT_EQ(key.limits().requests_per_minute(), 100);
  EXPECT_EQ(key.state(), v1::KEY_STATE_VALID);
  EXPECT_FALSE(key.has_last_used_time());
  EXPECT_FALSE(key.has_expire_time());
  EXPECT_GT(key.create_time().seconds(), 0);
  v1::ListKeysResponse list;
  ASSERT_TRUE(Access()->ListKeys(With(admin).get(), v1::ListKeysRequest(), &list).ok());
  ASSERT_EQ(list.keys_size(), 2);
  EXPECT_EQ(list.keys(0).name(), made.key().name()) << "newest first";
  EXPECT_TRUE(list.keys(1).has_last_used_time());
  EXPECT_EQ(list.keys(1).last_used_time().seconds() % 60, 0);

  v1::RotateKeyRequest rotate;
  rotate.set_name(made.key().name());
  rotate.set_grace_seconds(3600);
  v1::NewKey rotated;
  ASSERT_TRUE(Access()->RotateKey(With(admin).get(), rotate, &rotated).ok());
  EXPECT_TRUE(rotated.key().has_previous_secret_expire_time());
  EXPECT_TRUE(ListJobs(made.secret()).ok());
  EXPECT_TRUE(ListJobs(rotated.secret()).ok());
  rotate.set_grace_seconds(0);
  v1::NewKey again;
  ASSERT_TRUE(Access()->RotateKey(With(admin).get(), rotate, &again).ok());
  EXPECT_EQ(ReasonOf(ListJobs(rotated.secret())), "KEY_EXPIRED");
  EXPECT_EQ(ReasonOf(ListJobs(made.secret())), "KEY_UNKNOWN");
  EXPECT_TRUE(ListJobs(again.secret()).ok());

  v1::DeleteKeyRequest remove;
  remove.set_name(made.key().name());
  v1::DeleteKeyResponse removed;
  EXPECT_EQ(ReasonOf(Access()->DeleteKey(With(admin).get(), remove, &removed)), "KEY_VALID");
  remove.set_name("jobs/1");
  EXPECT_EQ(ReasonOf(Access()->DeleteKey(With(admin).get(), remove, &removed)), "RESOURCE_NAME");
  v1::CreateKeyRequest strange;
  strange.set_display_name("x");
  strange.add_scopes(static_cast<v1::Scope>(77));
  EXPECT_EQ(ReasonOf(Access()->CreateKey(With(admin).get(), strange, &again)), "KEY_SCOPES");
}

TEST_F(AccessTest, TheSameRequestIdGetsNoSecretTwice) {
  v1::CreateKeyRequest request;
  request.set_display_name("first");
  request.add_scopes(v1::SCOPE_ADMIN);
  request.set_request_id("once");
  v1::NewKey first;
  ASSERT_TRUE(Access()->CreateKey(With("").get(), request, &first).ok());
  v1::NewKey second;
  ASSERT_TRUE(Access()->CreateKey(With(first.secret()).get(), request, &second).ok());
  EXPECT_EQ(second.key().name(), first.key().name());
  EXPECT_THAT(second.secret(), IsEmpty());
}

TEST_F(AccessTest, LimitsSayWhenToComeAgain) {
  LoadFakeModel();
  const std::string admin = MakeAdmin();
  v1::KeyLimits limits;
  limits.set_requests_per_minute(2);
  const std::string slow = Make(admin, {v1::SCOPE_READ}, limits).secret();
  EXPECT_TRUE(ListJobs(slow).ok());
  EXPECT_TRUE(ListJobs(slow).ok());
  const grpc::Status refused = ListJobs(slow);
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(refused), "KEY_LIMIT");
  EXPECT_GT(RetrySeconds(refused), 1);
  EXPECT_LE(RetrySeconds(refused), 30);
  EXPECT_EQ(GetCaller(slow).requests_left(), 0);

  limits.Clear();
  limits.set_tokens_per_minute(10);
  const std::string talker = Make(admin, {v1::SCOPE_INFER}, limits).secret();
  EXPECT_EQ(GetCaller(talker).tokens_left(), 10);
  EXPECT_TRUE(Generate(talker, 40).ok()) << "what it takes is known at its end";
  EXPECT_EQ(GetCaller(talker).tokens_left(), 0);
  const grpc::Status owed = Generate(talker, 1);
  EXPECT_EQ(ReasonOf(owed), "KEY_LIMIT");
  EXPECT_GT(RetrySeconds(owed), 60) << "more than 40 tokens were taken where 10 a minute fill";

  limits.Clear();
  limits.set_upload_bytes_per_day(4);
  const std::string uploader = Make(admin, {v1::SCOPE_UPLOAD}, limits).secret();
  v1::CreateUploadRequest create;
  create.set_kind(v1::UPLOAD_KIND_TEXT);
  v1::FileInfo* file = create.add_files();
  file->set_name("t.txt");
  file->set_sha256(Sha256Hex("12345678"));
  file->set_size_bytes(8);
  v1::Upload upload;
  ASSERT_TRUE(checkpoints_->CreateUpload(With(uploader).get(), create, &upload).ok());
  const auto send = [&](int64_t offset, const std::string& data) {
    v1::UploadFileResponse sent;
    const auto context = With(uploader);
    const auto writer = checkpoints_->UploadFile(context.get(), &sent);
    v1::UploadFileRequest message;
    message.set_upload(upload.name());
    message.set_sha256(file->sha256());
    message.set_offset(offset);
    message.set_data(data);
    writer->Write(message);
    writer->WritesDone();
    return writer->Finish();
  };
  EXPECT_TRUE(send(0, "1234").ok());
  EXPECT_EQ(GetCaller(uploader).upload_bytes_left(), 0);
  EXPECT_EQ(ReasonOf(send(4, "5678")), "KEY_LIMIT");
  v1::QueryUploadRequest query;
  query.set_name(upload.name());
  ASSERT_TRUE(checkpoints_->QueryUpload(With(uploader).get(), query, &upload).ok());
  EXPECT_EQ(upload.files(0).committed_bytes(), 4) << "what was there stays";
}

TEST_F(AccessTest, TokensThatAreOnlyReadCountToo) {
  LoadFakeModel();
  const std::string admin = MakeAdmin();
  v1::KeyLimits limits;
  limits.set_tokens_per_minute(1);
  const auto make = [&] { return Make(admin, {v1::SCOPE_INFER}, limits).secret(); };
  const std::string scorer = make();
  v1::ScoreRequest score;
  score.set_model("m");
  score.set_text("hello there");
  v1::ScoreResponse scored;
  ASSERT_TRUE(inference_->Score(With(scorer).get(), score, &scored).ok());
  EXPECT_GT(RetrySeconds(Generate(scorer, 1)), 60) << "at one a minute";
  const std::string embedder = make();
  v1::EmbedRequest embed;
  embed.set_model("m");
  embed.add_inputs()->set_text("hello there");
  v1::EmbedResponse embedded;
  ASSERT_TRUE(inference_->Embed(With(embedder).get(), embed, &embedded).ok());
  EXPECT_GT(RetrySeconds(Generate(embedder, 1)), 60);
  const std::string comparer = make();
  v1::CompareRequest compare;
  compare.set_base("m");
  compare.set_other("m");
  compare.set_text("hello there");
  v1::CompareResponse compared;
  ASSERT_TRUE(inference_->Compare(With(comparer).get(), compare, &compared).ok());
  EXPECT_GT(RetrySeconds(Generate(comparer, 1)), 60);
}

TEST_F(AccessTest, ConcurrentRequestsAreCountedWhileTheyRun) {
  LoadFakeModel();
  const std::string admin = MakeAdmin();
  v1::KeyLimits limits;
  limits.set_concurrent_requests(1);
  const std::string talker = Make(admin, {v1::SCOPE_INFER}, limits).secret();
  state_->Set([this] { state_->hold = true; });
  v1::GenerateRequest request;
  request.set_model("m");
  request.set_prompt("hello");
  request.mutable_params()->set_max_tokens(3);
  const auto context = With(talker);
  const auto reader = inference_->Generate(context.get(), request);
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->running == 1; }));
  const grpc::Status second = Generate(talker, 3);
  EXPECT_EQ(ReasonOf(second), "KEY_LIMIT");
  EXPECT_EQ(RetrySeconds(second), 1);
  v1::ListServedModelsResponse models;
  EXPECT_TRUE(serving_->ListServedModels(With(talker).get(), v1::ListServedModelsRequest(), &models).ok());
  state_->Set([this] { state_->hold = false; });
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(Generate(talker, 3).ok()) << "its end gave the place back before the client knew of it";
  EXPECT_TRUE(Generate(talker, 3).ok());
}

TEST_F(AccessTest, TheLogTellsOfChangesAndRefusals) {
  const std::string admin = MakeAdmin();
  const v1::NewKey reader = Make(admin, {v1::SCOPE_READ});
  EXPECT_TRUE(ListJobs(reader.secret()).ok());
  v1::DeleteJobRequest remove;
  remove.set_name("jobs/abc");
  v1::DeleteJobResponse removed;
  EXPECT_EQ(ReasonOf(jobs_->DeleteJob(With(reader.secret()).get(), remove, &removed)), "KEY_SCOPE");
  EXPECT_EQ(ReasonOf(jobs_->DeleteJob(With(admin).get(), remove, &removed)), "JOB_NOT_FOUND");
  EXPECT_EQ(ReasonOf(ListJobs("qsk-nobody")), "KEY_UNKNOWN");
  const std::vector<v1::AuditEvent> events = Audit(admin);
  ASSERT_EQ(events.size(), 5u);
  const std::string admin_name = GetCaller(admin).key().name();
  const auto expect = [&](size_t i, const std::string& key, const char* method, const std::string& resource,
                          const char* code, const char* reason) {
    EXPECT_EQ(events[i].key(), key) << i;
    EXPECT_EQ(events[i].method(), method) << i;
    EXPECT_EQ(events[i].resource(), resource) << i;
    EXPECT_EQ(events[i].code(), code) << i;
    EXPECT_EQ(events[i].reason(), reason) << i;
    EXPECT_TRUE(events[i].peer().starts_with("127.0.0.1:")) << events[i].peer();
    EXPECT_GT(events[i].time().seconds(), 0);
    EXPECT_EQ(events[i].sequence(), static_cast<int64_t>(5 - i));
  };
  expect(0, "", "JobService.ListJobs", "", "UNAUTHENTICATED", "KEY_UNKNOWN");
  expect(1, admin_name, "JobService.DeleteJob", "jobs/abc", "NOT_FOUND", "JOB_NOT_FOUND");
  expect(2, reader.key().name(), "JobService.DeleteJob", "jobs/abc", "PERMISSION_DENIED", "KEY_SCOPE");
  expect(3, admin_name, "AccessService.CreateKey", reader.key().name(), "OK", "");
  expect(4, "", "AccessService.CreateKey", admin_name, "OK", "");
  for (const v1::AuditEvent& event : events) {
    EXPECT_EQ(event.DebugString().find(admin.substr(8)), std::string::npos) << "a secret in the log";
  }
  v1::ListAuditEventsRequest request;
  request.set_key(reader.key().name());
  v1::ListAuditEventsResponse of_reader;
  ASSERT_TRUE(Access()->ListAuditEvents(With(admin).get(), request, &of_reader).ok());
  EXPECT_EQ(of_reader.events_size(), 1);
}

TEST_F(AccessTest, OnlyThisProcessMaySayForWhomItCalls) {
  const std::string admin = MakeAdmin();
  const auto remove = [&](const std::shared_ptr<grpc::Channel>& channel) {
    const auto context = With(admin);
    context->AddMetadata("x-qamserve-peer", "203.0.113.9:1");
    v1::DeleteJobRequest request;
    request.set_name("jobs/abc");
    v1::DeleteJobResponse response;
    EXPECT_EQ(ReasonOf(v1::JobService::NewStub(channel)->DeleteJob(context.get(), request, &response)),
              "JOB_NOT_FOUND");
    return Audit(admin)[0].peer();
  };
  const std::string over_a_socket = remove(channel_);
  EXPECT_TRUE(over_a_socket.starts_with("127.0.0.1:")) << over_a_socket;
  EXPECT_EQ(remove(server_->InProcessChannel()), "203.0.113.9:1");
  // Without a socket, a key is asked for all the same.
  v1::ListJobsResponse jobs;
  EXPECT_EQ(
      ReasonOf(
          v1::JobService::NewStub(server_->InProcessChannel())->ListJobs(With("").get(), v1::ListJobsRequest(), &jobs)),
      "KEY_MISSING");
}

TEST_F(AccessTest, KeysOfHttpRequestsAreCheckedByTheSameCalls) {
  LoadFakeModel();
  const std::string admin = MakeAdmin();
  const std::string reader = Make(admin, {v1::SCOPE_READ}).secret();
  EXPECT_EQ(HttpGet(server_->http_port(), "/v1/models").status, 401);
  EXPECT_EQ(Get("/v1/models", "qsk-nobody").status, 401);
  const auto list = Get("/v1/models", reader);
  EXPECT_EQ(list.status, 200) << list.body;
  EXPECT_THAT(list.body, HasSubstr("\"m\""));
  const auto refused = Post("/v1/completions", R"({"model":"m","prompt":"hello","max_tokens":2})", reader);
  EXPECT_EQ(refused.status, 403) << refused.body;
  const auto answered = Post("/v1/completions", R"({"model":"m","prompt":"hello","max_tokens":2})", admin);
  EXPECT_EQ(answered.status, 200) << answered.body;
  // Who was refused is the HTTP client, not this process.
  const v1::AuditEvent event = Audit(admin)[0];
  EXPECT_EQ(event.method(), "InferenceService.Generate");
  EXPECT_EQ(event.reason(), "KEY_SCOPE");
  EXPECT_TRUE(event.peer().starts_with("127.0.0.1:")) << event.peer();
}

TEST_F(AccessTest, NumbersOnThePortOfEverybodyAreForKeysThatMayRead) {
  const auto scrape = [&](const std::string& secret) { return Get("/metrics", secret); };
  EXPECT_EQ(HttpGet(server_->http_port(), "/metrics").status, 200) << "without keys";
  const std::string admin = MakeAdmin();
  const auto missing = HttpGet(server_->http_port(), "/metrics");
  EXPECT_EQ(missing.status, 401);
  EXPECT_THAT(missing.body, HasSubstr("KEY_MISSING"));
  const auto refused = scrape(Make(admin, {v1::SCOPE_INFER}).secret());
  EXPECT_EQ(refused.status, 403);
  EXPECT_THAT(refused.body, HasSubstr("scope read"));
  v1::KeyLimits limits;
  limits.set_requests_per_minute(1);
  const std::string reader = Make(admin, {v1::SCOPE_READ}, limits).secret();
  EXPECT_EQ(scrape(reader).status, 200);
  EXPECT_EQ(scrape(reader).status, 429);
  EXPECT_EQ(HttpGet(server_->http_port(), "/livez").status, 200) << "probes ask nobody";
}

TEST_F(AccessTest, AnAdminKeyFromOutsideOpensTheDoor) {
  admin_key_ = "the-key-of-the-cluster-0123456789";
  Restart();
  EXPECT_EQ(ReasonOf(ListJobs("")), "KEY_MISSING");
  EXPECT_TRUE(ListJobs(admin_key_).ok());
  EXPECT_EQ(GetCaller(admin_key_).key().name(), "keys/given");
  const std::string talker = Make(admin_key_, {v1::SCOPE_INFER}).secret();
  EXPECT_EQ(ReasonOf(ListJobs(talker)), "KEY_SCOPE");
  v1::System system;
  ASSERT_TRUE(
      v1::SystemService::NewStub(channel_)->GetSystem(With(admin_key_).get(), v1::GetSystemRequest(), &system).ok());
  EXPECT_TRUE(system.keys_required());
  EXPECT_THAT(system.roles(), ElementsAre("api", "worker", "inference"));
  EXPECT_EQ(system.device(), "cpu");
  EXPECT_EQ(system.memory_limit_bytes(), int64_t{64} << 20);
  EXPECT_GT(system.process_memory_bytes(), 1 << 20);
  EXPECT_GT(system.disk_size_bytes(), system.disk_free_bytes());
  EXPECT_EQ(system.threads(), 1);
  EXPECT_FALSE(system.draining());
}

TEST(AccessOptionsTest, ABadAdminKeyKeepsTheServerFromStarting) {
  TempFolder dir;
  ServerOptions options;
  options.data_dir = dir / "data";
  options.listen = "127.0.0.1:0";
  options.metrics_listen = "off";
  options.admin_key = "short";
  EXPECT_EQ(ReasonOf(Server::Start(options, Log::Silent()).status()), "ADMIN_KEY");
  options.admin_key = "";
  options.admin_key_file = dir / "absent";
  const absl::Status absent = Server::Start(options, Log::Silent()).status();
  EXPECT_EQ(ReasonOf(absent), "FILE_NOT_FOUND");
  EXPECT_THAT(MessageOf(absent), HasSubstr("--admin-key-file"));
}

}  // namespace
}  // namespace qamserve
