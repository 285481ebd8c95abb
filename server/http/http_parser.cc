#include "server/http/http_parser.h"

#include <absl/strings/ascii.h>

#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <exception>
#include <stdexcept>
#include <string>

// What Boost calls where an assertion of its own fails (BOOST_ENABLE_ASSERT_HANDLER): bytes that a client sent must not
// end the server. Put turns it into an error.
namespace boost {

void assertion_failed(char const* expression, char const*, char const* file, long line) {
  throw std::logic_error(fmt::format("{}:{}: {}", file, line, expression));
}
void assertion_failed_msg(char const* expression, char const* message, char const* function, char const* file,
                          long line) {
  assertion_failed(fmt::format("{} ({})", expression, message).c_str(), function, file, line);
}

}  // namespace boost

namespace qamserve {
namespace {

namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

// The last chunk of a body without trailers, "0\r\n\r\n".
constexpr size_t kShortestEnd = 5;

// Lines before a request line, which a client may send after a body (RFC 9112, section 2.2).
size_t EmptyLines(std::string_view in) {
  size_t bytes = 0;
  while (in.substr(bytes).starts_with("\r\n")) bytes += 2;
  return bytes;
}

HttpRefusal RequestLineRefusal(std::string_view line) {
  return {400, InvalidArgument("HTTP_REQUEST_LINE",
                               "the request line must be METHOD SP TARGET SP HTTP/1.1; it begins with \"{}\"",
                               line.substr(0, 40))};
}

HttpRefusal VersionRefusal(std::string_view in) {
  const std::string_view line = in.substr(0, in.find("\r\n"));
  const size_t target = line.find(' ');
  const size_t space = target == std::string_view::npos ? target : line.find(' ', target + 1);
  const std::string_view version = space == std::string_view::npos ? std::string_view() : line.substr(space + 1, 8);
  const auto digit = [version](size_t at) { return absl::ascii_isdigit(static_cast<unsigned char>(version[at])); };
  const bool well_formed =
      version.size() == 8 && version.starts_with("HTTP/") && digit(5) && version[6] == '.' && digit(7);
  // One that is spoken here has something behind it that does not belong there.
  if (!well_formed || version == "HTTP/1.0" || version == "HTTP/1.1") return RequestLineRefusal(line);
  return {505, InvalidArgument("HTTP_VERSION", "HTTP/1.0 and HTTP/1.1 are spoken here; got \"{}\"", version)};
}

HttpRefusal HeaderSizeRefusal(const HttpLimits& limits) {
  return {431, InvalidArgument("HTTP_HEADER_SIZE", "the request line and header fields have more than {} bytes",
                               limits.header_bytes)};
}

HttpRefusal HeadRefusal(const ErrorCode& error, std::string_view in, const HttpLimits& limits, bool in_request_line) {
  if (error == http::error::header_limit) {
    // The parser may hold a whole request line back until it has seen the end of the head.
    if (in_request_line && in.find("\r\n") == std::string_view::npos) {
      return {414, InvalidArgument("HTTP_TARGET_SIZE", "the request line has more than {} bytes; a target may have {}",
                                   limits.header_bytes, limits.target_bytes)};
    }
    return HeaderSizeRefusal(limits);
  }
  if (error == http::error::bad_version) return VersionRefusal(in);
  if (error == http::error::bad_method || error == http::error::bad_target) {
    return RequestLineRefusal(in.substr(0, in.find("\r\n")));
  }
  if (error == http::error::bad_content_length || error == http::error::multiple_content_length) {
    return {400, InvalidArgument("HTTP_CONTENT_LENGTH",
                                 "Content-Length must be one decimal number, without Transfer-Encoding")};
  }
  if (error == http::error::bad_transfer_encoding) {
    return {400, InvalidArgument("HTTP_TRANSFER_ENCODING",
                                 "a request has one Transfer-Encoding or one Content-Length, never both")};
  }
  return {400, InvalidArgument("HTTP_HEADER", "a header field is malformed: {}", error.message())};
}

}  // namespace

struct HttpParser::Impl {
  // A field of 64 KiB, as a trailer may have, throws, and so does a failed assertion.
  size_t Put(std::string_view in, ErrorCode& error) {
    try {
      return parser.put(boost::asio::const_buffer(in.data(), in.size()), error);
    } catch (const std::exception&) {
      error = http::error::bad_value;
      return 0;
    }
  }

  HttpLimits limits;
  http::request_parser<http::buffer_body> parser;
  bool begun = false;
  size_t head_bytes = 0;  // used
  HttpRequestHead head;
  bool expects_continue = false;
  bool waits = false;  // for more of the frame of a chunk
};

HttpParser::HttpParser(const HttpLimits& limits) : impl_(std::make_unique<Impl>()) {
  impl_->limits = limits;
  impl_->parser.header_limit(static_cast<std::uint32_t>(limits.header_bytes));
  impl_->parser.body_limit(boost::none);  // handlers have limits of their own
}

HttpParser::~HttpParser() = default;

HttpParser::HeadStep HttpParser::TakeHead(std::string_view in) {
  auto& parser = impl_->parser;
  HeadStep step;
  if (!impl_->begun) {
    step.used = EmptyLines(in);
    in.remove_prefix(step.used);
    if (in.empty() || in == "\r") return step;
    impl_->begun = true;
  }
  ErrorCode error;
  const size_t used = impl_->Put(in, error);
  step.used += used;
  impl_->head_bytes += used;
  if (error == http::error::need_more) return step;
  if (error) {
    step.refusal = HeadRefusal(error, in, impl_->limits, parser.get().target().empty());
    return step;
  }
  step.done = parser.is_header_done();
  if (!step.done) return step;
  if (impl_->head_bytes > impl_->limits.header_bytes) {
    step.refusal = HeaderSizeRefusal(impl_->limits);
    return step;
  }

  const auto& message = parser.get();
  HttpRequestHead& head = impl_->head;
  head.method = View(message.method_string());
  head.keep_alive = parser.keep_alive();
  for (const auto& field : message) head.fields.emplace_back(View(field.name_string()), View(field.value()));
  step.refusal = CheckRequestHead(impl_->limits, static_cast<int>(message.version()), View(message.target()), head);
  impl_->expects_continue = !http10() && !head.field("Expect").empty();
  return step;
}

HttpRequestHead HttpParser::TakeRequestHead() { return std::move(impl_->head); }

bool HttpParser::http10() const { return impl_->parser.get().version() < 11; }

bool HttpParser::expects_continue() const { return impl_->expects_continue; }

bool HttpParser::body_done() const { return impl_->parser.is_done(); }

std::optional<uint64_t> HttpParser::length_left() const {
  if (body_done()) return 0;
  const auto length = impl_->parser.content_length_remaining();
  if (!length) return std::nullopt;
  return *length;
}

HttpParser::BodyStep HttpParser::TakeBody(std::string_view in, char* to, size_t room) {
  auto& parser = impl_->parser;
  BodyStep step;
  // Beast 1.81 asserts that a last chunk which it has seen without its end comes again with 5 bytes. Whatever it waits
  // for has as many, so it gets no less.
  if (impl_->waits && in.size() < kShortestEnd) return step;
  auto& body = parser.get().body();
  body.data = to;
  body.size = room;
  body.more = true;
  while (step.used < in.size() && !parser.is_done()) {
    ErrorCode error;
    step.used += impl_->Put(in.substr(step.used), error);
    impl_->waits = error == http::error::need_more;
    if (impl_->waits || error == http::error::need_buffer) break;
    if (error) {
      step.error = InvalidArgument("HTTP_BODY", "the body is malformed: {}", error.message());
      break;
    }
  }
  step.filled = room - body.size;
  body.data = nullptr;
  return step;
}

}  // namespace qamserve
