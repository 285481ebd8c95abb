#include "server/fetch/http_client.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

namespace qamserve {
namespace {

// SHA-256 of nothing: the body of a GET. Sent by ourselves, since libcurl 7.88 signs wrongly without it.
constexpr char kEmptyBodyHeader[] =
    "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr long kMaxRedirects = 5;

struct CurlDeleter {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using Curl = std::unique_ptr<CURL, CurlDeleter>;
using HeaderList = std::unique_ptr<curl_slist, CurlDeleter>;

// What one attempt meets.
struct Attempt {
  const FetchRequest* request = nullptr;
  std::function<absl::Status(long status, std::span<const std::byte>)> take;
  CURL* curl = nullptr;
  std::map<std::string, std::string> fields;
  absl::Status refused;  // by `take`
};

size_t OnBody(char* data, size_t, size_t bytes, void* user) {
  auto& attempt = *static_cast<Attempt*>(user);
  long status = 0;
  curl_easy_getinfo(attempt.curl, CURLINFO_RESPONSE_CODE, &status);
  if (status < 200 || status > 299) return bytes;  // an error page
  attempt.refused = attempt.take(status, std::as_bytes(std::span(data, bytes)));
  return attempt.refused.ok() ? bytes : CURL_WRITEFUNC_ERROR;
}

size_t OnHeader(char* data, size_t, size_t bytes, void* user) {
  auto& attempt = *static_cast<Attempt*>(user);
  const std::string_view line(data, bytes);
  if (line.starts_with("HTTP/")) attempt.fields.clear();  // the answer after a redirect
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return bytes;
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.front())) != 0) value.remove_prefix(1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.back())) != 0) value.remove_suffix(1);
  attempt.fields[std::move(name)] = std::string(value);
  return bytes;
}

int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto& request = *static_cast<Attempt*>(user)->request;
  return request.cancelled && request.cancelled() ? 1 : 0;
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
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(std::max<int64_t>(1, options.stall_ms / 1000)));
  if (!options.ca_file.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, options.ca_file.c_str());
  if (offset > 0) curl_easy_setopt(curl, CURLOPT_RANGE, fmt::format("{}-", offset).c_str());
  if (request.signing != nullptr) {
    const SigningKey& key = *request.signing;
    add(kEmptyBodyHeader);
    if (!key.session_token.empty()) add(fmt::format("x-amz-security-token: {}", key.session_token).c_str());
    curl_easy_setopt(curl, CURLOPT_AWS_SIGV4, fmt::format("aws:amz:{}:s3", key.region).c_str());
    curl_easy_setopt(curl, CURLOPT_USERPWD, fmt::format("{}:{}", key.access_key, key.secret_key).c_str());
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

struct Outcome {
  absl::Status status;
  bool may_pass = false;  // worth another attempt
  int64_t wait_ms = 0;    // that the other side asked for
};

Outcome OutcomeOfStatus(const FetchRequest& request, long status, const Attempt& attempt) {
  if (status >= 200 && status <= 299) return {};
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
  const auto after = attempt.fields.find("retry-after");
  int64_t seconds = 0;
  if (after != attempt.fields.end() &&
      std::from_chars(after->second.data(), after->second.data() + after->second.size(), seconds).ec == std::errc()) {
    outcome.wait_ms = std::clamp<int64_t>(seconds, 0, 3600) * 1000;
  }
  return outcome;
}

// One attempt at the bytes from `offset`.
Outcome Try(const HttpClientOptions& options, Attempt& attempt, uint64_t offset) {
  const FetchRequest& request = *attempt.request;
  const Curl curl(curl_easy_init());
  if (curl == nullptr) return {.status = Internal("IMPORT_SOURCE", "libcurl does not start")};
  attempt.curl = curl.get();
  HeaderList headers;
  SetUp(curl.get(), options, attempt, offset, headers);
  const CURLcode code = curl_easy_perform(curl.get());
  if (!attempt.refused.ok()) return {.status = attempt.refused};
  if (code == CURLE_ABORTED_BY_CALLBACK) {
    return {.status = Cancelled("CANCELLED", "{}: nobody waits for it any more", request.what)};
  }
  long status = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  if (code == CURLE_OK) return OutcomeOfStatus(request, status, attempt);
  return {.status = Unavailable("IMPORT_SOURCE", "{}: {}", request.what, curl_easy_strerror(code)),
          .may_pass = code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_URL_MALFORMAT &&
                      code != CURLE_PEER_FAILED_VERIFICATION && code != CURLE_SSL_CACERT_BADFILE &&
                      code != CURLE_TOO_MANY_REDIRECTS};
}

// Sleeps in small steps; false if cancelled.
bool Pause(const FetchRequest& request, int64_t ms) {
  constexpr int64_t kStepMs = 100;
  for (int64_t slept = 0; slept < ms; slept += kStepMs) {
    if (request.cancelled && request.cancelled()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(std::min(kStepMs, ms - slept)));
  }
  return true;
}

// Counts attempts that brought nothing new.
class Attempts {
 public:
  explicit Attempts(const HttpClientOptions& options) : options_(options), pause_ms_(options.first_pause_ms) {}
  // Whether there is another attempt; has waited for it then.
  bool Next(const FetchRequest& request, const Outcome& outcome) {
    if (!outcome.may_pass || ++failed_ >= options_.attempts) return false;
    const int64_t ms = std::min(std::max(pause_ms_, outcome.wait_ms), options_.max_pause_ms);
    pause_ms_ = std::min(2 * pause_ms_, options_.max_pause_ms);
    return Pause(request, ms);
  }
  void Progressed() {
    failed_ = 0;
    pause_ms_ = options_.first_pause_ms;
  }

 private:
  const HttpClientOptions& options_;
  int failed_ = 0;
  int64_t pause_ms_;
};

}  // namespace

absl::StatusOr<FetchAnswer> HttpClient::Get(const FetchRequest& request, size_t max_bytes) const {
  Attempts attempts(options_);
  while (true) {
    FetchAnswer answer;
    Attempt attempt;
    attempt.request = &request;
    attempt.take = [&](long, std::span<const std::byte> bytes) -> absl::Status {
      if (answer.body.size() + bytes.size() > max_bytes) {
        return ResourceExhausted("IMPORT_SIZE", "{}: the answer has more than {} bytes", request.what, max_bytes);
      }
      answer.body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return absl::OkStatus();
    };
    const Outcome outcome = Try(options_, attempt, 0);
    if (outcome.status.ok()) {
      answer.fields = std::move(attempt.fields);
      return answer;
    }
    if (!attempts.Next(request, outcome)) return outcome.status;
  }
}

absl::Status HttpClient::GetFrom(const FetchRequest& request, uint64_t offset, uint64_t size,
                                 const Piece& piece) const {
  Attempts attempts(options_);
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
      attempts.Progressed();
      return absl::OkStatus();
    };
    Outcome outcome = Try(options_, attempt, have);
    if (outcome.status.ok() && have < size) {
      outcome = {
          .status = Unavailable("IMPORT_SOURCE", "{}: the source ended after {} of {} bytes", request.what, have, size),
          .may_pass = true};
    }
    if (!outcome.status.ok() && !attempts.Next(request, outcome)) return outcome.status;
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
