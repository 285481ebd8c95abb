// GET requests to other servers, by libcurl: what imports read models with. Thread-safe; calls block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
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
  int64_t first_pause_ms = 500;  // before the second attempt; doubles up to max_pause_ms
  int64_t max_pause_ms = 30'000;
};

// AWS Signature Version 4, as S3-compatible stores check it.
struct SigningKey {
  std::string region;
  std::string access_key;
  std::string secret_key;
  std::string session_token;  // empty = none
};

struct FetchRequest {
  std::string url;
  std::vector<std::string> headers;     // "Name: value"; an Authorization does not follow a redirect to another host
  const SigningKey* signing = nullptr;  // a signed request follows no redirects
  std::string what;                     // how errors call it: "model.safetensors of hf://..."
  std::function<bool()> cancelled;      // asked several times a second; may be empty
};

struct FetchAnswer {
  std::string body;
  std::map<std::string, std::string> fields;  // header names in lower case
};

// Errors: NOT_FOUND (IMPORT_NOT_FOUND) for 404, PERMISSION_DENIED (IMPORT_DENIED) for 401 and 403, ABORTED
// (IMPORT_CHANGED) for 412, UNAVAILABLE (IMPORT_SOURCE) for everything else that the other side or the network does,
// after all attempts; CANCELLED.
class HttpClient {
 public:
  explicit HttpClient(HttpClientOptions options) : options_(std::move(options)) {}

  // RESOURCE_EXHAUSTED (IMPORT_SIZE) if the body has more than `max_bytes`.
  absl::StatusOr<FetchAnswer> Get(const FetchRequest& request, size_t max_bytes) const;

  // The bytes from `offset` up to `size`, in pieces. After a cut it goes on where it ended; a server without ranges is
  // read again from its start. An error of `piece` ends it at once. DATA_LOSS (IMPORT_SIZE) if the other side has more.
  using Piece = std::function<absl::Status(std::span<const std::byte>)>;
  absl::Status GetFrom(const FetchRequest& request, uint64_t offset, uint64_t size, const Piece& piece) const;

 private:
  const HttpClientOptions options_;
};

// Percent-encodes all but letters, digits and "-._~", and "/" if `keep_slash`: as S3 signatures and paths want it.
std::string EncodeForUrl(std::string_view text, bool keep_slash);
// INVALID_ARGUMENT (IMPORT_SOURCE_NAME) for a '%' that two hex digits do not follow.
absl::StatusOr<std::string> DecodeFromUrl(std::string_view text);

}  // namespace qamserve
