// Tensors and parameters of the Open Inference Protocol <-> requests and answers of InferenceService. A model takes
//   text_input           BYTES [n] or [n, 1]: prompts; or, in place of it,
//   input_ids            INT32 or INT64 [n] or [1, n]: one prompt as token ids
//   sampling_parameters  BYTES [1], optional: SamplingParams as a JSON object
// and gives text_output BYTES [n], finish_reason BYTES [n], output_tokens INT32 [n] and, to one prompt, output_ids
// INT32 [tokens]. Parameters of a request have the names of SamplingParams' fields ("max_tokens", "temperature"; "stop"
// is one string); unknown ones are errors. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "core/base/status.h"
#include "inference/open_inference.pb.h"
#include "qamserve/v1/inference.pb.h"

namespace qamserve {

inline constexpr int kMaxInferPrompts = 64;

// One request for each prompt. INVALID_ARGUMENT (INFER_INPUT, INFER_PARAMETER) names tensor or parameter and what is
// wrong.
absl::StatusOr<std::vector<v1::GenerateRequest>> GenerateRequestsFromInfer(const inference::ModelInferRequest& request);

// What one prompt led to.
struct InferAnswer {
  std::string text;
  std::vector<int32_t> tokens;
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
};
// INVALID_ARGUMENT (INFER_OUTPUT) if the request names an output that there is not.
absl::Status CheckRequestedOutputs(const inference::ModelInferRequest& request);
// The tensors that the request names, or all; contents are raw if the request's were.
inference::ModelInferResponse ToInferResponse(const inference::ModelInferRequest& request,
                                              const std::vector<InferAnswer>& answers);

void DescribeModel(inference::ModelMetadataResponse& metadata);
std::string_view FinishReasonText(v1::FinishReason reason);  // "stop", "length", ...; empty while it goes on

}  // namespace qamserve
