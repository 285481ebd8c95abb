// Requests and answers of the Open Inference Protocol as HTTP bodies: JSON, and Triton's binary extension, in which the
// JSON's length stands in the header "Inference-Header-Content-Length" and the elements of tensors follow it. Pure
// functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "inference/open_inference.pb.h"

namespace qamserve::open_inference {

// A request and which of its outputs, in the answer, are binary.
struct InferBody {
  inference::ModelInferRequest request;  // all inputs raw
  bool binary_by_default = false;
  std::vector<std::pair<std::string, bool>> binary;  // of outputs that the request names
  bool IsBinary(std::string_view output) const;
};

// `json_bytes`: of the body, from the header; all of it without one. INVALID_ARGUMENT: INFER_JSON (what is wrong and
// where), INFER_INPUT (a tensor's data is not what its shape and datatype say).
absl::StatusOr<InferBody> ReadInferBody(std::string_view body, std::optional<size_t> json_bytes);

struct InferAnswerBody {
  std::string body;
  std::optional<size_t> json_bytes;  // set if something binary follows the JSON
};
InferAnswerBody WriteInferAnswer(const inference::ModelInferResponse& response, const InferBody& asked);

// Triton's generate extension: {"text_input": "...", "id": "...", "parameters": {...}}; other members are parameters
// too.
absl::StatusOr<inference::ModelInferRequest> ReadGenerateBody(std::string_view body);

// {"error": "..."}, as the protocol has it.
std::string ErrorBody(std::string_view message);

}  // namespace qamserve::open_inference
