#include "tests/server/http/fake_services.h"

#include <google/protobuf/text_format.h>

#include <algorithm>
#include <utility>

#include "core/base/digest.h"
#include "server/grpc/in_process_channel.h"
#include "server/grpc/status_conversion.h"

namespace qamserve {

constexpr absl::Duration kPatience = absl::Seconds(30);

struct FakeBackend::State {
  mutable absl::Mutex mutex;
  std::string request ABSL_GUARDED_BY(mutex);
  std::multimap<std::string, std::string> metadata ABSL_GUARDED_BY(mutex);

  std::deque<std::string> jobs ABSL_GUARDED_BY(mutex);
  std::optional<grpc::Status> end ABSL_GUARDED_BY(mutex);
  std::function<void()> wake ABSL_GUARDED_BY(mutex);  // of the stream that waits
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
  int sent ABSL_GUARDED_BY(mutex) = 0;

  std::string uploaded ABSL_GUARDED_BY(mutex);
  size_t largest ABSL_GUARDED_BY(mutex) = 0;
  size_t pieces ABSL_GUARDED_BY(mutex) = 0;
  bool hold ABSL_GUARDED_BY(mutex) = false;
  std::function<void()> go_on ABSL_GUARDED_BY(mutex);  // of the upload that is held
  std::optional<std::pair<size_t, grpc::Status>> fail ABSL_GUARDED_BY(mutex);
};

namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* call, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// A call that ends only when it is cancelled.
class StuckReactor final : public grpc::ServerUnaryReactor {
 public:
  explicit StuckReactor(FakeBackend& backend) : backend_(backend) {}
  void OnCancel() override {
    {
      absl::MutexLock lock(&backend_.state().mutex);
      backend_.state().cancelled = true;
    }
    Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 private:
  FakeBackend& backend_;
};

class WatchReactor final : public grpc::ServerWriteReactor<v1::Job> {
 public:
  explicit WatchReactor(FakeBackend& backend) : backend_(backend) { Next(); }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&backend_.state().mutex);
      if (ok) ++backend_.state().sent;
    }
    Next();
  }
  void OnCancel() override {
    std::function<void()> wake;
    {
      absl::MutexLock lock(&backend_.state().mutex);
      backend_.state().cancelled = true;
      wake = std::exchange(backend_.state().wake, nullptr);
    }
    if (wake) wake();
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    FakeBackend::State& state = backend_.state();
    grpc::Status end;
    {
      absl::MutexLock lock(&state.mutex);
      if (state.cancelled) {
        end = grpc::Status::CANCELLED;
      } else if (!state.jobs.empty()) {
        job_.set_display_name(state.jobs.front());
        state.jobs.pop_front();
        StartWrite(&job_);
        return;
      } else if (state.end) {
        end = *state.end;
      } else {
        state.wake = [this] { Next(); };
        return;
      }
    }
    Finish(end);
  }

  FakeBackend& backend_;
  v1::Job job_;
};

class FakeJobs final : public v1::JobService::CallbackService {
 public:
  explicit FakeJobs(FakeBackend& backend) : backend_(backend) {}

  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* call, const v1::GetJobRequest* request,
                                   v1::Job* job) override {
    backend_.Record(*call, *request);
    if (request->name() == "jobs/none")
      return Answer(call, NotFound("JOB_NOT_FOUND", "there is no job {}", request->name()));
    if (request->name() == "jobs/busy") return Answer(call, ResourceExhausted("QUEUE_FULL", "256 requests wait"));
    if (request->name() == "jobs/plain") {
      grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
      reactor->Finish({grpc::StatusCode::FAILED_PRECONDITION, "no details"});
      return reactor;
    }
    if (request->name() == "jobs/stuck") return new StuckReactor(backend_);
    job->set_name(request->name());
    job->set_etag("7");
    return Answer(call, absl::OkStatus());
  }
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* call, const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override {
    backend_.Record(*call, *request);
    if (request->page_size() < 0)
      return Answer(call, InvalidArgument("PAGE_SIZE", "page_size is {}", request->page_size()));
    for (int i = 0; i < request->page_size(); ++i) response->add_jobs()->set_display_name(std::string(1000, 'x'));
    return Answer(call, absl::OkStatus());
  }
  grpc::ServerUnaryReactor* CreateQuantizeJob(grpc::CallbackServerContext* call,
                                              const v1::CreateQuantizeJobRequest* request, v1::Job* job) override {
    backend_.Record(*call, *request);
    job->set_checkpoint(request->checkpoint());
    return Answer(call, absl::OkStatus());
  }
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* call, const v1::CancelJobRequest* request,
                                      v1::Job* job) override {
    backend_.Record(*call, *request);
    job->set_name(request->name());
    return Answer(call, absl::OkStatus());
  }
  grpc::ServerUnaryReactor* DeleteJob(grpc::CallbackServerContext* call, const v1::DeleteJobRequest* request,
                                      v1::DeleteJobResponse*) override {
    backend_.Record(*call, *request);
    return Answer(call, absl::OkStatus());
  }
  grpc::ServerWriteReactor<v1::Job>* WatchJob(grpc::CallbackServerContext* call,
                                              const v1::WatchJobRequest* request) override {
    backend_.Record(*call, *request);
    return new WatchReactor(backend_);
  }

 private:
  FakeBackend& backend_;
};

class UploadReactor final : public grpc::ServerReadReactor<v1::UploadFileRequest> {
 public:
  UploadReactor(FakeBackend& backend, grpc::CallbackServerContext* call, v1::UploadFileResponse* response)
      : backend_(backend), call_(call), response_(response) {
    StartRead(&message_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(call_->IsCancelled() ? grpc::Status::CANCELLED : grpc::Status::OK);
    if (!std::exchange(recorded_, true)) backend_.Record(*call_, WithoutData());
    {
      FakeBackend::State& state = backend_.state();
      absl::MutexLock lock(&state.mutex);
      if (state.hold) {
        state.go_on = [this] { Take(); };
        return;
      }
    }
    Take();
  }
  void OnCancel() override {
    absl::MutexLock lock(&backend_.state().mutex);
    backend_.state().cancelled = true;
  }
  void OnDone() override { delete this; }

 private:
  v1::UploadFileRequest WithoutData() const {
    v1::UploadFileRequest header = message_;
    header.clear_data();
    return header;
  }

  void Take() {
    std::optional<grpc::Status> failed;
    {
      FakeBackend::State& state = backend_.state();
      absl::MutexLock lock(&state.mutex);
      state.uploaded += message_.data();
      state.largest = std::max(state.largest, message_.data().size());
      ++state.pieces;
      response_->set_committed_bytes(static_cast<int64_t>(state.uploaded.size()));
      if (state.fail && state.uploaded.size() >= state.fail->first) failed = state.fail->second;
    }
    if (failed) return Finish(*failed);
    StartRead(&message_);
  }

  FakeBackend& backend_;
  grpc::CallbackServerContext* const call_;
  v1::UploadFileResponse* const response_;
  v1::UploadFileRequest message_;
  bool recorded_ = false;
};

class FakeCheckpoints final : public v1::CheckpointService::CallbackService {
 public:
  explicit FakeCheckpoints(FakeBackend& backend) : backend_(backend) {}
  grpc::ServerReadReactor<v1::UploadFileRequest>* UploadFile(grpc::CallbackServerContext* call,
                                                             v1::UploadFileResponse* response) override {
    return new UploadReactor(backend_, call, response);
  }

 private:
  FakeBackend& backend_;
};

// The file in pieces of 1000 bytes.
class DownloadReactor final : public grpc::ServerWriteReactor<v1::DownloadFileResponse> {
 public:
  DownloadReactor(const FakeBackend& backend, const v1::DownloadFileRequest& request)
      : backend_(backend), at_(static_cast<size_t>(request.offset())) {
    end_ = request.limit() == 0 ? backend.file.size() : at_ + static_cast<size_t>(request.limit());
    if (backend.lie_about_size) end_ -= 1;
    Next();
  }
  void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (at_ == end_) return Finish(grpc::Status::OK);
    const size_t bytes = std::min<size_t>(1000, end_ - at_);
    message_.set_data(backend_.file.substr(at_, bytes));
    at_ += bytes;
    StartWrite(&message_);
  }

  const FakeBackend& backend_;
  size_t at_;
  size_t end_;
  v1::DownloadFileResponse message_;
};

class FakeArtifacts final : public v1::ArtifactService::CallbackService {
 public:
  explicit FakeArtifacts(FakeBackend& backend) : backend_(backend) {}

  grpc::ServerUnaryReactor* GetArtifact(grpc::CallbackServerContext* call, const v1::GetArtifactRequest* request,
                                        v1::Artifact* artifact) override {
    if (request->name() != "artifacts/a") {
      return Answer(call, NotFound("ARTIFACT_NOT_FOUND", "there is no artifact {}", request->name()));
    }
    artifact->set_name(request->name());
    for (const char* name : {"model.bin", "report.html", "config.json"}) {
      v1::FileInfo* file = artifact->add_files();
      file->set_name(name);
      file->set_sha256(Sha256Hex(backend_.file));
      file->set_size_bytes(static_cast<int64_t>(backend_.file.size()));
    }
    return Answer(call, absl::OkStatus());
  }
  grpc::ServerWriteReactor<v1::DownloadFileResponse>* DownloadFile(grpc::CallbackServerContext* call,
                                                                   const v1::DownloadFileRequest* request) override {
    backend_.Record(*call, *request);
    return new DownloadReactor(backend_, *request);
  }

 private:
  FakeBackend& backend_;
};

class FakeServing final : public v1::ServingService::CallbackService {
 public:
  explicit FakeServing(FakeBackend& backend) : backend_(backend) {}
  grpc::ServerUnaryReactor* GetAlias(grpc::CallbackServerContext* call, const v1::GetAliasRequest* request,
                                     v1::Alias* alias) override {
    backend_.Record(*call, *request);
    alias->set_name(request->name());
    alias->set_etag("3f");
    return Answer(call, absl::OkStatus());
  }
  grpc::ServerUnaryReactor* UpdateAlias(grpc::CallbackServerContext* call, const v1::UpdateAliasRequest* request,
                                        v1::Alias* alias) override {
    backend_.Record(*call, *request);
    alias->set_name(request->name());
    return Answer(call, absl::OkStatus());
  }

 private:
  FakeBackend& backend_;
};

}  // namespace

FakeBackend::FakeBackend() : state_(std::make_unique<State>()) {}
FakeBackend::~FakeBackend() = default;

void FakeBackend::Record(const grpc::CallbackServerContext& call, const google::protobuf::Message& request) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  std::string text;
  printer.PrintToString(request, &text);
  absl::MutexLock lock(&state_->mutex);
  state_->request = text.substr(0, text.find_last_not_of(' ') + 1);
  state_->metadata.clear();
  state_->metadata.emplace("peer", call.peer());
  for (const auto& [key, value] : call.client_metadata()) {
    state_->metadata.emplace(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
  }
}

std::string FakeBackend::last_request() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->request;
}

std::string FakeBackend::last_metadata(const std::string& key) const {
  absl::MutexLock lock(&state_->mutex);
  const auto it = state_->metadata.find(key);
  return it == state_->metadata.end() ? "" : it->second;
}

void FakeBackend::Push(const std::string& display_name) {
  std::function<void()> wake;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->jobs.push_back(display_name);
    wake = std::exchange(state_->wake, nullptr);
  }
  if (wake) wake();
}

void FakeBackend::EndWatch(const grpc::Status& status) {
  std::function<void()> wake;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->end = status;
    wake = std::exchange(state_->wake, nullptr);
  }
  if (wake) wake();
}

bool FakeBackend::WaitForCancelled() {
  absl::MutexLock lock(&state_->mutex);
  return state_->mutex.AwaitWithTimeout(absl::Condition(&state_->cancelled), kPatience);
}

int FakeBackend::sent() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->sent;
}

void FakeBackend::HoldUploads(bool hold) {
  std::function<void()> go_on;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->hold = hold;
    if (!hold) go_on = std::exchange(state_->go_on, nullptr);
  }
  if (go_on) go_on();
}

std::string FakeBackend::uploaded() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->uploaded;
}

size_t FakeBackend::largest_piece() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->largest;
}

size_t FakeBackend::pieces() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->pieces;
}

bool FakeBackend::WaitForUploaded(size_t bytes) {
  absl::MutexLock lock(&state_->mutex);
  const auto there = [this, bytes]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return state_->uploaded.size() >= bytes; };
  return state_->mutex.AwaitWithTimeout(absl::Condition(&there), kPatience);
}

void FakeBackend::FailUploadAfter(size_t bytes, const grpc::Status& status) {
  absl::MutexLock lock(&state_->mutex);
  state_->fail = {bytes, status};
}

FakeServer::FakeServer() {
  services_.push_back(std::make_unique<FakeJobs>(backend_));
  services_.push_back(std::make_unique<FakeCheckpoints>(backend_));
  services_.push_back(std::make_unique<FakeArtifacts>(backend_));
  services_.push_back(std::make_unique<FakeServing>(backend_));
  grpc::ServerBuilder builder;
  for (const auto& service : services_) builder.RegisterService(service.get());
  server_ = builder.BuildAndStart();
}

FakeServer::~FakeServer() {
  Shutdown();
  ReleaseInProcess(std::move(channels_));
}

std::shared_ptr<grpc::Channel> FakeServer::channel() {
  channels_.push_back(*ConnectInProcess(*server_));
  return channels_.back();
}

std::vector<std::string> FakeServer::services() {
  return {v1::JobService::service_full_name(), v1::CheckpointService::service_full_name(),
          v1::ArtifactService::service_full_name(), v1::ServingService::service_full_name()};
}

void FakeServer::Shutdown() {
  // What waits for the test would wait for ever.
  backend_.HoldUploads(false);
  backend_.EndWatch(grpc::Status::CANCELLED);
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
}

}  // namespace qamserve
