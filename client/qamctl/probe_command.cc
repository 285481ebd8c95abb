// probe: asks a server's probes over plain HTTP, for health checks where there is no other client.
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <memory>

#include "client/qamctl/commands.h"

namespace qamserve::qamctl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kDefaultUrl[] = "http://127.0.0.1:9090/livez";
// Probes answer from memory.
constexpr double kDefaultTimeoutSeconds = 5;
// Of the answer; a probe's is a line.
constexpr size_t kMaxAnswerBytes = size_t{64} << 10;
// Of the answer's text that an error repeats.
constexpr size_t kMaxShownBytes = 1024;

struct ProbeUrl {
  std::string host;
  std::string port;
  std::string path;
};

// http://HOST[:PORT][/PATH]; an IPv6 address in brackets.
absl::StatusOr<ProbeUrl> ParseUrl(const std::string& text) {
  constexpr std::string_view kScheme = "http://";
  const auto wrong = [&] {
    return InvalidArgument("USAGE", "\"{}\" is not http://HOST[:PORT][/PATH], which is what probes are served on",
                           text);
  };
  if (!text.starts_with(kScheme) || text.find_first_of(" \t\r\n#") != std::string::npos) return wrong();
  const size_t slash = std::min(text.find('/', kScheme.size()), text.size());
  const std::string authority = text.substr(kScheme.size(), slash - kScheme.size());
  ProbeUrl url{.port = "80", .path = slash == text.size() ? "/" : text.substr(slash)};
  const size_t bracket = authority.starts_with('[') ? authority.find(']') : 0;
  if (bracket == std::string::npos) return wrong();
  const size_t colon = authority.find(':', bracket);
  url.host = authority.substr(0, colon);
  if (colon != std::string::npos) url.port = authority.substr(colon + 1);
  if (url.host.size() > 1 && url.host.front() == '[' && url.host.back() == ']') {
    url.host = url.host.substr(1, url.host.size() - 2);
  }
  int port = 0;
  const char* end = url.port.data() + url.port.size();
  const auto [rest, error] = std::from_chars(url.port.data(), end, port);
  if (url.host.empty() || error != std::errc() || rest != end || port < 1 || port > 65535) return wrong();
  return url;
}

absl::Status Unreachable(const std::string& url, std::string_view why) {
  return Unavailable("PROBE_UNREACHABLE", "{}: {}", url, why);
}

// A connection that ends with the object. Every wait ends at `end`.
class Connection {
 public:
  Connection(std::string url, Clock::time_point end) : url_(std::move(url)), end_(end) {}
  ~Connection() {
    if (fd_ >= 0) ::close(fd_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  absl::Status Open(const addrinfo& address) {
    fd_ = ::socket(address.ai_family, address.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, address.ai_protocol);
    if (fd_ < 0) return Unreachable(url_, std::strerror(errno));
    if (::connect(fd_, address.ai_addr, address.ai_addrlen) == 0) return absl::OkStatus();
    if (errno != EINPROGRESS) return Unreachable(url_, std::strerror(errno));
    RETURN_IF_ERROR(Wait(POLLOUT));
    int error = 0;
    socklen_t size = sizeof(error);
    if (::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    return error == 0 ? absl::OkStatus() : Unreachable(url_, std::strerror(error));
  }

  absl::Status Send(std::string_view bytes) {
    while (!bytes.empty()) {
      RETURN_IF_ERROR(Wait(POLLOUT));
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN && errno != EINTR) return Unreachable(url_, std::strerror(errno));
      bytes.remove_prefix(sent < 0 ? 0 : static_cast<size_t>(sent));
    }
    return absl::OkStatus();
  }

  // All bytes until the other side closes, or the first kMaxAnswerBytes.
  absl::StatusOr<std::string> Receive() {
    std::string answer;
    while (answer.size() < kMaxAnswerBytes) {
      RETURN_IF_ERROR(Wait(POLLIN));
      char buffer[4096];
      const ssize_t count = ::recv(fd_, buffer, sizeof(buffer), 0);
      if (count == 0) return answer;
      if (count < 0 && errno != EAGAIN && errno != EINTR) return Unreachable(url_, std::strerror(errno));
      if (count > 0) answer.append(buffer, static_cast<size_t>(count));
    }
    return answer;
  }

 private:
  absl::Status Wait(short events) {
    while (true) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now()).count();
      if (left <= 0) return DeadlineExceeded();
      pollfd wanted{.fd = fd_, .events = events, .revents = 0};
      const int ready = ::poll(&wanted, 1, static_cast<int>(std::min<int64_t>(left, 60'000)));
      if (ready > 0) return absl::OkStatus();
      if (ready < 0 && errno != EINTR) return Unreachable(url_, std::strerror(errno));
    }
  }
  absl::Status DeadlineExceeded() const {
    return MakeError(absl::StatusCode::kDeadlineExceeded, "PROBE_TIMEOUT",
                     fmt::format("{} did not answer in time", url_));
  }

  const std::string url_;
  const Clock::time_point end_;
  int fd_ = -1;
};

// The whole answer to a GET.
absl::StatusOr<std::string> Get(const std::string& text, const ProbeUrl& url, Clock::time_point end) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(url.host.c_str(), url.port.c_str(), &hints, &found); error != 0) {
    return Unreachable(text, ::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  absl::Status status = Unreachable(text, "the name has no address");
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    Connection connection(text, end);
    status = connection.Open(*address);
    if (!status.ok()) continue;
    const bool v6 = url.host.find(':') != std::string::npos;
    RETURN_IF_ERROR(connection.Send(
        fmt::format("GET {} HTTP/1.1\r\nHost: {}{}{}:{}\r\nUser-Agent: qamctl\r\nConnection: close\r\n\r\n", url.path,
                    v6 ? "[" : "", url.host, v6 ? "]" : "", url.port)));
    return connection.Receive();
  }
  return status;
}

// The text after the head, without the line's end.
std::string BodyOf(const std::string& answer) {
  const size_t head = answer.find("\r\n\r\n");
  std::string body = head == std::string::npos ? "" : answer.substr(head + 4, kMaxShownBytes);
  while (!body.empty() && (body.back() == '\n' || body.back() == '\r')) body.pop_back();
  return body;
}

absl::Status Probe(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const ProbeUrl url, ParseUrl(text));
  const double seconds = session.timeout_seconds() > 0 ? session.timeout_seconds() : kDefaultTimeoutSeconds;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  ASSIGN_OR_RETURN(const std::string answer, Get(text, url, end));
  // "HTTP/1.1 200 OK"
  const bool http = answer.starts_with("HTTP/1.") && answer.size() >= 12;
  if (!http) return Unavailable("PROBE_ANSWER", "{} answered, but not as an HTTP server does", text);
  const std::string code = answer.substr(9, 3);
  if (code != "200") return Unavailable("PROBE_FAILED", "{} answered {}: {}", text, code, BodyOf(answer));
  if (session.json()) {
    session.terminal().out << "{\"ok\":true}\n" << std::flush;
    return absl::OkStatus();
  }
  session.Print("ok");
  return absl::OkStatus();
}

}  // namespace

Action BuildProbe(CLI::App& app) {
  const auto url = std::make_shared<std::string>(kDefaultUrl);
  app.add_option("url", *url, "http://HOST[:PORT]/PATH of a probe: /livez, /readyz or /startupz of --metrics-listen")
      ->check([](const std::string& text) {
        const absl::StatusOr<ProbeUrl> parsed = ParseUrl(text);
        return parsed.ok() ? std::string() : MessageOf(parsed.status());
      })
      ->capture_default_str()
      ->type_name("URL");
  return [url](Session& session) { return Probe(session, *url); };
}

}  // namespace qamserve::qamctl
