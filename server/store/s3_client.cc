#include "server/store/s3_client.h"

#include <absl/time/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <pugixml.hpp>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/fetch/s3_url.h"

namespace qamserve {
namespace {

constexpr size_t kMaxAnswerBytes = size_t{8} << 20;  // of 1,000 objects or 10,000 parts
constexpr size_t kMaxMessageBytes = 300;             // of what a server says in an error
// Clocks that differ by less are taken for the same one; Date has whole seconds.
constexpr int64_t kSameClockMs = 5'000;
constexpr char kShaField[] = "x-amz-meta-sha256";
constexpr int64_t kOnceStallMs = 10'000;
// S3's own; other stores keep to it.
constexpr int kMaxSkewMinutes = 15;

template <size_t N>
bool IsOneOf(std::string_view code, const std::array<std::string_view, N>& codes) {
  return std::find(codes.begin(), codes.end(), code) != codes.end();
}

bool IsCredentialsCode(std::string_view code) {
  constexpr std::array<std::string_view, 9> kCodes = {
      "InvalidAccessKeyId",   "SignatureDoesNotMatch",        "ExpiredToken",
      "InvalidToken",         "TokenRefreshRequired",         "InvalidSecurity",
      "RequestTimeTooSkewed", "AuthorizationHeaderMalformed", "MissingSecurityHeader"};
  return IsOneOf(code, kCodes);
}

bool IsFullCode(std::string_view code) {
  constexpr std::array<std::string_view, 5> kCodes = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull",
                                                      "XMinioAdminBucketQuotaExceeded", "StorageFull"};
  return IsOneOf(code, kCodes);
}

// The same request may go well later.
bool IsPassing(int status, std::string_view code) {
  constexpr std::array<std::string_view, 9> kCodes = {
      "SlowDown",           "RequestTimeout",   "InternalError",
      "ServiceUnavailable", "BadDigest",        "XAmzContentSHA256Mismatch",
      "IncompleteBody",     "OperationAborted", "ThrottlingException"};
  if (IsOneOf(code, kCodes)) return true;
  return status == 408 || status == 429 || (status >= 500 && status != 501 && status != 507);
}

std::string OperationName(StoreObserver::BlobRequest::Operation operation) {
  using Operation = StoreObserver::BlobRequest::Operation;
  switch (operation) {
    case Operation::kGet:
      return "GET";
    case Operation::kHead:
      return "HEAD";
    case Operation::kPut:
      return "PUT";
    case Operation::kDelete:
      return "DELETE";
    case Operation::kList:
      return "list";
    case Operation::kCopy:
      return "copy to a part of";
    case Operation::kCreateMultipart:
      return "begin the upload of";
    case Operation::kUploadPart:
      return "upload a part of";
    case Operation::kCompleteMultipart:
      return "complete the upload of";
    case Operation::kAbortMultipart:
      return "abort the upload of";
    case Operation::kListParts:
      return "list the parts of";
    case Operation::kListMultipart:
      return "list the uploads of";
  }
  return "ask for";
}

// An XML answer with this root; the document is empty if there is none.
pugi::xml_node Parse(pugi::xml_document& document, const std::string& xml, const char* root) {
  if (!document.load_buffer(xml.data(), xml.size())) return {};
  return document.child(root);
}

struct S3Error {
  std::string code;
  std::string message;
};
S3Error ErrorIn(const std::string& xml) {
  pugi::xml_document document;
  const pugi::xml_node error = Parse(document, xml, "Error");
  std::string message = error.child_value("Message");
  std::replace_if(
      message.begin(), message.end(), [](unsigned char c) { return c < 0x20 || c >= 0x7f; }, ' ');
  return {.code = std::string(error.child_value("Code")).substr(0, 64), .message = message.substr(0, kMaxMessageBytes)};
}

bool IsTrue(const pugi::xml_node& node) { return std::string_view(node.text().get()) == "true"; }

// Whole seconds, as HEAD tells them; 0 for what is no time.
int64_t SecondsMs(const std::string& format, const std::string& text) {
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(format, text, &time, &error)) return 0;
  return absl::ToUnixSeconds(time) * 1000;
}
int64_t HttpTimeMs(const std::string& text) { return SecondsMs("%a, %d %b %Y %H:%M:%S GMT", text); }
int64_t XmlTimeMs(const std::string& text) { return SecondsMs(absl::RFC3339_full, text); }

uint64_t NumberIn(std::string_view text) {
  uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

std::string XmlText(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace

// The part of an object that Get is after.
struct S3Client::Reading {
  uint64_t at = 0;
  uint64_t end = 0;
  const Piece& piece;
  absl::Status refused;  // by `piece`, or because there is more than was asked for
};

struct S3Client::Request {
  Operation operation = Operation::kGet;
  std::string method = "GET";
  std::string key;  // empty = the bucket
  std::map<std::string, std::string> query;
  std::vector<std::string> headers;
  const S3Body* body = nullptr;
  Reading* reading = nullptr;
  S3Patience patience = S3Patience::kFull;
};

S3Client::S3Client(S3ClientOptions options) : options_(std::move(options)), http_(options_.http) {}

std::string S3Client::What(const Request& request) const {
  return fmt::format("S3 store {}: {} {}{}{}", options_.endpoint, OperationName(request.operation), options_.bucket,
                     request.key.empty() ? "" : "/", request.key);
}

void S3Client::NoteClock(const FetchAnswer& answer) {
  const int64_t theirs = HttpTimeMs(answer.Field("date"));
  if (theirs == 0) return;
  const int64_t offset = options_.now_ms() - theirs;
  const int64_t known = clock_offset_ms_.load();
  if (std::max(offset, known) - std::min(offset, known) > kSameClockMs) clock_offset_ms_ = offset;
}

absl::Status S3Client::ErrorOf(const Request& request, int status, std::string_view code,
                               std::string_view message) const {
  const std::string said = fmt::format("{} is answered by {}{}{}{}{}", What(request), status, code.empty() ? "" : " ",
                                       code, message.empty() ? "" : ": ", message);
  if (status == 401 || IsCredentialsCode(code)) {
    return FailedPrecondition("S3_CREDENTIALS", "{}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, region {}",
                              said, options_.key.region);
  }
  if (code == "NoSuchBucket" || code == "PermanentRedirect" || status == 301 || status == 307) {
    return FailedPrecondition("S3_BUCKET", "{}; is there a bucket {} in region {}?", said, options_.bucket,
                              options_.key.region);
  }
  if (status == 507 || IsFullCode(code)) return ResourceExhausted("DISK_FULL", "{}", said);
  if (status == 403) return FailedPrecondition("S3_DENIED", "{}; the key may not do this", said);
  if (status == 404) return NotFound(code == "NoSuchUpload" ? "S3_UPLOAD" : "S3_KEY", "{}", said);
  if (status == 416) return OutOfRange("S3_RANGE", "{}", said);
  if (status == 412 || status == 409) return Aborted("S3_CHANGED", "{}", said);
  if (status == 501 || status == 405) return Unimplemented("S3_UNSUPPORTED", "{}", said);
  if (IsPassing(status, code)) return Unavailable("S3_UNAVAILABLE", "{}", said);
  return Internal("S3_PROTOCOL", "{}", said);
}

absl::Status S3Client::ClockError(const Request& request, const FetchAnswer& answer) const {
  const std::string date = answer.Field("date");
  const int64_t here_ms = SystemNowMs();
  const int64_t there_ms = HttpTimeMs(date);
  const std::string here =
      absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::FromUnixMillis(here_ms), absl::UTCTimeZone());
  const std::string difference =
      there_ms == 0 ? "" : fmt::format(", {} seconds apart", std::abs(here_ms - there_ms) / 1000);
  return FailedPrecondition(
      "S3_CREDENTIALS",
      "{} is answered by {} RequestTimeTooSkewed: this machine's clock says {}, the store's {}{}; "
      "{} minutes are allowed, so set the clock that is wrong",
      What(request), answer.status, here, date.empty() ? "does not say" : date, difference, kMaxSkewMinutes);
}

FetchRequest S3Client::FetchRequestOf(const Request& request) const {
  FetchRequest fetch;
  fetch.url = S3Url(options_.endpoint, options_.bucket, request.key, request.query);
  fetch.headers = request.headers;
  if (request.reading != nullptr) {
    fetch.headers.push_back(fmt::format("Range: bytes={}-{}", request.reading->at, request.reading->end - 1));
  }
  fetch.signing = &options_.key;
  fetch.what = What(request);
  fetch.method = request.method;
  if (request.patience == S3Patience::kOnce && request.method == "HEAD") fetch.stall_ms = kOnceStallMs;
  if (request.body != nullptr) {
    fetch.body = request.body->bytes;
    fetch.body_sha256 = request.body->sha256;
  }
  return fetch;
}

absl::Status S3Client::Judge(const Request& request, const FetchAnswer& answer, bool& may_pass) const {
  const bool success = answer.status >= 200 && answer.status <= 299;
  // Completing an upload and copying begin their answer before they know how it ends: 200 may be an error, too.
  if (success && answer.body.find("<Error>") == std::string::npos) {
    if (request.reading == nullptr || request.reading->at == request.reading->end) return absl::OkStatus();
    const std::string range = answer.Field("content-range");  // "bytes 0-9/100"
    const size_t slash = range.find('/');
    if (slash != std::string::npos && NumberIn(range.substr(slash + 1)) < request.reading->end) {
      return OutOfRange("S3_RANGE", "{}: the object has {} bytes, {} were asked for", What(request),
                        range.substr(slash + 1), request.reading->end);
    }
    may_pass = true;
    return Unavailable("S3_UNAVAILABLE", "{}: the answer ended at byte {} of {}", What(request), request.reading->at,
                       request.reading->end);
  }
  const S3Error error = ErrorIn(answer.body);
  if (error.code == "RequestTimeTooSkewed") return ClockError(request, answer);
  const int status = success ? 500 : answer.status;
  may_pass = IsPassing(status, error.code);
  return ErrorOf(request, status, error.code, error.message);
}

absl::StatusOr<FetchAnswer> S3Client::Attempts(const Request& request, Backoff& backoff,
                                               StoreObserver::BlobRequest& told) {
  Reading* const reading = request.reading;
  Piece piece;
  if (reading != nullptr) {
    piece = [&](std::span<const std::byte> bytes) {
      told.bytes_received += bytes.size();
      if (bytes.size() > reading->end - reading->at) {
        reading->refused =
            Internal("S3_PROTOCOL", "{}: the server sends more than the range that it was asked for", What(request));
      } else {
        reading->refused = reading->piece(bytes);
      }
      if (!reading->refused.ok()) return reading->refused;
      reading->at += bytes.size();
      backoff.Reset();
      return absl::OkStatus();
    };
  }
  for (int attempts = 1;; ++attempts) {
    const absl::StatusOr<FetchAnswer> answer = http_.Send(FetchRequestOf(request), kMaxAnswerBytes, piece);
    if (reading != nullptr && !reading->refused.ok()) return reading->refused;
    if (request.body != nullptr) told.bytes_sent += request.body->bytes.size();
    absl::Status status;
    bool may_pass = false;
    int64_t wait_ms = 0;
    if (answer.ok()) {
      NoteClock(*answer);
      if (reading == nullptr) told.bytes_received += answer->body.size();
      status = Judge(request, *answer, may_pass);
      if (status.ok()) return answer;
      wait_ms = RetryAfterMs(*answer);
    } else if (absl::IsUnavailable(answer.status())) {
      status = Unavailable("S3_UNAVAILABLE", "{}", MessageOf(answer.status()));
      may_pass = true;
    } else if (ReasonOf(answer.status()) == "HTTP_SETUP") {
      status = FailedPrecondition("S3_ENDPOINT", "{}", MessageOf(answer.status()));
    } else {
      status = Internal("S3_PROTOCOL", "{}", MessageOf(answer.status()));
    }
    if (!may_pass) return status;
    if (!backoff.Next(wait_ms, {})) return Annotate(status, fmt::format("after {} attempts", attempts));
  }
}

absl::StatusOr<FetchAnswer> S3Client::Call(const Request& request) {
  StoreObserver::BlobRequest told;
  told.operation = request.operation;
  const auto begin = std::chrono::steady_clock::now();
  const int attempts = request.patience == S3Patience::kOnce ? 1 : options_.http.attempts;
  Backoff backoff(attempts, options_.http.first_pause_ms, options_.http.max_pause_ms);
  absl::StatusOr<FetchAnswer> answer = Attempts(request, backoff, told);
  told.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  told.retries = backoff.retries();
  told.code = answer.status().code();
  options_.observer->OnBlobRequest(told);
  return answer;
}

// --- Buckets and objects ---

absl::Status S3Client::CheckBucket(S3Patience patience) {
  Request request;
  request.patience = patience;
  request.operation = Operation::kList;
  request.query = {{"list-type", "2"}, {"max-keys", "1"}};
  ASSIGN_OR_RETURN(const FetchAnswer answer, Call(request));
  pugi::xml_document document;
  if (Parse(document, answer.body, "ListBucketResult")) return absl::OkStatus();
  return FailedPrecondition("S3_ENDPOINT", "{}: the answer is no list of objects; is there an S3 server at {}?",
                            What(request), options_.endpoint);
}

absl::Status S3Client::CreateBucket() {
  Request request;
  request.operation = Operation::kPut;
  request.method = "PUT";
  const absl::Status status = Call(request).status();
  return ReasonOf(status) == "S3_CHANGED" ? absl::OkStatus() : status;  // 409: it is there
}

absl::StatusOr<S3Object> S3Client::Head(const std::string& key, S3Patience patience) {
  Request request;
  request.patience = patience;
  request.operation = Operation::kHead;
  request.method = "HEAD";
  request.key = key;
  const absl::StatusOr<FetchAnswer> answer = Call(request);
  // A HEAD is answered without the reason; a list tells it.
  if (absl::IsFailedPrecondition(answer.status()) || absl::IsInternal(answer.status())) {
    RETURN_IF_ERROR(CheckBucket(patience));
  }
  RETURN_IF_ERROR(answer.status());
  return S3Object{.key = key,
                  .size = NumberIn(answer->Field("content-length")),
                  .etag = answer->Field("etag"),
                  .modified_ms = OurTime(HttpTimeMs(answer->Field("last-modified"))),
                  .sha256 = answer->Field(kShaField)};
}

absl::Status S3Client::Get(const std::string& key, uint64_t offset, uint64_t size, const Piece& piece) {
  Reading reading{.at = offset, .end = offset + size, .piece = piece, .refused = absl::OkStatus()};
  Request request;
  request.key = key;
  request.reading = &reading;
  return Call(request).status();
}

absl::StatusOr<std::string> S3Client::PutOnce(const std::string& key, const S3Body& body, bool conditional) {
  Request request;
  request.operation = Operation::kPut;
  request.method = "PUT";
  request.key = key;
  request.headers = {"content-type: application/octet-stream", fmt::format("{}: {}", kShaField, body.sha256)};
  if (conditional) request.headers.push_back("If-None-Match: *");
  request.body = &body;
  ASSIGN_OR_RETURN(const FetchAnswer answer, Call(request));
  return answer.Field("etag");
}

absl::StatusOr<std::string> S3Client::Adopt(const std::string& key, const S3Body& body) {
  ASSIGN_OR_RETURN(S3Object object, Head(key));
  if (object.sha256 == body.sha256 && object.size == body.bytes.size()) return std::move(object.etag);
  return AlreadyExists("S3_EXISTS", "S3 store {}: {}/{} is there already, with other bytes", options_.endpoint,
                       options_.bucket, key);
}

absl::StatusOr<std::string> S3Client::Put(const std::string& key, const S3Body& body, bool only_new) {
  if (!only_new) return PutOnce(key, body, false);
  const Conditions known = conditions_.load();
  if (known != Conditions::kKnown) {
    const absl::StatusOr<std::string> there = Adopt(key, body);
    if (!absl::IsNotFound(there.status())) return there;
  }
  absl::StatusOr<std::string> etag = PutOnce(key, body, known != Conditions::kIgnored);
  if (absl::IsAborted(etag.status())) return Adopt(key, body);
  if (absl::IsUnimplemented(etag.status())) {
    conditions_ = Conditions::kIgnored;
    return PutOnce(key, body, false);
  }
  RETURN_IF_ERROR(etag.status());
  if (known == Conditions::kUnknown) {
    // The same bytes once more: a server that knows conditions refuses them, for any other nothing changes.
    const absl::Status again = PutOnce(key, body, true).status();
    if (absl::IsAborted(again)) conditions_ = Conditions::kKnown;
    if (again.ok()) conditions_ = Conditions::kIgnored;
  }
  return etag;
}

absl::Status S3Client::Delete(const std::string& key, S3Patience patience) {
  Request request;
  request.patience = patience;
  request.operation = Operation::kDelete;
  request.method = "DELETE";
  request.key = key;
  const absl::Status status = Call(request).status();
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::Status S3Client::List(const std::string& prefix, absl::FunctionRef<void(S3Object)> on_object) {
  Request request;
  request.operation = Operation::kList;
  request.query = {{"list-type", "2"}, {"max-keys", fmt::to_string(options_.page_size)}, {"prefix", prefix}};
  for (;;) {
    ASSIGN_OR_RETURN(const FetchAnswer answer, Call(request));
    pugi::xml_document document;
    const pugi::xml_node list = Parse(document, answer.body, "ListBucketResult");
    if (!list) return Internal("S3_PROTOCOL", "{}: the answer is no list of objects", What(request));
    for (const pugi::xml_node& node : list.children("Contents")) {
      const std::string key = node.child_value("Key");
      if (!key.starts_with(prefix)) continue;
      on_object({.key = key,
                 .size = NumberIn(node.child_value("Size")),
                 .etag = node.child_value("ETag"),
                 .modified_ms = OurTime(XmlTimeMs(node.child_value("LastModified"))),
                 .sha256 = ""});
    }
    if (!IsTrue(list.child("IsTruncated"))) return absl::OkStatus();
    std::string token = list.child_value("NextContinuationToken");
    if (token.empty() || token == request.query["continuation-token"]) {
      return Internal("S3_PROTOCOL", "{}: the list goes on, but does not say where", What(request));
    }
    request.query["continuation-token"] = std::move(token);
  }
}

// --- Multipart uploads ---

absl::StatusOr<std::string> S3Client::BeginUpload(const std::string& key) {
  Request request;
  request.operation = Operation::kCreateMultipart;
  request.method = "POST";
  request.key = key;
  request.query = {{"uploads", ""}};
  ASSIGN_OR_RETURN(const FetchAnswer answer, Call(request));
  pugi::xml_document document;
  std::string id = Parse(document, answer.body, "InitiateMultipartUploadResult").child_value("UploadId");
  if (id.empty()) return Internal("S3_PROTOCOL", "{}: the answer names no upload", What(request));
  return id;
}

absl::StatusOr<S3Part> S3Client::UploadPart(const std::string& key, const std::string& upload, int number,
                                            const S3Body& body) {
  Request request;
  request.operation = Operation::kUploadPart;
  request.method = "PUT";
  request.key = key;
  request.query = {{"partNumber", fmt::to_string(number)}, {"uploadId", upload}};
  request.body = &body;
  ASSIGN_OR_RETURN(const FetchAnswer answer, Call(request));
  return S3Part{.number = number, .etag = answer.Field("etag")};
}

absl::StatusOr<S3Part> S3Client::CopyPart(const std::string& key, const std::string& upload, int number,
                                          const std::string& source) {
  Request request;
  request.operation = Operation::kCopy;
  request.method = "PUT";
  request.key = key;
  request.query = {{"partNumber", fmt::to_string(number)}, {"uploadId", upload}};
  request.headers = {fmt::format("x-amz-copy-source: /{}/{}", options_.bucket, EncodeForUrl(source, true))};
  ASSIGN_OR_RETURN(const FetchAnswer answer, Call(request));
  pugi::xml_document document;
  S3Part part{.number = number, .etag = Parse(document, answer.body, "CopyPartResult").child_value("ETag")};
  if (part.etag.empty()) return Unimplemented("S3_UNSUPPORTED", "{}: the answer names no part", What(request));
  return part;
}

absl::Status S3Client::CompleteUpload(const std::string& key, const std::string& upload,
                                      const std::vector<S3Part>& parts, uint64_t size) {
  std::string xml = "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
  for (const S3Part& part : parts) {
    xml += fmt::format("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", part.number, XmlText(part.etag));
  }
  xml += "</CompleteMultipartUpload>";
  const S3Body body = S3BodyOf(xml);
  Request request;
  request.operation = Operation::kCompleteMultipart;
  request.method = "POST";
  request.key = key;
  request.query = {{"uploadId", upload}};
  request.body = &body;
  const absl::Status completed = Call(request).status();
  // The upload is gone if an attempt whose answer was lost has completed it.
  if (!completed.ok() && !absl::IsNotFound(completed)) return completed;
  const absl::StatusOr<S3Object> object = Head(key);
  if (absl::IsNotFound(object.status()) && !completed.ok()) return completed;
  RETURN_IF_ERROR(object.status());
  if (object->size == size) return absl::OkStatus();
  return DataLoss("S3_SIZE", "{}: the object has {} bytes instead of {}", What(request), object->size, size);
}

absl::Status S3Client::AbortUpload(const std::string& key, const std::string& upload) {
  Request request;
  request.operation = Operation::kAbortMultipart;
  request.method = "DELETE";
  request.key = key;
  request.query = {{"uploadId", upload}};
  const absl::Status status = Call(request).status();
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::StatusOr<std::vector<S3Upload>> S3Client::ListUploads(const std::string& prefix) {
  Request request;
  request.operation = Operation::kListMultipart;
  request.query = {{"max-uploads", fmt::to_string(options_.page_size)}, {"prefix", prefix}, {"uploads", ""}};
  std::vector<S3Upload> uploads;
  for (;;) {
    ASSIGN_OR_RETURN(const FetchAnswer answer, Call(request));
    pugi::xml_document document;
    const pugi::xml_node list = Parse(document, answer.body, "ListMultipartUploadsResult");
    if (!list) return Internal("S3_PROTOCOL", "{}: the answer is no list of uploads", What(request));
    for (const pugi::xml_node& node : list.children("Upload")) {
      S3Upload upload{.key = node.child_value("Key"),
                      .id = node.child_value("UploadId"),
                      .begun_ms = OurTime(XmlTimeMs(node.child_value("Initiated")))};
      if (upload.key.starts_with(prefix)) uploads.push_back(std::move(upload));
    }
    std::string key = list.child_value("NextKeyMarker");
    std::string id = list.child_value("NextUploadIdMarker");
    const bool same = key == request.query["key-marker"] && id == request.query["upload-id-marker"];
    if (!IsTrue(list.child("IsTruncated")) || key.empty() || same) return uploads;
    request.query["key-marker"] = std::move(key);
    request.query["upload-id-marker"] = std::move(id);
  }
}

// --- Bodies ---

S3Body S3BodyOf(std::string_view bytes) {
  return {.bytes = {.bytes = std::as_bytes(std::span(bytes.data(), bytes.size()))}, .sha256 = Sha256Hex(bytes)};
}

absl::StatusOr<S3Body> S3BodyOfFile(int fd, uint64_t offset, uint64_t size, const std::string& path) {
  Sha256 digest;
  std::vector<std::byte> buffer(static_cast<size_t>(std::min<uint64_t>(size, uint64_t{1} << 20)));
  for (uint64_t done = 0; done < size;) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(buffer.size(), size - done));
    const ssize_t got = ::pread(fd, buffer.data(), n, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus("read", path);
    if (got == 0) return DataLoss("FILE_TRUNCATED", "{} ends at byte {} of {}", path, offset + done, offset + size);
    digest.Update(std::span(buffer).first(static_cast<size_t>(got)));
    done += static_cast<uint64_t>(got);
  }
  return S3Body{.bytes = {.bytes = {}, .fd = fd, .offset = offset, .file_bytes = size}, .sha256 = digest.Finish()};
}

}  // namespace qamserve
