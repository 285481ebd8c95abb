// Errors as the REST API tells them (google.aip.dev/193): {"error": {"code": 404, "status": "NOT_FOUND", "message":
// "...", "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "JOB_NOT_FOUND", ...}]}}. The one
// place where a status becomes such an answer. Pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include <string>
#include <string_view>

#include "core/base/status.h"
#include "server/http/exchange.h"

namespace qamserve::rest {

// Of google.rpc.Code, by the table in the comments of the public google/rpc/code.proto.
int HttpStatusOf(grpc::StatusCode code);

// `status` and which field, parameter or header it is about: becomes google.rpc.BadRequest.
absl::Status WithField(absl::Status status, std::string_view field);
// `status` with an HTTP status of its own, in place of its code's.
absl::Status WithHttpStatus(absl::Status status, int http_status);

struct Answer {
  HttpAnswerHead head;
  std::string body;
};

// Of a request that was refused before a call was made. HTTP_BODY_SIZE is 413, HTTP_SLOW 408.
Answer ErrorAnswer(const absl::Status& status);
// Of a call: what its trailing details hold goes into "details", a RetryInfo into Retry-After too. An error of gRPC's
// own, which has none, gets an ErrorInfo with its code as the reason.
Answer ErrorAnswer(const grpc::Status& status);

}  // namespace qamserve::rest
