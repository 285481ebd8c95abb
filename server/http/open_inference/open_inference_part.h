// The Open Inference Protocol over HTTP (github.com/kserve/open-inference-protocol,
// specification/protocol/inference_rest.md, and of Triton's extensions binary tensor data, generate and model
// repository), as calls of GRPCInferenceService and InferenceService:
//   GET  /v2, /v2/health/live, /v2/health/ready
//   GET  /v2/models/{model}[/versions/{version}][/ready]
//   POST /v2/models/{model}[/versions/{version}]/infer, /generate, /generate_stream
//   POST /v2/repository/index, /v2/repository/models/{model}/load, /unload
#pragma once

#include <memory>

#include "server/http/exchange.h"
#include "server/http/local_calls.h"

namespace qamserve {

// Takes /v2 and what is below it.
HttpPart OpenInferencePart(std::shared_ptr<LocalCalls> calls);

}  // namespace qamserve
