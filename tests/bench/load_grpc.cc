// Our server under load: one connection, a callback reactor for each stream, no thread of its own.
#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <grpcpp/grpcpp.h>

#include <set>
#include <utility>

#include "client/rpc_status.h"
#include "qamserve/v1/inference.grpc.pb.h"
#include "tests/bench/load_target.h"

namespace qamserve {
namespace {

class GrpcTarget;

// Owns itself from Begin to OnDone.
class GrpcStream final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  GrpcStream(GrpcTarget& target, v1::GenerateRequest request, std::shared_ptr<LoadSink> sink)
      : target_(target), request_(std::move(request)), sink_(std::move(sink)) {}

  const std::shared_ptr<grpc::ClientContext>& context() const { return context_; }

  void Begin(v1::InferenceService::Stub& stub) {
    stub.async()->Generate(context_.get(), &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.tokens_size() > 0) sink_->OnTokens(response_.tokens_size());
    reason_ = response_.finish_reason();
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override;

 private:
  absl::Status EndOf(const grpc::Status& status) const {
    if (!status.ok()) return FromGrpc(status);
    if (reason_ == v1::FINISH_REASON_LENGTH || reason_ == v1::FINISH_REASON_STOP) return absl::OkStatus();
    return Internal("NO_FINISH_REASON", "the stream ended with {}", v1::FinishReason_Name(reason_));
  }

  GrpcTarget& target_;
  const std::shared_ptr<grpc::ClientContext> context_ = std::make_shared<grpc::ClientContext>();
  const v1::GenerateRequest request_;
  v1::GenerateResponse response_;
  v1::FinishReason reason_ = v1::FINISH_REASON_UNSPECIFIED;
  std::shared_ptr<LoadSink> sink_;
};

class GrpcTarget final : public LoadTarget {
 public:
  GrpcTarget(const std::shared_ptr<grpc::Channel>& channel, std::string model)
      : stub_(v1::InferenceService::NewStub(channel)), model_(std::move(model)) {}

  void Start(LoadRequest load, std::shared_ptr<LoadSink> sink) override {
    v1::GenerateRequest request;
    request.set_model(model_);
    request.mutable_prompt_tokens()->mutable_ids()->Add(load.prompt.begin(), load.prompt.end());
    request.mutable_params()->set_max_tokens(load.max_tokens);
    request.mutable_params()->set_temperature(0);
    request.mutable_params()->set_ignore_eos(true);
    auto* stream = new GrpcStream(*this, std::move(request), std::move(sink));
    {
      absl::MutexLock lock(&mutex_);
      contexts_.insert(stream->context());
    }
    stream->Begin(*stub_);
  }

  void CancelAll() override {
    std::set<std::shared_ptr<grpc::ClientContext>> contexts;
    {
      absl::MutexLock lock(&mutex_);
      contexts = contexts_;
    }
    // Without the lock: a stream may end within the call.
    for (const auto& context : contexts) context->TryCancel();
  }

  void Forget(const std::shared_ptr<grpc::ClientContext>& context) {
    absl::MutexLock lock(&mutex_);
    contexts_.erase(context);
  }

 private:
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const std::string model_;
  absl::Mutex mutex_;
  std::set<std::shared_ptr<grpc::ClientContext>> contexts_ ABSL_GUARDED_BY(mutex_);  // of streams that run
};

// The target may be gone once the sink knows of the end.
void GrpcStream::OnDone(const grpc::Status& status) {
  const absl::Status end = EndOf(status);
  const std::shared_ptr<LoadSink> sink = std::move(sink_);
  target_.Forget(context_);
  delete this;
  sink->OnEnd(end);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadTarget>> OpenGrpcTarget(const std::string& address, const std::string& model) {
  RETURN_IF_ERROR(CheckLoadAddress(address));
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A stream that breaks counts as lost, not as one that took longer.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return std::make_unique<GrpcTarget>(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments),
                                      model);
}

}  // namespace qamserve
