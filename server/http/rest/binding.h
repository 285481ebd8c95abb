// The request of a call from the parts of an HTTP request: path, query, headers and body. Pure functions.
#pragma once

#include <google/protobuf/message.h>

#include <memory>
#include <string_view>

#include "core/base/status.h"
#include "server/http/exchange.h"
#include "server/http/route_table.h"

namespace qamserve::rest {

using MessagePtr = std::unique_ptr<google::protobuf::Message>;

// What everything but the body says: the path's fields, the query's ("page_size=10", "spec.bpw=4.5", repeated fields
// more than once), "Idempotency-Key" as request_id and "If-Match" as etag, where the request has such fields (elsewhere
// they are of no effect). INVALID_ARGUMENT, with the name: QUERY_PARAMETER (unknown, bound by the path or the body,
// twice, a value of the wrong type), and the errors of ParseQuery.
absl::StatusOr<MessagePtr> BindParameters(const RouteMatch& match, const HttpRequestHead& head);

// Adds the body to what BindParameters gave. An empty body is {}. INVALID_ARGUMENT: BODY_UNEXPECTED where the call has
// none, FIELD_CONFLICT for a field that the body gives otherwise than path or header, the errors of FromJson;
// CONTENT_TYPE (HTTP 415) names what is expected.
absl::Status BindBody(const RouteMatch& match, const HttpRequestHead& head, std::string_view body,
                      google::protobuf::Message* request);

// CONTENT_TYPE (HTTP 415) of a body that is compressed, which none may be.
absl::Status CheckNotEncoded(const HttpRequestHead& head);

// The string field `name` that a request may have: "request_id", "etag". Null if it has none.
const google::protobuf::FieldDescriptor* StringField(const google::protobuf::Descriptor& message, const char* name);

}  // namespace qamserve::rest
