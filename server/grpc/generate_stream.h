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
  std::shared_ptr<ServedModel> model;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> prompt;
  SamplingParams params;
};

// `prepare` looks the model up and makes the tokens; it runs once, on context.quick, before anything is sent. `model` is
// for metrics.
grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerateStream(
    ServiceContext& context, CallName name, std::string_view model,
    std::function<absl::StatusOr<GenerateInput>()> prepare);

}  // namespace qamserve
