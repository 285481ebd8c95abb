// Errors as OpenAI's clients know them: {"error": {"message", "type", "param", "code"}}. The one place where a status
// becomes one. Pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "core/base/status.h"
#include "server/http/exchange.h"
#include "server/http/openai/json_reader.h"

namespace qamserve::openai {

struct ApiError {
  int status = 500;  // HTTP's
  std::string message;
  std::string type;       // "invalid_request_error" and the like
  std::string param;      // path of the member that it is about; empty = null
  std::string code;       // the reason in small letters; empty = null
  int retry_seconds = 0;  // of Retry-After; 0 = none
};

// Of a request that could not be read, or of its body.
ApiError ToApiError(const absl::Status& status);
// What a request calls the things that the services' errors are about.
struct ErrorParams {
  std::string input;       // "prompt", "messages", "input"
  std::string constraint;  // "response_format" and the like
};
// Of a call that failed.
ApiError ToApiError(const grpc::Status& status, const ErrorParams& params);

Json ToJson(const ApiError& error);
// With Retry-After and WWW-Authenticate where they belong.
HttpAnswerHead HeadOf(const ApiError& error);

}  // namespace qamserve::openai
