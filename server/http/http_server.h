// The HTTP/1.0 and 1.1 server (RFC 9110, 9112) on Boost.Asio and Beast: connections, limits, TLS. A few I/O threads
// serve any number of connections. Requests of a connection are answered one after the other; the next one, if it came
// early, waits in at most 64 KiB of read-ahead.
//
// What it refuses by itself is answered with {"error": {code, status, message, details: [ErrorInfo]}} and a closed
// connection: 400 HTTP_REQUEST_LINE, HTTP_TARGET, HTTP_HEADER, HTTP_HOST, HTTP_CONTENT_LENGTH, HTTP_TRANSFER_ENCODING,
// HTTP_PARTIAL; 408 HTTP_SLOW; 414 HTTP_TARGET_SIZE; 417 HTTP_EXPECT; 431 HTTP_HEADER_SIZE, HTTP_HEADER_COUNT;
// 501 HTTP_TRANSFER_ENCODING; 503 HTTP_CONNECTIONS; 505 HTTP_VERSION. 404 HTTP_NOT_FOUND (no part takes the request)
// and 500 HTTP_NO_ANSWER (a handler dropped its exchange) keep the connection.
//
// A client that ends its sending side before the answer has ended counts as gone: nobody can tell it from one that
// closed, and work for those must stop at once. What a handler answers all the same is still sent. A client that
// vanishes without a word is found by TCP keep-alive, in two minutes.
#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "server/http/exchange.h"

namespace qamserve {

struct HttpTls {
  std::string certificate_pem;  // the server's own first, then those that lead to a root
  std::string key_pem;          // without a password
  // Clients must show a certificate that leads to one of these; empty = they are not asked for one.
  std::string client_ca_pem;
};

struct HttpLimits {
  size_t header_bytes = 32 << 10;  // of the request line and all header fields
  size_t header_count = 100;
  size_t target_bytes = 8 << 10;
  // More are answered with 503. Lower where the process may not open as many files.
  int max_connections = 10'000;
  int64_t head_ms = 10'000;        // from a request's first byte to the end of its head; of a TLS handshake
  int64_t idle_ms = 60'000;        // between requests
  int64_t body_ms = 30'000;        // without a byte, while a handler waits for the body
  int64_t write_ms = 60'000;       // without the client taking a byte of what is sent to it; then it is cut off
  int64_t linger_ms = 5'000;       // after the last answer, for the client to read it and close
  size_t discard_bytes = 1 << 20;  // of a body that no handler wanted; the connection of a longer one closes
};

// One answered request, for metrics.
struct HttpAnswered {
  std::string_view part;  // name of the HttpPart; "none" if none took it
  int status = 0;         // 499: the client was gone before an answer
  double seconds = 0;     // from the end of the head to the last byte given to the socket
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";      // name or address; of a name with both, the IPv4 address
  int port = 0;                        // 0 = any free one
  std::string flag = "--http-listen";  // for messages
  std::string reason = "HTTP_LISTEN";
  int threads = 1;
  std::vector<HttpPart> parts;  // the first that takes a request gets it
  std::optional<HttpTls> tls;
  HttpLimits limits;
  // Called on I/O threads; may be empty.
  std::function<void(const HttpAnswered&)> on_answered;
};

// Thread-safe.
class HttpServer {
 public:
  // UNAVAILABLE (options.reason) if the address cannot be bound; INVALID_ARGUMENT (HTTP_TLS) names what is wrong with
  // certificate, key or authorities.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(HttpServerOptions options);
  // As Shutdown with no time. Exchanges that handlers still hold do nothing from then on; callbacks given to them are
  // dropped.
  virtual ~HttpServer() = default;

  virtual int port() const = 0;
  virtual int connections() const = 0;
  // For connections from now on. The errors of Start; FAILED_PRECONDITION (HTTP_TLS) if the server speaks plain HTTP.
  virtual absl::Status ReloadTls(const HttpTls& tls) = 0;
  // Accepts no more, closes idle connections, lets running answers end and cuts them at `deadline`. Returns when no
  // connection is left. Idempotent. Not to be called by a handler.
  virtual void Shutdown(absl::Time deadline) = 0;
};

}  // namespace qamserve
