// One Generate or Chat call: tokens from the engine's thread on one side, gRPC's writes on the other, a bounded buffer
// between them. While a message is on its way, what comes next is gathered into the next one, so a slow reader gets
// larger messages and stalls nobody; one that is more than RpcLimits::max_unsent_bytes behind is ended with
// RESOURCE_EXHAUSTED (SLOW_READER). A client that cancels, vanishes or runs into its deadline frees its sequence at the
// engine's next step.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "qamserve/v1/inference.grpc.pb.h"
#include "server/grpc/call.h"

namespace qamserve {

struct GenerateInput {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> prompt;
  SamplingParams params;
  RequestOptions request;
};

using RouteFn = std::function<absl::StatusOr<std::shared_ptr<ServedModel>>()>;
using PrepareFn = std::function<absl::StatusOr<GenerateInput>(const ServedModel&)>;

// `route` gives the model of the request and `prepare` makes the tokens for it; both run once, on context.quick, before
// anything is sent. `requested` is the model that the request names: metrics count the request under it until it has
// been routed, and from then on under the served model.
grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerateStream(ServiceContext& context,
                                                                    const grpc::CallbackServerContext& call,
                                                                    CallName name, std::string_view requested,
                                                                    RouteFn route, PrepareFn prepare);

}  // namespace qamserve
