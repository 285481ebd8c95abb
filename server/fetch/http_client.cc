#include "server/fetch/http_client.h"

#include <curl/curl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

namespace qamserve {
namespace {

// SHA-256 of nothing: the body of a GET. Sent by ourselves, since libcurl 7.88 signs wrongly without it.
constexpr char kEmptyBodySha256[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr long kMaxRedirects = 5;
// A server that wants to see a large body's head first says so at once; one that does not know that gets the body then.
constexpr long kExpectContinueMs = 500;
// Handles that are kept: as many requests as one caller ever has under way at once, a few times over.
constexpr size_t kKeptHandles = 32;

struct CurlDeleter {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using Curl = std::unique_ptr<CURL, CurlDeleter>;
using HeaderList = std::unique_ptr<curl_slist, CurlDeleter>;

// What one attempt meets.
struct Attempt {
  const FetchRequest* request = nullptr;
  std::function<absl::Status(long status, std::span<const std::byte>)> take;  // of a 2xx answer's body
  size_t max_other_bytes = 0;                                                 // kept of any other body
  CURL* curl = nullptr;
  FetchAnswer answer;
  absl::Status refused;  // by `take`
  uint64_t sent = 0;     // of the request's body
};

bool IsSuccess(long status) { return status >= 200 && status <= 299; }

size_t OnBody(char* data, size_t, size_t bytes, void* user) {
  auto& attempt = *static_cast<Attempt*>(user);
  long status = 0;
  curl_easy_getinfo(attempt.curl, CURLINFO_RESPONSE_CODE, &status);
  if (!IsSuccess(status)) {
    std::string& body = attempt.answer.body;
    body.append(data, std::min(bytes, attempt.max_other_bytes - std::min(attempt.max_other_bytes, body.size())));
    return bytes;
  }
  attempt.refused = attempt.take(status, std::as_bytes(std::span(data, bytes)));
  return attempt.refused.ok() ? bytes : CURL_WRITEFUNC_ERROR;
}

size_t OnHeader(char* data, size_t, size_t bytes, void* user) {
  auto& attempt = *static_cast<Attempt*>(user);
  const std::string_view line(data, bytes);
  if (line.starts_with("HTTP/")) attempt.answer.fields.clear();  // the answer after a redirect, or after "100 Continue"
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return bytes;
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.front())) != 0) value.remove_prefix(1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.back())) != 0) value.remove_suffix(1);
  attempt.answer.fields[std::move(name)] = std::string(value);
  return bytes;
}

size_t OnSend(char* out, size_t, size_t bytes, void* user) {
  auto& attempt = *static_cast<Attempt*>(user);
  const HttpBody& body = attempt.request->body;
  const size_t n = static_cast<size_t>(std::min<uint64_t>(bytes, body.size() - attempt.sent));
  if (n == 0) return 0;
  if (body.fd < 0) {
    std::memcpy(out, body.bytes.data() + attempt.sent, n);
    attempt.sent += n;
    return n;
  }
  ssize_t got = 0;
  do {
    got = ::pread(body.fd, out, n, static_cast<off_t>(body.offset + attempt.sent));
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return CURL_READFUNC_ABORT;
  attempt.sent += static_cast<uint64_t>(got);
  return static_cast<size_t>(got);
}

// libcurl sends a body anew if a connection that it had kept turns out to be dead.
int OnRewind(void* user, curl_off_t offset, int origin) {
  auto& attempt = *static_cast<Attempt*>(user);
  if (origin != SEEK_SET || offset < 0 || static_cast<uint64_t>(offset) > attempt.request->body.size()) {
    return CURL_SEEKFUNC_FAIL;
  }
  attempt.sent = static_cast<uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto& request = *static_cast<Attempt*>(user)->request;
  return request.cancelled && request.cancelled() ? 1 : 0;
}

void SetMethod(CURL* curl, Attempt& attempt) {
  const FetchRequest& request = *attempt.request;
  if (request.method == "HEAD") {
    curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  } else if (request.method == "PUT" || request.method == "POST") {
    // UPLOAD with the method's name: unlike POST, it adds no header of its own that a signature would have to know.
    curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request.method.c_str());
    curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    curl_easy_setopt(curl, CURLOPT_READFUNCTION, OnSend);
    curl_easy_setopt(curl, CURLOPT_READDATA, &attempt);
    curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, OnRewind);
    curl_easy_setopt(curl, CURLOPT_SEEKDATA, &attempt);
    curl_easy_setopt(curl, CURLOPT_EXPECT_100_TIMEOUT_MS, kExpectContinueMs);
  } else if (request.method != "GET") {
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }
}

void SetUp(CURL* curl, const HttpClientOptions& options, Attempt& attempt, uint64_t offset, HeaderList& headers) {
  const FetchRequest& request = *attempt.request;
  const auto add = [&](const char* line) { headers.reset(curl_slist_append(headers.release(), line)); };
  for (const std::string& line : request.headers) add(line.c_str());
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  // What was asked for over TLS is not fetched without.
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, request.url.starts_with("https:") ? "https" : "http,https");
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_ms));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  const int64_t stall_ms = request.stall_ms > 0 ? request.stall_ms : options.stall_ms;
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(std::max<int64_t>(1, stall_ms / 1000)));
  if (!options.ca_file.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, options.ca_file.c_str());
  if (offset > 0) curl_easy_setopt(curl, CURLOPT_RANGE, fmt::format("{}-", offset).c_str());
  SetMethod(curl, attempt);
  if (request.signing != nullptr) {
    const SigningKey& key = *request.signing;
    const bool empty = request.body.size() == 0;
    add(fmt::format("x-amz-content-sha256: {}", empty ? kEmptyBodySha256 : request.body_sha256).c_str());
    if (!key.session_token.empty()) add(fmt::format("x-amz-security-token: {}", key.session_token).c_str());
    curl_easy_setopt(curl, CURLOPT_AWS_SIGV4, fmt::format("aws:amz:{}:s3", key.region).c_str());
    // Apart, since either may have a colon in it.
    curl_easy_setopt(curl, CURLOPT_USERNAME, key.access_key.c_str());
    curl_easy_setopt(curl, CURLOPT_PASSWORD, key.secret_key.c_str());
    // Many requests at once share no connection, so that one that stalls holds up itself alone.
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  } else {
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, kMaxRedirects);
  }
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &attempt);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, OnHeader);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &attempt);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, OnProgress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &attempt);
}

// Whether the same request may find an answer later.
bool MayPass(CURLcode code) {
  return code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_URL_MALFORMAT && code != CURLE_PEER_FAILED_VERIFICATION &&
         code != CURLE_SSL_CACERT_BADFILE && code != CURLE_TOO_MANY_REDIRECTS;
}

struct Outcome {
  absl::Status status;
  bool may_pass = false;  // worth another attempt
  int64_t wait_ms = 0;    // that the other side asked for
};

Outcome OutcomeOfStatus(const FetchRequest& request, const FetchAnswer& answer) {
  const int status = answer.status;
  if (IsSuccess(status)) return {};
  Outcome outcome;
  if (status == 401 || status == 403) {
    outcome.status = MakeError(
        absl::StatusCode::kPermissionDenied, "IMPORT_DENIED",
        fmt::format("{}: the source answers {}; does it want a token or key, or another one?", request.what, status));
  } else if (status == 404) {
    outcome.status = NotFound("IMPORT_NOT_FOUND", "{}: the source does not have it (404)", request.what);
  } else if (status == 412) {
    outcome.status = Aborted("IMPORT_CHANGED", "{}: the source has another version by now; try again", request.what);
  } else {
    outcome.status = Unavailable("IMPORT_SOURCE", "{}: the source answers {}", request.what, status);
    outcome.may_pass = status == 408 || status == 429 || status >= 500;
  }
  outcome.wait_ms = RetryAfterMs(answer);
  return outcome;
}

// Sleeps in small steps; false if cancelled.
bool Pause(int64_t ms, const std::function<bool()>& cancelled) {
  constexpr int64_t kStepMs = 100;
  for (int64_t slept = 0; slept < ms; slept += kStepMs) {
    if (cancelled && cancelled()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(std::min(kStepMs, ms - slept)));
  }
  return !(cancelled && cancelled());
}

}  // namespace

class HttpClient::Handles {
 public:
  Curl Take() {
    {
      const std::lock_guard lock(mutex_);
      if (!kept_.empty()) {
        Curl curl = std::move(kept_.back());
        kept_.pop_back();
        return curl;
      }
    }
    return Curl(curl_easy_init());
  }
  // Of one whose last attempt went well.
  void Keep(Curl curl) {
    curl_easy_reset(curl.get());
    const std::lock_guard lock(mutex_);
    if (kept_.size() < kKeptHandles) kept_.push_back(std::move(curl));
  }

  // One attempt at the bytes from `offset`. FAILED_PRECONDITION if there is no point in another one.
  absl::Status Try(const HttpClientOptions& options, Attempt& attempt, uint64_t offset) {
    const FetchRequest& request = *attempt.request;
    Curl curl = Take();
    if (curl == nullptr) return Internal("HTTP_SETUP", "libcurl does not start");
    attempt.curl = curl.get();
    HeaderList headers;
    SetUp(curl.get(), options, attempt, offset, headers);
    const CURLcode code = curl_easy_perform(curl.get());
    if (!attempt.refused.ok()) return attempt.refused;
    if (code == CURLE_ABORTED_BY_CALLBACK) {
      if (request.cancelled && request.cancelled()) {
        return Cancelled("CANCELLED", "{}: nobody waits for it any more", request.what);
      }
      return Unavailable("HTTP_CONNECTION", "{}: the bytes to send could not be read", request.what);
    }
    long status = 0;
    curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
    attempt.answer.status = static_cast<int>(status);
    if (code == CURLE_OK) {
      Keep(std::move(curl));
      return absl::OkStatus();
    }
    if (MayPass(code)) return Unavailable("HTTP_CONNECTION", "{}: {}", request.what, curl_easy_strerror(code));
    return FailedPrecondition("HTTP_SETUP", "{}: {}", request.what, curl_easy_strerror(code));
  }

  // The same as imports see it.
  Outcome TryImport(const HttpClientOptions& options, Attempt& attempt, uint64_t offset) {
    const absl::Status tried = Try(options, attempt, offset);
    if (tried.ok()) return OutcomeOfStatus(*attempt.request, attempt.answer);
    if (!attempt.refused.ok() || absl::IsCancelled(tried)) return {.status = tried};
    return {.status = Unavailable("IMPORT_SOURCE", "{}", MessageOf(tried)), .may_pass = absl::IsUnavailable(tried)};
  }

 private:
  std::mutex mutex_;
  std::vector<Curl> kept_;
};

HttpClient::HttpClient(HttpClientOptions options)
    : options_(std::move(options)), handles_(std::make_unique<Handles>()) {}
HttpClient::~HttpClient() = default;

bool Backoff::Next(int64_t least_ms, const std::function<bool()>& cancelled) {
  if (++failed_ >= attempts_) return false;
  std::random_device random;
  const auto part = static_cast<int64_t>(random()) % (pause_ms_ + 1);
  pause_ms_ = std::min(2 * pause_ms_, max_pause_ms_);
  if (!Pause(std::max(part, std::min(least_ms, max_pause_ms_)), cancelled)) return false;
  ++retries_;
  return true;
}

void Backoff::Reset() {
  failed_ = 0;
  pause_ms_ = first_pause_ms_;
}

std::string FetchAnswer::Field(const std::string& name) const {
  const auto found = fields.find(name);
  return found == fields.end() ? std::string() : found->second;
}

int64_t RetryAfterMs(const FetchAnswer& answer) {
  const std::string after = answer.Field("retry-after");
  int64_t seconds = 0;
  if (std::from_chars(after.data(), after.data() + after.size(), seconds).ec != std::errc()) return 0;
  return std::clamp<int64_t>(seconds, 0, 3600) * 1000;
}

absl::StatusOr<FetchAnswer> HttpClient::Send(const FetchRequest& request, size_t max_bytes, const Piece& piece) const {
  Attempt attempt;
  attempt.request = &request;
  attempt.max_other_bytes = max_bytes;
  attempt.take = [&](long, std::span<const std::byte> bytes) -> absl::Status {
    if (piece) return piece(bytes);
    std::string& body = attempt.answer.body;
    if (body.size() + bytes.size() > max_bytes) {
      return ResourceExhausted("IMPORT_SIZE", "{}: the answer has more than {} bytes", request.what, max_bytes);
    }
    body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(handles_->Try(options_, attempt, 0));
  return std::move(attempt.answer);
}

absl::StatusOr<FetchAnswer> HttpClient::Get(const FetchRequest& request, size_t max_bytes) const {
  Backoff backoff(options_.attempts, options_.first_pause_ms, options_.max_pause_ms);
  while (true) {
    Attempt attempt;
    attempt.request = &request;
    attempt.take = [&](long, std::span<const std::byte> bytes) -> absl::Status {
      std::string& body = attempt.answer.body;
      if (body.size() + bytes.size() > max_bytes) {
        return ResourceExhausted("IMPORT_SIZE", "{}: the answer has more than {} bytes", request.what, max_bytes);
      }
      body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return absl::OkStatus();
    };
    const Outcome outcome = handles_->TryImport(options_, attempt, 0);
    if (outcome.status.ok()) return std::move(attempt.answer);
    if (!outcome.may_pass || !backoff.Next(outcome.wait_ms, request.cancelled)) return outcome.status;
  }
}

absl::Status HttpClient::GetFrom(const FetchRequest& request, uint64_t offset, uint64_t size,
                                 const Piece& piece) const {
  Backoff backoff(options_.attempts, options_.first_pause_ms, options_.max_pause_ms);
  uint64_t have = offset;
  while (have < size) {
    uint64_t at = have;  // where the next byte of this attempt belongs
    bool first = true;
    Attempt attempt;
    attempt.request = &request;
    attempt.take = [&](long status, std::span<const std::byte> bytes) -> absl::Status {
      if (std::exchange(first, false) && status != 206) at = 0;  // ranges are not known there
      const uint64_t skip = std::min<uint64_t>(have - at, bytes.size());
      at += skip;
      bytes = bytes.subspan(skip);
      if (bytes.empty()) return absl::OkStatus();
      if (bytes.size() > size - have) {
        return DataLoss("IMPORT_SIZE", "{}: the source sends more than the {} bytes that it announced", request.what,
                        size);
      }
      RETURN_IF_ERROR(piece(bytes));
      at += bytes.size();
      have = at;
      backoff.Reset();
      return absl::OkStatus();
    };
    Outcome outcome = handles_->TryImport(options_, attempt, have);
    if (outcome.status.ok() && have < size) {
      outcome = {
          .status = Unavailable("IMPORT_SOURCE", "{}: the source ended after {} of {} bytes", request.what, have, size),
          .may_pass = true};
    }
    if (!outcome.status.ok() && (!outcome.may_pass || !backoff.Next(outcome.wait_ms, request.cancelled))) {
      return outcome.status;
    }
  }
  return absl::OkStatus();
}

std::string EncodeForUrl(std::string_view text, bool keep_slash) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (std::isalnum(byte) != 0 && byte < 0x80) || c == '-' || c == '.' || c == '_' || c == '~';
    if (plain || (keep_slash && c == '/')) {
      out.push_back(c);
    } else {
      fmt::format_to(std::back_inserter(out), "%{:02X}", byte);
    }
  }
  return out;
}

absl::StatusOr<std::string> DecodeFromUrl(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    unsigned value = 0;
    const std::string_view digits = text.substr(i + 1, 2);
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() < 2 || read.ec != std::errc() || read.ptr != digits.data() + 2) {
      return InvalidArgument("IMPORT_SOURCE_NAME", "'{}' has a '%' without two hex digits after it", text);
    }
    out.push_back(static_cast<char>(value));
    i += 2;
  }
  return out;
}

}  // namespace qamserve
