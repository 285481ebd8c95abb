#include "server/grpc/forwarding_inference_service.h"

#include <absl/base/thread_annotations.h>
#include <absl/strings/numbers.h>
#include <absl/synchronization/mutex.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/grpc/converters.h"
#include "server/grpc/relay.h"
#include "server/grpc/relay_stream.h"

namespace qamserve {
namespace {

constexpr CallName InferenceCall(std::string_view method) { return {"InferenceService", method}; }

// Puts the model of `route` into a request, so that the replica answers for that one, whatever aliases it knows.
template <typename Request>
absl::StatusOr<Route> RouteByModel(RelayAttempts& attempts, const Request& original, Request& request) {
  ASSIGN_OR_RETURN(Route route, attempts.Next(RouteNameOf(original.model())));
  request.set_model(ResourceName(kServedModels, route.model()));
  return route;
}

absl::StatusOr<Route> RouteByModel(RelayAttempts& attempts, const v1::CompareRequest& original,
                                   v1::CompareRequest& request) {
  ASSIGN_OR_RETURN(PairRoute routes, attempts.NextPair(RouteNameOf(original.base()), RouteNameOf(original.other())));
  request.set_base(ResourceName(kServedModels, routes.base.model()));
  request.set_other(ResourceName(kServedModels, routes.other.model()));
  return std::move(routes.base);
}

template <typename Request>
std::string NameIn(const Request& request) {
  return request.model();
}
std::string NameIn(const v1::CompareRequest& request) { return request.base(); }

// One unary call. gRPC keeps it alive (until OnDone) through self_, the executor's task through a copy. Its tries
// follow one another; all of them are kept to the end, since gRPC may still be busy with the one that has just ended.
// Routing runs on gRPC's own threads, as in RelayStream.
template <typename Request, typename Response>
class UnaryRelay final : public grpc::ServerUnaryReactor,
                         public std::enable_shared_from_this<UnaryRelay<Request, Response>> {
 public:
  using Method = void (v1::InferenceService::Stub::async_interface::*)(grpc::ClientContext*, const Request*, Response*,
                                                                       std::function<void(grpc::Status)>);
  UnaryRelay(ServiceContext& context, grpc::CallbackServerContext& call, CallName name, const Request& original,
             Response& response, Method method, RelayAttempts attempts)
      : context_(context),
        call_(call),
        guard_(context, call, name),
        original_(original),
        request_(original),
        response_(response),
        method_(method),
        attempts_(std::move(attempts)) {}

  void Start() {
    self_ = this->shared_from_this();
    if (!guard_.admitted().ok()) return End(guard_.admitted(), ToGrpcStatus(guard_.admitted()));
    Try();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    if (running_ != nullptr) running_->TryCancel();
  }
  void OnDone() override { const auto self = std::move(self_); }

 private:
  struct Inner {
    Route route;
    grpc::ClientContext context;
    std::unique_ptr<v1::InferenceService::Stub> stub;
  };

  void Try() {
    const absl::Status status = ReadyToBegin(context_, call_);
    absl::StatusOr<Route> route = status.ok() ? RouteByModel(attempts_, original_, request_) : status;
    if (!route.ok()) {
      if (status.ok() && attempts_.MayWaitForNews()) return TryAfterNews();
      // Of a replica that refused, that is what there is to tell; that no further one is left is not.
      if (!last_.ok()) return Finished(last_);
      return End(route.status(), ToGrpcStatus(route.status()));
    }
    Inner& inner = *inners_.emplace_back(std::make_unique<Inner>());
    inner.route = *std::move(route);
    inner.stub = v1::InferenceService::NewStub(attempts_.ChannelTo(inner.route));
    ForwardTo(call_, guard_, inner.context);
    {
      absl::MutexLock lock(&mutex_);
      running_ = &inner.context;
      if (cancelled_) running_->TryCancel();
    }
    (inner.stub->async()->*method_)(&inner.context, &request_, &response_,
                                    [this](const grpc::Status& result) { Answered(result); });
  }

  void Answered(const grpc::Status& status) {
    const auto self = this->shared_from_this();
    Inner& inner = *inners_.back();
    bool cancelled;
    {
      absl::MutexLock lock(&mutex_);
      running_ = nullptr;
      cancelled = cancelled_;
    }
    CountTokensOf(inner.context);
    const bool again = !status.ok() && !cancelled && attempts_.Again(inner.route, status);
    inner.route = Route();
    if (!again) return Finished(status);
    last_ = status;
    response_.Clear();
    Try();
  }

  void TryAfterNews() {
    const absl::Status queued = context_.quick.Run([self = this->shared_from_this()] {
      self->attempts_.WaitForNews();
      self->Try();
    });
    if (!queued.ok()) End(queued, ToGrpcStatus(queued));
  }

  void CountTokensOf(const grpc::ClientContext& context) {
    const auto& trailing = context.GetServerTrailingMetadata();
    const auto told = trailing.find(kTokensMetadata);
    int64_t tokens = 0;
    if (told == trailing.end()) return;
    if (absl::SimpleAtoi(absl::string_view(told->second.data(), told->second.size()), &tokens) && tokens > 0) {
      guard_.CountTokens(tokens);
    }
  }

  void Finished(const grpc::Status& status) {
    const grpc::Status told = ToCaller(status, NameIn(original_));
    End(FromGrpcStatus(told), told);
  }
  void End(const absl::Status& status, const grpc::Status& told) {
    guard_.Finished(status);
    Finish(told);
  }

  ServiceContext& context_;
  grpc::CallbackServerContext& call_;
  CallGuard guard_;
  const Request& original_;  // lives until OnDone, as the response
  Request request_;
  Response& response_;
  const Method method_;
  RelayAttempts attempts_;
  grpc::Status last_;
  std::vector<std::unique_ptr<Inner>> inners_;
  std::shared_ptr<UnaryRelay> self_;
  absl::Mutex mutex_;
  grpc::ClientContext* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

template <typename Request, typename Response>
grpc::ServerUnaryReactor* StartUnaryRelay(ServiceContext& context, grpc::CallbackServerContext* call, CallName name,
                                          const Request& request, Response* response,
                                          typename UnaryRelay<Request, Response>::Method method,
                                          const std::function<std::shared_ptr<grpc::Channel>()>& own_channel) {
  const auto relay = std::make_shared<UnaryRelay<Request, Response>>(context, *call, name, request, *response, method,
                                                                     RelayAttempts(context, own_channel));
  relay->Start();
  return relay.get();
}

using Async = v1::InferenceService::Stub::async_interface;

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* ForwardingInferenceService::Generate(
    grpc::CallbackServerContext* call, const v1::GenerateRequest* request) {
  if (IsForwarded(*call)) return local_.Generate(call, request);
  auto copy = std::make_shared<v1::GenerateRequest>(*request);
  return StartRelayStream(context_, *call, InferenceCall("Generate"), request->model(),
                          RelayAttempts(context_, own_channel_),
                          [copy](const std::string& model, v1::InferenceService::Stub& stub,
                                 grpc::ClientContext* context, grpc::ClientReadReactor<v1::GenerateResponse>* reactor) {
                            copy->set_model(model);
                            stub.async()->Generate(context, copy.get(), reactor);
                          });
}

grpc::ServerWriteReactor<v1::GenerateResponse>* ForwardingInferenceService::Chat(grpc::CallbackServerContext* call,
                                                                                 const v1::ChatRequest* request) {
  if (IsForwarded(*call)) return local_.Chat(call, request);
  auto copy = std::make_shared<v1::ChatRequest>(*request);
  return StartRelayStream(context_, *call, InferenceCall("Chat"), request->model(),
                          RelayAttempts(context_, own_channel_),
                          [copy](const std::string& model, v1::InferenceService::Stub& stub,
                                 grpc::ClientContext* context, grpc::ClientReadReactor<v1::GenerateResponse>* reactor) {
                            copy->set_model(model);
                            stub.async()->Chat(context, copy.get(), reactor);
                          });
}

grpc::ServerUnaryReactor* ForwardingInferenceService::Score(grpc::CallbackServerContext* call,
                                                            const v1::ScoreRequest* request,
                                                            v1::ScoreResponse* response) {
  if (IsForwarded(*call)) return local_.Score(call, request, response);
  return StartUnaryRelay<v1::ScoreRequest, v1::ScoreResponse>(context_, call, InferenceCall("Score"), *request,
                                                              response, &Async::Score, own_channel_);
}

grpc::ServerUnaryReactor* ForwardingInferenceService::Compare(grpc::CallbackServerContext* call,
                                                              const v1::CompareRequest* request,
                                                              v1::CompareResponse* response) {
  if (IsForwarded(*call)) return local_.Compare(call, request, response);
  return StartUnaryRelay<v1::CompareRequest, v1::CompareResponse>(context_, call, InferenceCall("Compare"), *request,
                                                                  response, &Async::Compare, own_channel_);
}

grpc::ServerUnaryReactor* ForwardingInferenceService::Embed(grpc::CallbackServerContext* call,
                                                            const v1::EmbedRequest* request,
                                                            v1::EmbedResponse* response) {
  if (IsForwarded(*call)) return local_.Embed(call, request, response);
  return StartUnaryRelay<v1::EmbedRequest, v1::EmbedResponse>(context_, call, InferenceCall("Embed"), *request,
                                                              response, &Async::Embed, own_channel_);
}

grpc::ServerUnaryReactor* ForwardingInferenceService::Tokenize(grpc::CallbackServerContext* call,
                                                               const v1::TokenizeRequest* request,
                                                               v1::TokenizeResponse* response) {
  if (IsForwarded(*call)) return local_.Tokenize(call, request, response);
  return StartUnaryRelay<v1::TokenizeRequest, v1::TokenizeResponse>(context_, call, InferenceCall("Tokenize"), *request,
                                                                    response, &Async::Tokenize, own_channel_);
}

grpc::ServerUnaryReactor* ForwardingInferenceService::Detokenize(grpc::CallbackServerContext* call,
                                                                 const v1::DetokenizeRequest* request,
                                                                 v1::DetokenizeResponse* response) {
  if (IsForwarded(*call)) return local_.Detokenize(call, request, response);
  return StartUnaryRelay<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      context_, call, InferenceCall("Detokenize"), *request, response, &Async::Detokenize, own_channel_);
}

}  // namespace qamserve
