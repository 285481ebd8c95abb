// Amazon S3's REST protocol as far as a blob store needs it: objects, multipart uploads, lists. Path style, signed by
// libcurl. Thread-safe; calls block.
// What may pass (no connection, 408, 429, 5xx, SlowDown, a body that arrived damaged) is tried again, with pauses that
// grow and are random; what is asked for by Retry-After is waited for. Then errors are
//   FAILED_PRECONDITION: S3_CREDENTIALS (the key or the signature is refused), S3_BUCKET (there is no such bucket, or
//   it is in another region), S3_DENIED (the key may not do this), S3_ENDPOINT (no S3 server is there)
//   RESOURCE_EXHAUSTED (DISK_FULL): the store or the account has no room
//   UNIMPLEMENTED (S3_UNSUPPORTED): the server does not know this operation
//   UNAVAILABLE (S3_UNAVAILABLE): all attempts failed
//   INTERNAL (S3_PROTOCOL): an answer that makes no sense.
// Messages name endpoint, bucket and key, and what the server said; never a secret.
// Requests are signed with this machine's clock, which must be within 15 minutes of the store's: libcurl 7.88 takes
// another time from an x-amz-date header, but sends that header twice then, and stores refuse it. Where the store
// refuses the clock, S3_CREDENTIALS names both times.
#pragma once

#include <absl/functional/function_ref.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "server/fetch/http_client.h"
#include "server/store/records.h"
#include "server/store/store_observer.h"

namespace qamserve {

struct S3ClientOptions {
  std::string endpoint;  // "https://HOST[:PORT]"
  std::string bucket;
  SigningKey key;
  // Ten attempts over about half a minute: a server that is started anew is not noticed by more than a pause.
  HttpClientOptions http = {.ca_file = "",
                            .connect_ms = 5'000,
                            .stall_ms = 60'000,
                            .attempts = 10,
                            .first_pause_ms = 100,
                            .max_pause_ms = 10'000};
  int page_size = 1000;  // objects in an answer to List; servers give no more than 1000
  // Times that are told are by this clock, whatever the store's own says.
  std::function<int64_t()> now_ms = SystemNowMs;
  std::shared_ptr<StoreObserver> observer = std::make_shared<StoreObserver>();
};

struct S3Object {
  std::string key;
  uint64_t size = 0;
  std::string etag;         // with its quotes
  int64_t modified_ms = 0;  // whole seconds
  std::string sha256;       // of its bytes as its writer told it (S3Body::sha256); by Head only
};

struct S3Body {
  HttpBody bytes;
  std::string sha256;  // of them
};

// A multipart upload that was begun and neither completed nor aborted.
struct S3Upload {
  std::string key;
  std::string id;
  int64_t begun_ms = 0;
};
struct S3Part {
  int number = 0;  // from 1
  std::string etag;
};

// kOnce is for callers that hold a lock which others wait for: one attempt, and HEAD is given up after 10 seconds of
// silence. Other methods are not: what nobody waits for any more may still be done, when the lock is free again.
enum class S3Patience { kFull, kOnce };

class S3Client {
 public:
  using Piece = HttpClient::Piece;
  explicit S3Client(S3ClientOptions options);

  const S3ClientOptions& options() const { return options_; }

  // Whether the bucket is there and may be read. Asks for a list, whose errors say more than those of HEAD.
  absl::Status CheckBucket(S3Patience patience = S3Patience::kFull);
  // Fine if it is there already.
  absl::Status CreateBucket();

  // NOT_FOUND (S3_KEY).
  absl::StatusOr<S3Object> Head(const std::string& key, S3Patience patience = S3Patience::kFull);
  // Hands `size` bytes (>= 1) from `offset` to `piece`, in order; a cut is gone on with where it was. An error of
  // `piece` ends it. NOT_FOUND (S3_KEY), OUT_OF_RANGE (S3_RANGE) if the object ends before.
  absl::Status Get(const std::string& key, uint64_t offset, uint64_t size, const Piece& piece);
  // Returns the etag. If `only_new` and there is an object of this key with other bytes: ALREADY_EXISTS (S3_EXISTS). A
  // server that knows no conditional put, which the first such call finds out, is asked by HEAD before.
  absl::StatusOr<std::string> Put(const std::string& key, const S3Body& body, bool only_new);
  // One that is not there is fine.
  absl::Status Delete(const std::string& key, S3Patience patience = S3Patience::kFull);
  // All objects whose key begins with `prefix`, page by page, in the order of their keys.
  absl::Status List(const std::string& prefix, absl::FunctionRef<void(S3Object)> on_object);

  // Multipart uploads: parts of 5 MiB at least, but the last; at most 10,000.
  absl::StatusOr<std::string> BeginUpload(const std::string& key);
  absl::StatusOr<S3Part> UploadPart(const std::string& key, const std::string& upload, int number, const S3Body& body);
  // The part is a whole object. NOT_FOUND (S3_KEY), UNIMPLEMENTED (S3_UNSUPPORTED). Which etag the object must have
  // cannot be asked for: libcurl 7.88 signs wrongly where one header's name begins with another's.
  absl::StatusOr<S3Part> CopyPart(const std::string& key, const std::string& upload, int number,
                                  const std::string& source);
  // `size` is what the object must have then, else DATA_LOSS (S3_SIZE).
  absl::Status CompleteUpload(const std::string& key, const std::string& upload, const std::vector<S3Part>& parts,
                              uint64_t size);
  absl::Status AbortUpload(const std::string& key, const std::string& upload);  // one that is not there is fine
  absl::StatusOr<std::vector<S3Upload>> ListUploads(const std::string& prefix);

 private:
  using Operation = StoreObserver::BlobRequest::Operation;
  struct Request;

  struct Reading;

  absl::StatusOr<FetchAnswer> Call(const Request& request);
  absl::StatusOr<FetchAnswer> Attempts(const Request& request, Backoff& backoff, StoreObserver::BlobRequest& told);
  FetchRequest FetchRequestOf(const Request& request) const;
  // What an answer, or its absence, means; OK if the request is done.
  absl::Status Judge(const Request& request, const FetchAnswer& answer, bool& may_pass) const;
  absl::Status ErrorOf(const Request& request, int status, std::string_view code, std::string_view message) const;
  // The store finds that the request was signed at another time than its own.
  absl::Status ClockError(const Request& request, const FetchAnswer& answer) const;
  std::string What(const Request& request) const;
  void NoteClock(const FetchAnswer& answer);
  int64_t OurTime(int64_t their_ms) const { return their_ms + clock_offset_ms_.load(); }
  absl::StatusOr<std::string> PutOnce(const std::string& key, const S3Body& body, bool conditional);
  // The etag of an object that has the bytes of `body` already, else ALREADY_EXISTS (S3_EXISTS).
  absl::StatusOr<std::string> Adopt(const std::string& key, const S3Body& body);

  const S3ClientOptions options_;
  const HttpClient http_;
  // Our clock less the store's, as of its last answers; 0 while they differ by a few seconds only.
  std::atomic<int64_t> clock_offset_ms_{0};
  enum class Conditions { kUnknown, kKnown, kIgnored };
  std::atomic<Conditions> conditions_{Conditions::kUnknown};
};

// 64 hex digits of a body in memory, and of a part of an open file.
S3Body S3BodyOf(std::string_view bytes);
absl::StatusOr<S3Body> S3BodyOfFile(int fd, uint64_t offset, uint64_t size, const std::string& path);

}  // namespace qamserve
