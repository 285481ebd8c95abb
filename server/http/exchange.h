// One HTTP request and its answer, as handlers see them; http_server.h makes them, and tests have one without sockets.
// Everything is asynchronous: a handler returns at once and answers from whatever thread, so that an idle stream costs
// a connection and no thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

using HttpFields = std::vector<std::pair<std::string, std::string>>;

// First value of a header, names compared without case; empty if it is not there.
std::string_view FieldOf(const HttpFields& fields, std::string_view name);

struct HttpRequestHead {
  std::string method;  // "GET"
  std::string path;    // as sent, percent-encoding kept, without the query
  std::string query;   // as sent, without '?'
  HttpFields fields;
  std::string peer;  // "127.0.0.1:4711"
  bool keep_alive = true;

  std::string_view field(std::string_view name) const { return FieldOf(fields, name); }
};

struct HttpAnswerHead {
  int status = 200;
  HttpFields fields;  // Content-Type and the like; length, date and connection are the server's business
};

// Thread-safe. The exchange lives as long as somebody holds it; one that is dropped without an answer gets a 500.
// Callbacks run on the server's I/O threads and must not block; they never run inside the call that was given them.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpRequestHead& head() const = 0;

  // --- The body ---
  // The next piece, at most 1 MiB; empty = the body has ended. One at a time. CANCELLED (CLIENT_GONE) if the client
  // went away, INVALID_ARGUMENT (HTTP_BODY) if it is malformed, DEADLINE_EXCEEDED (HTTP_SLOW) if it stopped sending.
  virtual void ReadSome(std::function<void(absl::StatusOr<std::string>)> done) = 0;

  // --- The answer: Respond alone, or Begin, any number of Writes, and End ---
  virtual void Respond(HttpAnswerHead head, std::string body) = 0;
  // `length` < 0 = not known (chunked, or until the connection closes).
  virtual void Begin(HttpAnswerHead head, int64_t length) = 0;
  // `written` is called when the piece has left for the client's socket (true), or cannot any more (false). One at a
  // time: the next one may be given from `written` on.
  virtual void Write(std::string piece, std::function<void(bool)> written) = 0;
  virtual void End() = 0;
  // Cuts the connection: the only way to say that an answer which has begun cannot be finished.
  virtual void Abort() = 0;
  // Called once if the client goes away before the answer has ended, at once if it is gone already. At most one. A
  // client that only ends its sending side counts as gone, too: drop the exchange, or answer all the same.
  virtual void OnGone(std::function<void()> gone) = 0;
};

using HttpHandler = std::function<void(std::shared_ptr<HttpExchange>)>;

// A part of what a port serves; the first that takes a request gets it.
struct HttpPart {
  std::function<bool(const HttpRequestHead&)> takes;
  HttpHandler handle;
  std::string name;  // of the part in metrics; empty = "none"
};

// The whole body. RESOURCE_EXHAUSTED (HTTP_BODY_SIZE) names the limit as soon as it is passed.
void ReadBody(const std::shared_ptr<HttpExchange>& exchange, size_t limit,
              std::function<void(absl::StatusOr<std::string>)> done);

}  // namespace qamserve
