#include "server/grpc/open_inference_calls.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <string>
#include <string_view>
#include <vector>

#include "qamserve/v1/inference.grpc.pb.h"
#include "server/grpc/in_process_channel.h"
#include "server/grpc/open_inference_tensors.h"
#include "server/grpc/status_conversion.h"

namespace qamserve {
namespace {

constexpr std::string_view kPassedOn[] = {"authorization", "traceparent", "x-request-id", "x-qamserve-peer"};
constexpr std::string_view kPeer = "x-qamserve-peer";

class Infer;

// One Generate call of an Infer; owned by it.
class Prompt final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Prompt(Infer& infer, v1::GenerateRequest request) : infer_(infer), request_(std::move(request)) {}
  void Start(const grpc::CallbackServerContext& outer, v1::InferenceService::Stub& stub) {
    PassOn(outer, context_);
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&message_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    answer_.text += message_.text();
    answer_.tokens.insert(answer_.tokens.end(), message_.tokens().begin(), message_.tokens().end());
    answer_.finish_reason = message_.finish_reason();
    StartRead(&message_);
  }
  void OnDone(const grpc::Status& status) override;
  InferAnswer TakeAnswer() { return std::move(answer_); }

 private:
  Infer& infer_;
  const v1::GenerateRequest request_;
  grpc::ClientContext context_;
  v1::GenerateResponse message_;
  InferAnswer answer_;
};

// Frees itself once the outer call is done, which comes after all inner ones.
class Infer final : public grpc::ServerUnaryReactor {
 public:
  Infer(std::shared_ptr<grpc::Channel> channel, const inference::ModelInferRequest& request,
        inference::ModelInferResponse* response)
      : stub_(v1::InferenceService::NewStub(channel)), request_(request), response_(*response) {}

  void Start(const grpc::CallbackServerContext& outer) {
    absl::Status status = CheckRequestedOutputs(request_);
    absl::StatusOr<std::vector<v1::GenerateRequest>> requests = GenerateRequestsFromInfer(request_);
    if (status.ok()) status = requests.status();
    if (!status.ok()) return Finish(ToGrpcStatus(status));
    prompts_.reserve(requests->size());
    for (v1::GenerateRequest& request : *requests) {
      prompts_.push_back(std::make_unique<Prompt>(*this, std::move(request)));
    }
    {
      absl::MutexLock lock(&mutex_);
      running_ = prompts_.size();
    }
    // `this` may be gone as soon as the last one has started.
    const size_t count = prompts_.size();
    for (size_t i = 0; i < count; ++i) prompts_[i]->Start(outer, *stub_);
  }
  void OnCancel() override {
    for (const auto& prompt : prompts_) prompt->Cancel();
  }
  void OnDone() override { delete this; }

  void PromptDone(const grpc::Status& status) {
    bool first_error = false;
    {
      absl::MutexLock lock(&mutex_);
      if (!status.ok() && status_.ok()) {
        status_ = status;
        first_error = true;
      }
    }
    if (first_error) OnCancel();
    grpc::Status end;
    {
      absl::MutexLock lock(&mutex_);
      if (--running_ > 0) return;
      end = status_;
    }
    if (end.ok()) {
      std::vector<InferAnswer> answers;
      answers.reserve(prompts_.size());
      for (const auto& prompt : prompts_) answers.push_back(prompt->TakeAnswer());
      response_ = ToInferResponse(request_, answers);
    }
    Finish(end);
  }

 private:
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const inference::ModelInferRequest& request_;  // lives until OnDone
  inference::ModelInferResponse& response_;
  std::vector<std::unique_ptr<Prompt>> prompts_;
  absl::Mutex mutex_;
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

void Prompt::OnDone(const grpc::Status& status) { infer_.PromptDone(status); }

// One request at a time: read it, run its Generate call, write each of its messages, read the next. Only one of these
// operations is under way at any moment, so no lock is needed but for cancelling.
class StreamInfer final
    : public grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse> {
 public:
  StreamInfer(grpc::CallbackServerContext* outer, std::shared_ptr<grpc::Channel> channel)
      : outer_(*outer), stub_(v1::InferenceService::NewStub(channel)) {
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    absl::Status status = CheckRequestedOutputs(request_);
    absl::StatusOr<std::vector<v1::GenerateRequest>> requests = GenerateRequestsFromInfer(request_);
    if (status.ok()) status = requests.status();
    if (status.ok() && requests->size() != 1) {
      status = InvalidArgument("INFER_INPUT", "a streamed request has one prompt; got {}", requests->size());
    }
    if (!status.ok()) return WriteLast(ToGrpcStatus(status));
    generate_ = std::make_unique<Generate>(*this, std::move(requests->front()));
    {
      absl::MutexLock lock(&mutex_);
      running_ = generate_.get();
      if (cancelled_) running_->Cancel();
    }
    generate_->Start();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) OnCancel();
    if (std::exchange(last_, false)) {
      if (!ok) return Finish(grpc::Status::CANCELLED);
      StartRead(&request_);
    } else {
      generate_->Next();
    }
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    if (running_ != nullptr) running_->Cancel();
  }
  void OnDone() override { delete this; }

 private:
  class Generate final : public grpc::ClientReadReactor<v1::GenerateResponse> {
   public:
    Generate(StreamInfer& stream, v1::GenerateRequest request) : stream_(stream), request_(std::move(request)) {
      PassOn(stream_.outer_, context_);
    }
    void Start() {
      stream_.stub_->async()->Generate(&context_, &request_, this);
      // Reads go on from outside: until the last one, which fails, the call must not be done.
      AddHold();
      StartRead(&message_);
      StartCall();
    }
    void Cancel() { context_.TryCancel(); }
    void Next() { StartRead(&message_); }
    void OnReadDone(bool ok) override {
      if (!ok) return RemoveHold();  // OnDone follows
      InferAnswer answer;
      answer.text = message_.text();
      answer.tokens.assign(message_.tokens().begin(), message_.tokens().end());
      answer.finish_reason = message_.finish_reason();
      stream_.WritePiece(answer);
    }
    void OnDone(const grpc::Status& status) override { stream_.GenerateDone(status); }

   private:
    StreamInfer& stream_;
    const v1::GenerateRequest request_;
    grpc::ClientContext context_;
    v1::GenerateResponse message_;
  };

  void WritePiece(const InferAnswer& answer) {
    response_.Clear();
    *response_.mutable_infer_response() = ToInferResponse(request_, {answer});
    (*response_.mutable_infer_response()->mutable_parameters())["triton_final_response"].set_bool_param(false);
    StartWrite(&response_);
  }

  void GenerateDone(const grpc::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      running_ = nullptr;
    }
    WriteLast(status);
  }

  // The end of one request: an empty message, or its error.
  void WriteLast(const grpc::Status& status) {
    response_.Clear();
    inference::ModelInferResponse& end = *response_.mutable_infer_response();
    end.set_model_name(request_.model_name());
    end.set_model_version("1");
    end.set_id(request_.id());
    (*end.mutable_parameters())["triton_final_response"].set_bool_param(true);
    if (!status.ok()) response_.set_error_message(status.error_message());
    last_ = true;
    StartWrite(&response_);
  }

  grpc::CallbackServerContext& outer_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  inference::ModelInferRequest request_;
  inference::ModelStreamInferResponse response_;
  std::unique_ptr<Generate> generate_;  // the last one; gone with the next or with this
  bool last_ = false;
  absl::Mutex mutex_;
  Generate* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

void PassOn(const grpc::CallbackServerContext& outer, grpc::ClientContext& inner) {
  // Only this process may say who is behind a call.
  const bool in_process = IsInProcessPeer(outer.peer());
  for (const std::string_view name : kPassedOn) {
    if (name == kPeer && !in_process) continue;
    const auto found = outer.client_metadata().find(grpc::string_ref(name.data(), name.size()));
    if (found == outer.client_metadata().end()) continue;
    inner.AddMetadata(std::string(name), std::string(found->second.data(), found->second.size()));
  }
  if (!in_process) inner.AddMetadata(std::string(kPeer), outer.peer());
  inner.set_deadline(outer.deadline());
}

grpc::ServerUnaryReactor* StartInfer(grpc::CallbackServerContext* call, std::shared_ptr<grpc::Channel> channel,
                                     const inference::ModelInferRequest& request,
                                     inference::ModelInferResponse* response) {
  auto* infer = new Infer(std::move(channel), request, response);
  infer->Start(*call);
  return infer;
}

grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>* StartStreamInfer(
    grpc::CallbackServerContext* call, std::shared_ptr<grpc::Channel> channel) {
  return new StreamInfer(call, std::move(channel));
}

}  // namespace qamserve
