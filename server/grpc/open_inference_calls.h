// How calls of the Open Inference Protocol become calls of our own services. Internal to server/grpc.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <utility>

#include "inference/open_inference.grpc.pb.h"
#include "qamserve/v1/serving.grpc.pb.h"

namespace qamserve {

// Key, trace, peer and deadline of an outer call.
void PassOn(const grpc::CallbackServerContext& outer, grpc::ClientContext& inner);

// One unary call of ServingService; frees itself. The outer call's end waits for the inner one's, which its
// cancellation brings about.
template <typename Request, typename Response>
class ForwardedCall final : public grpc::ServerUnaryReactor {
 public:
  using Method = void (v1::ServingService::Stub::async_interface::*)(grpc::ClientContext*, const Request*, Response*,
                                                                     std::function<void(grpc::Status)>);
  ForwardedCall(const grpc::CallbackServerContext& outer, std::unique_ptr<v1::ServingService::Stub> stub,
                Request request, std::function<void(const Response&)> convert)
      : stub_(std::move(stub)), request_(std::move(request)), convert_(std::move(convert)) {
    PassOn(outer, inner_);
  }
  void Start(Method method) {
    (stub_->async()->*method)(&inner_, &request_, &response_, [this](const grpc::Status& status) {
      if (status.ok()) convert_(response_);
      Finish(status);
    });
  }
  void OnCancel() override { inner_.TryCancel(); }
  void OnDone() override { delete this; }

 private:
  const std::unique_ptr<v1::ServingService::Stub> stub_;
  const Request request_;
  const std::function<void(const Response&)> convert_;
  grpc::ClientContext inner_;
  Response response_;
};

// `convert` fills in the outer response.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* Forward(grpc::CallbackServerContext* outer, std::unique_ptr<v1::ServingService::Stub> stub,
                                  typename ForwardedCall<Request, Response>::Method method, Request request,
                                  std::function<void(const Response&)> convert) {
  auto* call = new ForwardedCall<Request, Response>(*outer, std::move(stub), std::move(request), std::move(convert));
  call->Start(method);
  return call;
}

// ModelInfer: a Generate call for each prompt, all at once; the first error cancels the others and is the answer.
grpc::ServerUnaryReactor* StartInfer(grpc::CallbackServerContext* call, std::shared_ptr<grpc::Channel> channel,
                                     const inference::ModelInferRequest& request,
                                     inference::ModelInferResponse* response);

// ModelStreamInfer: requests one after the other, each with one prompt and a message for every piece of its answer; the
// last one has the parameter "triton_final_response" = true. An error of a request is a message too.
grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>* StartStreamInfer(
    grpc::CallbackServerContext* call, std::shared_ptr<grpc::Channel> channel);

}  // namespace qamserve
