// What the HTTP server says and checks as text: heads of requests, heads of answers, bodies of errors. No sockets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "server/http/exchange.h"
#include "server/http/http_server.h"

namespace qamserve {

// An answer that the server gives by itself.
struct HttpRefusal {
  int status = 400;
  absl::Status error;
};

// {"error": {code, status, message, details: [ErrorInfo with the reason]}}, as JSON.
std::string HttpErrorBody(int status, const absl::Status& error);

// Checks what a parsed head says and takes its target apart into path and query. `version` is 10 or 11.
std::optional<HttpRefusal> CheckRequestHead(const HttpLimits& limits, int version, std::string_view target,
                                            HttpRequestHead& head);

// How an answer goes over the wire.
struct HttpFraming {
  int64_t length = -1;  // of the body; -1 = not known
  bool http10 = false;
  bool close = false;      // the connection, after the answer
  bool head_only = false;  // to HEAD
  // A body follows the head.
  bool HasBody(int status) const { return !head_only && status != 204 && status != 304; }
  bool Chunked(int status) const { return HasBody(status) && length < 0 && !http10; }
};
// Status line and fields up to the empty line. Fields of `answer` that are the server's business are left out.
// INTERNAL (HTTP_ANSWER) if a status or field cannot be sent (a line break, say).
absl::StatusOr<std::string> AnswerHeadText(const HttpAnswerHead& answer, const HttpFraming& framing, absl::Time now);

}  // namespace qamserve
