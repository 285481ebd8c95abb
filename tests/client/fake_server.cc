#include "tests/client/fake_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "core/base/digest.h"
#include "google/rpc/error_details.pb.h"

namespace qamserve {
namespace {

using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;
using Lock = std::lock_guard<std::mutex>;

template <typename Items>
auto* FindByName(Items& items, const std::string& name) {
  for (auto& item : items) {
    if (item.name() == name) return &item;
  }
  return static_cast<decltype(&items[0])>(nullptr);
}

template <typename Items>
bool EraseByName(Items& items, const std::string& name) {
  return std::erase_if(items, [&](const auto& item) { return item.name() == name; }) > 0;
}

Status Missing(const std::string& reason, const std::string& name) {
  return ErrorWithReason(StatusCode::NOT_FOUND, reason, "there is no " + name);
}

class Checkpoints final : public v1::CheckpointService::Service {
 public:
  explicit Checkpoints(FakeState& state) : state_(state) {}

  Status CreateUpload(ServerContext*, const v1::CreateUploadRequest* request, v1::Upload* upload) override {
    Lock lock(state_.mutex);
    state_.upload = *request;
    Describe(*upload);
    return Status::OK;
  }

  Status QueryUpload(ServerContext*, const v1::QueryUploadRequest* request, v1::Upload* upload) override {
    Lock lock(state_.mutex);
    if (request->name() != "uploads/1") return Missing("UPLOAD_NOT_FOUND", request->name());
    Describe(*upload);
    return Status::OK;
  }

  Status UploadFile(ServerContext*, grpc::ServerReader<v1::UploadFileRequest>* reader,
                    v1::UploadFileResponse* response) override {
    v1::UploadFileRequest message;
    std::string sha256;
    while (reader->Read(&message)) {
      Lock lock(state_.mutex);
      if (sha256.empty()) {
        if (state_.busy_uploads-- > 0) {
          return ErrorWithReason(StatusCode::ABORTED, "UPLOAD_BUSY", "written by another call");
        }
        sha256 = message.sha256();
        state_.offsets.push_back(message.offset());
        if (message.offset() != static_cast<int64_t>(state_.received[sha256].size())) {
          return ErrorWithReason(StatusCode::OUT_OF_RANGE, "UPLOAD_OFFSET", "offset is not the committed size");
        }
      }
      state_.received[sha256] += message.data();
      state_.upload_bytes += static_cast<int64_t>(message.data().size());
      if (state_.drop_upload_after >= 0 && state_.upload_bytes >= state_.drop_upload_after) {
        state_.drop_upload_after = -1;
        return Status(StatusCode::UNAVAILABLE, "dropped half-way");
      }
    }
    Lock lock(state_.mutex);
    if (state_.corrupt_upload || Sha256Hex(state_.received[sha256]) != sha256) {
      state_.received[sha256].clear();
      return ErrorWithReason(StatusCode::DATA_LOSS, "UPLOAD_DIGEST", "the digest of the bytes is another");
    }
    response->set_committed_bytes(static_cast<int64_t>(state_.received[sha256].size()));
    response->set_complete(true);
    return Status::OK;
  }

  Status CompleteUpload(ServerContext*, const v1::CompleteUploadRequest*,
                        v1::CompleteUploadResponse* response) override {
    Lock lock(state_.mutex);
    if (state_.upload.kind() == v1::UPLOAD_KIND_TEXT) {
      const v1::FileInfo& file = state_.upload.files(0);
      response->mutable_text()->set_name("texts/" + file.sha256());
      response->mutable_text()->set_display_name(state_.upload.display_name());
      response->mutable_text()->set_size_bytes(file.size_bytes());
      return Status::OK;
    }
    v1::Checkpoint& checkpoint = *response->mutable_checkpoint();
    checkpoint.set_digest(Sha256Hex(state_.upload.files(0).sha256()));
    checkpoint.set_name("checkpoints/" + checkpoint.digest());
    checkpoint.set_display_name(state_.upload.display_name());
    *checkpoint.mutable_files() = state_.upload.files();
    state_.checkpoints.push_back(checkpoint);
    return Status::OK;
  }

  Status ImportCheckpoint(ServerContext*, const v1::ImportCheckpointRequest* request,
                          v1::CompleteUploadResponse* response) override {
    Lock lock(state_.mutex);
    state_.import = *request;
    response->mutable_checkpoint()->set_name("checkpoints/" + Sha256Hex(request->path()));
    return Status::OK;
  }

  Status GetCheckpoint(ServerContext*, const v1::GetCheckpointRequest* request, v1::Checkpoint* response) override {
    Lock lock(state_.mutex);
    const v1::Checkpoint* found = FindByName(state_.checkpoints, request->name());
    if (found == nullptr) return Missing("CHECKPOINT_NOT_FOUND", request->name());
    *response = *found;
    return Status::OK;
  }

  // One a page, so that the client must follow tokens.
  Status ListCheckpoints(ServerContext*, const v1::ListCheckpointsRequest* request,
                         v1::ListCheckpointsResponse* response) override {
    Lock lock(state_.mutex);
    const size_t index = request->page_token().empty() ? 0 : std::stoul(request->page_token());
    if (index < state_.checkpoints.size()) *response->add_checkpoints() = state_.checkpoints[index];
    if (index + 1 < state_.checkpoints.size()) response->set_next_page_token(std::to_string(index + 1));
    return Status::OK;
  }

  Status DeleteCheckpoint(ServerContext*, const v1::DeleteCheckpointRequest* request,
                          v1::DeleteCheckpointResponse*) override {
    Lock lock(state_.mutex);
    return EraseByName(state_.checkpoints, request->name()) ? Status::OK
                                                            : Missing("CHECKPOINT_NOT_FOUND", request->name());
  }

 private:
  void Describe(v1::Upload& upload) {
    upload.set_name("uploads/1");
    upload.set_kind(state_.upload.kind());
    for (const auto& file : state_.upload.files()) {
      v1::UploadFileState& described = *upload.add_files();
      *described.mutable_file() = file;
      described.set_committed_bytes(static_cast<int64_t>(state_.received[file.sha256()].size()));
      described.set_complete(described.committed_bytes() == file.size_bytes());
    }
  }

  FakeState& state_;
};

class Jobs final : public v1::JobService::Service {
 public:
  explicit Jobs(FakeState& state) : state_(state) {}

  Status CreateQuantizeJob(ServerContext*, const v1::CreateQuantizeJobRequest* request, v1::Job* job) override {
    Lock lock(state_.mutex);
    state_.quantize = *request;
    job->set_name("jobs/1");
    job->set_kind("quantize");
    job->set_state(v1::JOB_STATE_QUEUED);
    job->mutable_estimate()->set_artifact_bytes(1234567);
    job->mutable_estimate()->set_tensors(210);
    return Status::OK;
  }

  Status CreateStudyJob(ServerContext*, const v1::CreateStudyJobRequest* request, v1::Job* job) override {
    Lock lock(state_.mutex);
    state_.study = *request;
    job->set_name("jobs/1");
    job->set_kind("study");
    job->set_state(v1::JOB_STATE_QUEUED);
    return Status::OK;
  }

  Status GetStudy(ServerContext*, const v1::GetStudyRequest* request, v1::StudyTable* table) override {
    Lock lock(state_.mutex);
    state_.study_table = *request;
    table->set_content(request->format() == v1::STUDY_FORMAT_CSV ? "model,kl\n" : "{}\n");
    return Status::OK;
  }

  Status CreateEvaluateJob(ServerContext*, const v1::CreateEvaluateJobRequest* request, v1::Job* job) override {
    Lock lock(state_.mutex);
    state_.evaluate = *request;
    job->set_name("jobs/1");
    job->set_kind("evaluate");
    job->set_state(v1::JOB_STATE_QUEUED);
    return Status::OK;
  }

  Status GetJob(ServerContext*, const v1::GetJobRequest* request, v1::Job* job) override {
    return Find(request->name(), job);
  }

  Status ListJobs(ServerContext*, const v1::ListJobsRequest* request, v1::ListJobsResponse* response) override {
    Lock lock(state_.mutex);
    for (const v1::Job& job : state_.jobs) {
      if (request->state() == v1::JOB_STATE_UNSPECIFIED || request->state() == job.state()) {
        *response->add_jobs() = job;
      }
    }
    return Status::OK;
  }

  Status WatchJob(ServerContext* context, const v1::WatchJobRequest*, grpc::ServerWriter<v1::Job>* writer) override {
    std::vector<v1::Job> messages;
    bool hangs = false;
    int drop_after = -1;
    {
      Lock lock(state_.mutex);
      messages = state_.watch;
      hangs = state_.watch_hangs;
      std::swap(drop_after, state_.drop_watch_after);
    }
    for (const v1::Job& job : messages) {
      if (drop_after-- == 0) return Status(StatusCode::UNAVAILABLE, "dropped");
      writer->Write(job);
    }
    while (hangs && !context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return Status::OK;
  }

  Status CancelJob(ServerContext*, const v1::CancelJobRequest* request, v1::Job* job) override {
    const Status status = Find(request->name(), job);
    if (status.ok()) job->set_state(v1::JOB_STATE_CANCELLED);
    return status;
  }

  Status RetryJob(ServerContext*, const v1::RetryJobRequest* request, v1::Job* job) override {
    const Status status = Find(request->name(), job);
    if (status.ok()) job->set_state(v1::JOB_STATE_QUEUED);
    return status;
  }

  Status DeleteJob(ServerContext*, const v1::DeleteJobRequest* request, v1::DeleteJobResponse*) override {
    Lock lock(state_.mutex);
    return EraseByName(state_.jobs, request->name()) ? Status::OK : Missing("JOB_NOT_FOUND", request->name());
  }

 private:
  Status Find(const std::string& name, v1::Job* job) {
    Lock lock(state_.mutex);
    const v1::Job* found = FindByName(state_.jobs, name);
    if (found == nullptr) return Missing("JOB_NOT_FOUND", name);
    *job = *found;
    return Status::OK;
  }

  FakeState& state_;
};

class Artifacts final : public v1::ArtifactService::Service {
 public:
  explicit Artifacts(FakeState& state) : state_(state) {}

  Status GetArtifact(ServerContext*, const v1::GetArtifactRequest* request, v1::Artifact* response) override {
    Lock lock(state_.mutex);
    const v1::Artifact* found = FindByName(state_.artifacts, request->name());
    if (found == nullptr) return Missing("ARTIFACT_NOT_FOUND", request->name());
    *response = *found;
    return Status::OK;
  }

  Status ListArtifacts(ServerContext*, const v1::ListArtifactsRequest*, v1::ListArtifactsResponse* response) override {
    Lock lock(state_.mutex);
    *response->mutable_artifacts() = {state_.artifacts.begin(), state_.artifacts.end()};
    return Status::OK;
  }

  Status DownloadFile(ServerContext*, const v1::DownloadFileRequest* request,
                      grpc::ServerWriter<v1::DownloadFileResponse>* writer) override {
    Lock lock(state_.mutex);
    state_.download_offsets.push_back(request->offset());
    const std::string& content = state_.files[request->file()];
    constexpr size_t kChunk = 1000;
    int64_t sent = 0;
    for (auto offset = static_cast<size_t>(request->offset()); offset < content.size(); offset += kChunk) {
      v1::DownloadFileResponse response;
      response.set_data(content.substr(offset, kChunk));
      response.set_size_bytes(static_cast<int64_t>(content.size()));
      writer->Write(response);
      sent += static_cast<int64_t>(response.data().size());
      if (state_.drop_download_after >= 0 && sent >= state_.drop_download_after) {
        state_.drop_download_after = -1;
        return Status(StatusCode::UNAVAILABLE, "dropped half-way");
      }
    }
    return Status::OK;
  }

  Status GetReport(ServerContext*, const v1::GetReportRequest*, v1::Report* report) override {
    Lock lock(state_.mutex);
    *report = state_.report;
    return Status::OK;
  }

  Status DeleteArtifact(ServerContext*, const v1::DeleteArtifactRequest* request,
                        v1::DeleteArtifactResponse*) override {
    Lock lock(state_.mutex);
    return EraseByName(state_.artifacts, request->name()) ? Status::OK : Missing("ARTIFACT_NOT_FOUND", request->name());
  }

 private:
  FakeState& state_;
};

class Serving final : public v1::ServingService::Service {
 public:
  explicit Serving(FakeState& state) : state_(state) {}

  Status LoadModel(ServerContext*, const v1::LoadModelRequest* request, v1::ServedModel* model) override {
    Lock lock(state_.mutex);
    state_.load = *request;
    model->set_name("servedModels/" + request->name());
    model->set_source(request->source());
    model->set_state(v1::SERVED_MODEL_STATE_READY);
    model->set_chat(true);
    model->set_replicas(std::max(request->replicas(), 1));
    model->set_ready_replicas(1);
    return Status::OK;
  }

  Status UnloadModel(ServerContext*, const v1::UnloadModelRequest* request, v1::ServedModel* model) override {
    Lock lock(state_.mutex);
    state_.unload = *request;
    model->set_name(request->name());
    model->set_state(v1::SERVED_MODEL_STATE_UNLOADED);
    return Status::OK;
  }

  Status ListServedModels(ServerContext*, const v1::ListServedModelsRequest*,
                          v1::ListServedModelsResponse* response) override {
    Lock lock(state_.mutex);
    *response->mutable_models() = {state_.models.begin(), state_.models.end()};
    return Status::OK;
  }

  Status UpdateAlias(ServerContext*, const v1::UpdateAliasRequest* request, v1::Alias* alias) override {
    Lock lock(state_.mutex);
    state_.update_alias = *request;
    alias->set_name(request->name());
    *alias->mutable_targets() = request->targets();
    for (v1::AliasTarget& target : *alias->mutable_targets()) target.set_model("servedModels/" + target.model());
    if (request->validate_only()) return Status::OK;
    alias->set_etag("e1");
    EraseByName(state_.aliases, alias->name());
    state_.aliases.push_back(*alias);
    return Status::OK;
  }

  Status GetAlias(ServerContext*, const v1::GetAliasRequest* request, v1::Alias* response) override {
    Lock lock(state_.mutex);
    const v1::Alias* found = FindByName(state_.aliases, request->name());
    if (found == nullptr) return Missing("ALIAS_NOT_FOUND", request->name());
    *response = *found;
    return Status::OK;
  }

  // One a page, so that the client must follow tokens.
  Status ListAliases(ServerContext*, const v1::ListAliasesRequest* request,
                     v1::ListAliasesResponse* response) override {
    Lock lock(state_.mutex);
    const size_t index = request->page_token().empty() ? 0 : std::stoul(request->page_token());
    if (index < state_.aliases.size()) *response->add_aliases() = state_.aliases[index];
    if (index + 1 < state_.aliases.size()) response->set_next_page_token(std::to_string(index + 1));
    return Status::OK;
  }

  Status DeleteAlias(ServerContext*, const v1::DeleteAliasRequest* request, v1::DeleteAliasResponse*) override {
    Lock lock(state_.mutex);
    return EraseByName(state_.aliases, request->name()) ? Status::OK : Missing("ALIAS_NOT_FOUND", request->name());
  }

 private:
  FakeState& state_;
};

class Inference final : public v1::InferenceService::Service {
 public:
  explicit Inference(FakeState& state) : state_(state) {}

  Status Generate(ServerContext*, const v1::GenerateRequest* request,
                  grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    Lock lock(state_.mutex);
    state_.generate = *request;
    if (request->model() == "absent") return Missing("MODEL_NOT_FOUND", request->model());
    return Answer(writer);
  }

  Status Chat(ServerContext*, const v1::ChatRequest* request,
              grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    Lock lock(state_.mutex);
    state_.chats.push_back(*request);
    return Answer(writer);
  }

  Status Score(ServerContext*, const v1::ScoreRequest* request, v1::ScoreResponse* response) override {
    Lock lock(state_.mutex);
    state_.score = *request;
    for (const int token : {1, 2, 3}) response->add_tokens(token);
    for (const double logprob : {-1.0, -2.0}) {
      response->add_logprobs(logprob);
      if (request->top() == 0) continue;
      v1::TokenLogprob* token = response->add_details();
      for (int i = 0; i < request->top(); ++i) {
        v1::TokenLogprob* best = token->add_top();
        best->set_text(i == 0 ? "the\n" : "a");
        best->set_logprob(-0.5 - i);
      }
    }
    return Status::OK;
  }

  // Along an axis of its own for each input, of length 2.
  Status Embed(ServerContext*, const v1::EmbedRequest* request, v1::EmbedResponse* response) override {
    Lock lock(state_.mutex);
    state_.embed = *request;
    for (int i = 0; i < request->inputs_size(); ++i) {
      v1::Embedding* embedding = response->add_embeddings();
      embedding->set_tokens(7);
      for (int k = 0; k < 6; ++k) embedding->add_values(k == i ? 2.0f : 0.0f);
    }
    return Status::OK;
  }

  Status Compare(ServerContext*, const v1::CompareRequest* request, v1::CompareResponse* response) override {
    Lock lock(state_.mutex);
    state_.compare = *request;
    for (const bool same : {true, false}) {
      v1::TokenComparison* token = response->add_tokens();
      token->set_token(same ? 5 : 6);
      token->set_text(same ? "x\n" : "y");
      token->set_kl(0.25);
      token->set_base_logprob(-1);
      token->set_other_logprob(-2);
      token->set_same_top(same);
      token->set_other_top_text("z");
    }
    response->set_kl_mean(0.25);
    response->set_top1_agreement(0.5);
    return Status::OK;
  }

  Status Tokenize(ServerContext*, const v1::TokenizeRequest* request, v1::TokenizeResponse* response) override {
    for (const char c : request->text()) response->add_tokens(static_cast<unsigned char>(c));
    return Status::OK;
  }

  Status Detokenize(ServerContext*, const v1::DetokenizeRequest* request, v1::DetokenizeResponse* response) override {
    for (const int token : request->tokens()) response->mutable_text()->push_back(static_cast<char>(token));
    return Status::OK;
  }

 private:
  Status Answer(grpc::ServerWriter<v1::GenerateResponse>* writer) {
    for (const std::string& text : state_.answer) {
      v1::GenerateResponse response;
      response.set_text(text);
      writer->Write(response);
    }
    v1::GenerateResponse last;
    last.set_model("servedModels/answerer");
    last.set_finish_reason(v1::FINISH_REASON_STOP);
    last.mutable_usage()->set_completion_tokens(static_cast<int>(state_.answer.size()));
    last.mutable_usage()->set_seed(7);
    writer->Write(last);
    return Status::OK;
  }

  FakeState& state_;
};

class Admin final : public v1::AdminService::Service {
 public:
  explicit Admin(FakeState& state) : state_(state) {}

  Status ListInstances(ServerContext*, const v1::ListInstancesRequest*, v1::ListInstancesResponse* response) override {
    Lock lock(state_.mutex);
    for (const v1::Instance& instance : state_.instances) *response->add_instances() = instance;
    return Status::OK;
  }

 private:
  FakeState& state_;
};

}  // namespace

grpc::Status ErrorWithReason(StatusCode code, const std::string& reason, const std::string& message) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("qamserve");
  google::rpc::Status details;
  details.set_code(code);
  details.set_message(message);
  details.add_details()->PackFrom(info);
  return Status(code, message, details.SerializeAsString());
}

struct FakeServer::Services {
  Services(FakeState& state, FakeAccessState& access_state)
      : checkpoints(state),
        jobs(state),
        artifacts(state),
        serving(state),
        inference(state),
        admin(state),
        access(access_state) {}
  Checkpoints checkpoints;
  Jobs jobs;
  Artifacts artifacts;
  Serving serving;
  Inference inference;
  Admin admin;
  FakeAccess access;
  FakeSystem system;
};

FakeServer::FakeServer() : services_(std::make_unique<Services>(state_, access_)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(&services_->checkpoints);
  builder.RegisterService(&services_->jobs);
  builder.RegisterService(&services_->artifacts);
  builder.RegisterService(&services_->serving);
  builder.RegisterService(&services_->inference);
  builder.RegisterService(&services_->admin);
  builder.RegisterService(&services_->access);
  builder.RegisterService(&services_->system);
  server_ = builder.BuildAndStart();
}

FakeServer::~FakeServer() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

std::string FakeServer::address() const { return "127.0.0.1:" + std::to_string(port_); }

}  // namespace qamserve
