// Requests to other servers, by libcurl: what imports read models with, and what the S3 blob store is made of.
// Thread-safe; calls block. Connections are kept and used again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

struct HttpClientOptions {
  std::string ca_file;           // PEM; empty = those of the system
  int64_t connect_ms = 15'000;   // until the connection is there
  int64_t stall_ms = 60'000;     // without a byte
  int attempts = 6;              // of a request that failed in a way that may pass
  int64_t first_pause_ms = 500;  // at most, before the second attempt; doubles up to max_pause_ms
  int64_t max_pause_ms = 30'000;
};

// Waits between attempts: a random time up to the pause, which doubles each time, so that callers that failed together
// do not come back together. Belongs to one thread.
class Backoff {
 public:
  // `attempts` that fail in a row end it.
  Backoff(int attempts, int64_t first_pause_ms, int64_t max_pause_ms)
      : attempts_(attempts), first_pause_ms_(first_pause_ms), max_pause_ms_(max_pause_ms), pause_ms_(first_pause_ms) {}
  // Whether there is another attempt; has waited for it then, at least `least_ms` (but no more than the longest pause).
  // False also if `cancelled`, which may be empty, says so.
  bool Next(int64_t least_ms, const std::function<bool()>& cancelled);
  // Something was achieved: counts anew.
  void Reset();
  // Times that Next was true.
  int retries() const { return retries_; }

 private:
  const int attempts_;
  const int64_t first_pause_ms_;
  const int64_t max_pause_ms_;
  int64_t pause_ms_;
  int failed_ = 0;
  int retries_ = 0;
};

// AWS Signature Version 4, as S3-compatible stores check it. URLs as s3_url.h writes them; no header of a signed
// request may have a name that another one's begins with, since libcurl 7.88 signs them in the wrong order.
struct SigningKey {
  std::string region;
  std::string access_key;
  std::string secret_key;
  std::string session_token;  // empty = none
};

// Bytes that a request sends: in memory, or `size` bytes of an open file from `offset`. They must stay as they are.
struct HttpBody {
  std::span<const std::byte> bytes;
  int fd = -1;  // -1 = in memory
  uint64_t offset = 0;
  uint64_t file_bytes = 0;

  uint64_t size() const { return fd >= 0 ? file_bytes : bytes.size(); }
};

struct FetchRequest {
  std::string url;
  std::vector<std::string> headers;     // "Name: value"; an Authorization does not follow a redirect to another host
  const SigningKey* signing = nullptr;  // a signed request follows no redirects
  std::string what;                     // how errors call it: "model.safetensors of hf://..."
  std::function<bool()> cancelled;      // asked several times a second; may be empty
  int64_t stall_ms = 0;                 // in place of the client's; 0 = that
  // Of Send only.
  std::string method = "GET";  // GET, HEAD, PUT, POST, DELETE
  HttpBody body;               // of PUT and POST
  std::string body_sha256;     // of `body`, if it is signed and not empty
};

struct FetchAnswer {
  std::string body;
  std::map<std::string, std::string> fields;  // header names in lower case
  int status = 0;

  // A field's value; empty if it is not there.
  std::string Field(const std::string& name) const;
};

// Errors: NOT_FOUND (IMPORT_NOT_FOUND) for 404, PERMISSION_DENIED (IMPORT_DENIED) for 401 and 403, ABORTED
// (IMPORT_CHANGED) for 412, UNAVAILABLE (IMPORT_SOURCE) for everything else that the other side or the network does,
// after all attempts; CANCELLED.
class HttpClient {
 public:
  explicit HttpClient(HttpClientOptions options);
  ~HttpClient();

  // RESOURCE_EXHAUSTED (IMPORT_SIZE) if the body has more than `max_bytes`.
  absl::StatusOr<FetchAnswer> Get(const FetchRequest& request, size_t max_bytes) const;

  // The bytes from `offset` up to `size`, in pieces. After a cut it goes on where it ended; a server without ranges is
  // read again from its start. An error of `piece` ends it at once. DATA_LOSS (IMPORT_SIZE) if the other side has more.
  using Piece = std::function<absl::Status(std::span<const std::byte>)>;
  absl::Status GetFrom(const FetchRequest& request, uint64_t offset, uint64_t size, const Piece& piece) const;

  // One attempt; an answer of any status is OK. The body of a 2xx answer goes to `piece`, if that is not empty, and an
  // error of `piece` ends the attempt and is returned; every other body is kept, at most `max_bytes` of it (a 2xx
  // answer with more is RESOURCE_EXHAUSTED, IMPORT_SIZE). Without an answer: UNAVAILABLE (HTTP_CONNECTION) if that may
  // pass, FAILED_PRECONDITION (HTTP_SETUP) if it will not (a name that is no URL, a certificate that nobody trusts);
  // CANCELLED.
  absl::StatusOr<FetchAnswer> Send(const FetchRequest& request, size_t max_bytes, const Piece& piece) const;

 private:
  class Handles;  // libcurl's, with the connections that they keep

  const HttpClientOptions options_;
  const std::unique_ptr<Handles> handles_;
};

// How long the other side asks to be left alone: Retry-After in ms, at most an hour; 0 if it does not say.
int64_t RetryAfterMs(const FetchAnswer& answer);

// Percent-encodes all but letters, digits and "-._~", and "/" if `keep_slash`: as S3 signatures and paths want it.
std::string EncodeForUrl(std::string_view text, bool keep_slash);
// INVALID_ARGUMENT (IMPORT_SOURCE_NAME) for a '%' that two hex digits do not follow.
absl::StatusOr<std::string> DecodeFromUrl(std::string_view text);

}  // namespace qamserve
