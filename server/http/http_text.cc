#include "server/http/http_text.h"

#include <absl/strings/match.h>
#include <absl/time/time.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace qamserve {
namespace {

bool SameName(std::string_view a, std::string_view b) {
  return absl::EqualsIgnoreCase(absl::string_view(a.data(), a.size()), absl::string_view(b.data(), b.size()));
}

HttpRefusal BadRequest(absl::Status error) { return {400, std::move(error)}; }

size_t CountFields(const HttpFields& fields, std::string_view name) {
  return static_cast<size_t>(
      std::count_if(fields.begin(), fields.end(), [name](const auto& field) { return SameName(field.first, name); }));
}

// "http://host/path" -> "/path": what a client sends that takes us for a proxy, and what servers must accept.
std::string_view WithoutAuthority(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (target.size() < scheme.size() || !SameName(target.substr(0, scheme.size()), scheme)) continue;
    const size_t path = target.find_first_of("/?", scheme.size());
    return path == std::string_view::npos ? "/" : target.substr(path);
  }
  return target;
}

std::optional<HttpRefusal> SplitTarget(std::string_view target, HttpRequestHead& head) {
  for (const char c : target) {
    if (c > 0x20 && c < 0x7f && c != '#') continue;
    return BadRequest(InvalidArgument(
        "HTTP_TARGET", "the request target has a byte {:#04x}; it must be percent-encoded", static_cast<uint8_t>(c)));
  }
  target = WithoutAuthority(target);
  const size_t query = target.find('?');
  head.path = target.substr(0, query);
  if (query != std::string_view::npos) head.query = target.substr(query + 1);
  if (head.path.empty()) head.path = "/";
  if (head.path.front() == '/' || (head.path == "*" && head.method == "OPTIONS")) return std::nullopt;
  return BadRequest(InvalidArgument("HTTP_TARGET", "the request target must be a path that begins with /"));
}

// Two parsers that see different bodies in one request are how requests are smuggled past a proxy: whatever could be
// read in two ways is refused (RFC 9112, section 6.3).
std::optional<HttpRefusal> CheckFraming(int version, const HttpRequestHead& head) {
  const size_t encodings = CountFields(head.fields, "Transfer-Encoding");
  if (encodings == 0) return std::nullopt;
  if (version < 11) {
    return BadRequest(InvalidArgument("HTTP_TRANSFER_ENCODING", "HTTP/1.0 has no Transfer-Encoding"));
  }
  if (encodings > 1 || CountFields(head.fields, "Content-Length") > 0) {
    return BadRequest(InvalidArgument("HTTP_TRANSFER_ENCODING",
                                      "a request has one Transfer-Encoding or one Content-Length, never both"));
  }
  const std::string_view encoding = head.field("Transfer-Encoding");
  if (SameName(encoding, "chunked")) return std::nullopt;
  return HttpRefusal{
      501, Unimplemented("HTTP_TRANSFER_ENCODING", "Transfer-Encoding \"{}\" is not known; chunked is", encoding)};
}

// Names that the framing writes.
bool IsServersBusiness(std::string_view name) {
  for (const std::string_view own : {"Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Date"}) {
    if (SameName(name, own)) return true;
  }
  return false;
}

bool IsTokenCharacter(char c) {
  const bool letter_or_digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return letter_or_digit || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool CanBeSent(std::string_view name, std::string_view value) {
  return !name.empty() && std::all_of(name.begin(), name.end(), IsTokenCharacter) &&
         std::none_of(value.begin(), value.end(),
                      [](char c) { return (c >= 0 && c < 0x20 && c != '\t') || c == 0x7f; });
}

// Of the statuses that are used; a phrase may be left out, and nobody but a reader of traces looks at it.
std::string_view PhraseOf(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 206:
      return "Partial Content";
    case 301:
      return "Moved Permanently";
    case 302:
      return "Found";
    case 303:
      return "See Other";
    case 304:
      return "Not Modified";
    case 307:
      return "Temporary Redirect";
    case 308:
      return "Permanent Redirect";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 406:
      return "Not Acceptable";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 411:
      return "Length Required";
    case 412:
      return "Precondition Failed";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 416:
      return "Range Not Satisfiable";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    case 507:
      return "Insufficient Storage";
    default:
      return "";
  }
}

}  // namespace

std::string HttpErrorBody(int status, const absl::Status& error) {
  const nlohmann::json info = {
      {"@type", "type.googleapis.com/google.rpc.ErrorInfo"}, {"reason", ReasonOf(error)}, {"domain", "qamserve"}};
  const nlohmann::json body = {{"error",
                                {{"code", status},
                                 {"status", absl::StatusCodeToString(error.code())},
                                 {"message", MessageOf(error)},
                                 {"details", nlohmann::json::array({info})}}}};
  // A message may quote what came in.
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::optional<HttpRefusal> CheckRequestHead(const HttpLimits& limits, int version, std::string_view target,
                                            HttpRequestHead& head) {
  if (target.size() > limits.target_bytes) {
    return HttpRefusal{414, InvalidArgument("HTTP_TARGET_SIZE", "the request target has {} bytes; the limit is {}",
                                            target.size(), limits.target_bytes)};
  }
  if (head.fields.size() > limits.header_count) {
    return HttpRefusal{431, InvalidArgument("HTTP_HEADER_COUNT", "the request has {} header fields; the limit is {}",
                                            head.fields.size(), limits.header_count)};
  }
  if (std::optional<HttpRefusal> refusal = SplitTarget(target, head)) return refusal;
  if (std::optional<HttpRefusal> refusal = CheckFraming(version, head)) return refusal;
  const size_t hosts = CountFields(head.fields, "Host");
  if (hosts > 1 || (hosts == 0 && version >= 11)) {
    return BadRequest(InvalidArgument("HTTP_HOST", "a request of HTTP/1.1 has one Host field; this has {}", hosts));
  }
  const std::string_view expect = head.field("Expect");
  if (!expect.empty() && !SameName(expect, "100-continue")) {
    return HttpRefusal{417, InvalidArgument("HTTP_EXPECT", "Expect \"{}\" is not known; 100-continue is", expect)};
  }
  return std::nullopt;
}

absl::StatusOr<std::string> AnswerHeadText(const HttpAnswerHead& answer, const HttpFraming& framing, absl::Time now) {
  if (answer.status < 200 || answer.status > 599) return Internal("HTTP_ANSWER", "status {}", answer.status);
  std::string text = fmt::format("HTTP/1.1 {} {}\r\n", answer.status, PhraseOf(answer.status));
  for (const auto& [name, value] : answer.fields) {
    if (IsServersBusiness(name)) continue;
    if (!CanBeSent(name, value)) return Internal("HTTP_ANSWER", "the value of field \"{}\" cannot be sent", name);
    fmt::format_to(std::back_inserter(text), "{}: {}\r\n", name, value);
  }
  text += "Date: ";
  text += absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", now, absl::UTCTimeZone());
  text += "\r\n";
  if (framing.Chunked(answer.status)) {
    text += "Transfer-Encoding: chunked\r\n";
  } else if (framing.length >= 0 && answer.status != 204 && answer.status != 304) {
    fmt::format_to(std::back_inserter(text), "Content-Length: {}\r\n", framing.length);
  }
  if (framing.close) {
    text += "Connection: close\r\n";
  } else if (framing.http10) {
    text += "Connection: keep-alive\r\n";
  }
  text += "\r\n";
  return text;
}

}  // namespace qamserve
