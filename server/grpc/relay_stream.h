// One Generate or Chat call that is forwarded to a replica. A message is read from the replica, written to the client,
// and only then the next one is read: what a slow reader has not taken yet waits at the replica. Internal to
// server/grpc.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "qamserve/v1/inference.grpc.pb.h"
#include "server/grpc/call.h"
#include "server/grpc/relay.h"

namespace qamserve {

// Starts the replica's call: `model` is the resource name that goes into the request, which outlives the call.
using StartInner =
    std::function<void(const std::string& model, v1::InferenceService::Stub& stub, grpc::ClientContext* context,
                       grpc::ClientReadReactor<v1::GenerateResponse>* reactor)>;

// `requested` is the model that the request names.
grpc::ServerWriteReactor<v1::GenerateResponse>* StartRelayStream(ServiceContext& context,
                                                                 grpc::CallbackServerContext& call, CallName name,
                                                                 std::string_view requested, RelayAttempts attempts,
                                                                 StartInner start);

}  // namespace qamserve
