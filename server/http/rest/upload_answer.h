// A body of raw bytes as a call whose request is a stream: each piece of the body, at most 1 MiB, is one message, and
// the next is read when the last one is stored. So no body is ever in memory as a whole, and a fast client waits.
#pragma once

#include <memory>
#include <optional>

#include "server/http/exchange.h"
#include "server/http/local_calls.h"
#include "server/http/rest/binding.h"
#include "server/http/rest/conditions.h"

namespace qamserve::rest {

// Where the bytes of the body belong in the file: of "Content-Range", put into the request's field `offset`. Nothing
// without the header. INVALID_ARGUMENT: CONTENT_RANGE (malformed, other than Content-Length, not of this call),
// FIELD_CONFLICT (another offset in the query).
absl::StatusOr<std::optional<ContentRange>> BindContentRange(const HttpRequestHead& head,
                                                             google::protobuf::Message* request);

// `first` has what path and query say, and the bytes go into `route.body_field`. `calls` is used at once. Returns at
// once; the answer keeps itself alive. A body that is shorter or longer than `range` is CONTENT_RANGE; what came before
// stays.
void AnswerUpload(std::shared_ptr<HttpExchange> exchange, LocalCalls& calls, const HttpRoute& route, MessagePtr first,
                  const CallMetadata& metadata, std::optional<ContentRange> range);

}  // namespace qamserve::rest
