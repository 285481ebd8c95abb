// The answer of a call that streams: server-sent events, or JSON a line.
//   text/event-stream     "data: {json}" a message; a comment ": ping" while nothing comes; at the end "event: end"
//   with
//                         "data: {}", or "event: error" with the error's JSON
//   application/x-ndjson  {json} and a line break a message; an error is a last line {"error": {...}}
// An error before the first message is an answer of its own, with its HTTP status. The next message is read from the
// call when the last one has left for the client, so a slow client holds up its call and nothing else; one that
// vanishes cancels it at once.
#pragma once

#include <google/protobuf/descriptor.h>

#include <chrono>
#include <memory>

#include "server/http/exchange.h"
#include "server/http/local_calls.h"

namespace qamserve::rest {

struct StreamFormat {
  bool events = false;  // else lines
  std::chrono::milliseconds ping_interval{15'000};
  const google::protobuf::FieldDescriptor* field =
      nullptr;  // of a message, which is shown in its place; null = all of it
};

// Returns at once; the answer keeps itself alive.
void AnswerStream(std::shared_ptr<HttpExchange> exchange, std::shared_ptr<LocalStream> stream,
                  const StreamFormat& format);

}  // namespace qamserve::rest
