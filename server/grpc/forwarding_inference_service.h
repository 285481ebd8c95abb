// InferenceService of an api process in a fleet: each call is made again of a replica (server/fleet/router.h chooses
// it), with the caller's key, trace and deadline, and its answer passed on. A replica that cannot be reached, or
// refuses before it has answered anything, is left for another one, up to two times; a stream that breaks off later
// ends with UNAVAILABLE (REPLICA_LOST). A slow reader holds up its own stream only: one message is on its way, the rest
// waits at the replica, which bounds it.
//
// A process that has replicas of its own is one of those that are chosen from. What another api process forwards to it
// arrives here as well, says that it was forwarded, and is answered by `local`.
#pragma once

#include <functional>
#include <memory>

#include "qamserve/v1/inference.grpc.pb.h"
#include "server/grpc/call.h"
#include "server/grpc/inference_service.h"

namespace qamserve {

class ForwardingInferenceService final : public v1::InferenceService::CallbackService {
 public:
  // `context.fleet` is set. `own_channel` leads to this process's own server; called once that runs.
  ForwardingInferenceService(ServiceContext& context, std::function<std::shared_ptr<grpc::Channel>()> own_channel)
      : context_(context), own_channel_(std::move(own_channel)), local_(context) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* call,
                                                           const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerateResponse>* Chat(grpc::CallbackServerContext* call,
                                                       const v1::ChatRequest* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* call, const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override;
  grpc::ServerUnaryReactor* Compare(grpc::CallbackServerContext* call, const v1::CompareRequest* request,
                                    v1::CompareResponse* response) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* call, const v1::EmbedRequest* request,
                                  v1::EmbedResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* call, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  ServiceContext& context_;
  const std::function<std::shared_ptr<grpc::Channel>()> own_channel_;
  InferenceServiceImpl local_;
};

}  // namespace qamserve
