#include "server/http/http_server.h"

#include <absl/synchronization/mutex.h>
#include <absl/synchronization/notification.h>
#include <netinet/tcp.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <utility>

#include "server/http/http_connection.h"
#include "server/http/http_loop.h"
#include "server/http/http_text.h"
#include "server/http/http_transport.h"

namespace qamserve {
namespace {

using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

// Connections above the limit that are told so; those above these are closed at once.
constexpr int kToldAtOnce = 256;
// Files that the rest of the process may need: stores, weights, gRPC's connections.
constexpr int kOtherFiles = 256;
// Too many open files, mostly: nothing gets better by asking again at once.
constexpr std::chrono::milliseconds kAcceptPause{100};
// A client that is cut off without a word is found after 60 + 6 * 10 seconds.
constexpr int kKeepAliveIdleSeconds = 60;
constexpr int kKeepAliveIntervalSeconds = 10;
constexpr int kKeepAliveProbes = 6;

int MaxConnections(const HttpLimits& limits) {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY) return limits.max_connections;
  const int64_t room = std::max<int64_t>(static_cast<int64_t>(files.rlim_cur) - kOtherFiles, kOtherFiles);
  return static_cast<int>(std::min<int64_t>(limits.max_connections, room));
}

void SetOption(tcp::socket& socket, int level, int name, int value) {
  setsockopt(socket.native_handle(), level, name, &value, sizeof(value));
}

void SetOptions(tcp::socket& socket) {
  SetOption(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdleSeconds);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveIntervalSeconds);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
}

std::string NameOf(const tcp::endpoint& endpoint) {
  const std::string address = endpoint.address().to_string();
  return fmt::format(fmt::runtime(endpoint.address().is_v6() ? "[{}]:{}" : "{}:{}"), address, endpoint.port());
}

class AsioHttpServer final : public HttpServer {
 public:
  explicit AsioHttpServer(const HttpServerOptions& options)
      : host_(options.host),
        core_(std::make_shared<HttpCore>(options)),
        max_connections_(MaxConnections(options.limits)),
        loops_(MakeLoops(std::max(1, options.threads))),
        acceptor_(loops_.front()->context()),
        pause_(loops_.front()->context()) {}

  ~AsioHttpServer() override { Shutdown(absl::InfinitePast()); }

  absl::Status Listen(const HttpServerOptions& options) {
    if (options.tls) {
      ASSIGN_OR_RETURN(std::shared_ptr<asio::ssl::context> context, MakeTlsContext(*options.tls));
      absl::MutexLock lock(&tls_mutex_);
      tls_ = std::move(context);
    }
    ErrorCode error;
    Bind(options.port, error);
    if (error) {
      return Unavailable(options.reason, "cannot listen on {}:{} ({}): {}", options.host, options.port, options.flag,
                         error.message());
    }
    port_ = acceptor_.local_endpoint(error).port();
    loops_.front()->Post([this] { Accept(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  int connections() const override { return core_->connections(); }

  absl::Status ReloadTls(const HttpTls& tls) override {
    absl::MutexLock lock(&tls_mutex_);
    if (tls_ == nullptr) return FailedPrecondition("HTTP_TLS", "this port was started without TLS");
    ASSIGN_OR_RETURN(tls_, MakeTlsContext(tls));
    return absl::OkStatus();
  }

  void Shutdown(absl::Time deadline) override {
    absl::MutexLock lock(&shutdown_mutex_);
    core_->draining = true;
    absl::Notification closed;
    const bool runs = loops_.front()->Post([this, &closed] {
      ErrorCode ignored;
      acceptor_.close(ignored);
      pause_.cancel();
      closed.Notify();
    });
    if (!runs) return;  // it was shut down before
    closed.WaitForNotification();
    ForEachConnection([](HttpConnection& connection) { connection.Drain(); });
    core_->AwaitNoConnection(deadline);
    ForEachConnection([](HttpConnection& connection) { connection.Cut(); });
    core_->AwaitNoConnection(absl::InfiniteFuture());
    for (const std::shared_ptr<HttpLoop>& loop : loops_) loop->Stop();
  }

 private:
  static std::vector<std::shared_ptr<HttpLoop>> MakeLoops(int count) {
    std::vector<std::shared_ptr<HttpLoop>> loops(static_cast<size_t>(count));
    for (std::shared_ptr<HttpLoop>& loop : loops) loop = std::make_shared<HttpLoop>();
    return loops;
  }

  void Bind(int port, ErrorCode& error) {
    tcp::resolver resolver(loops_.front()->context());
    const auto found =
        resolver.resolve(host_, std::to_string(port), tcp::resolver::passive | tcp::resolver::numeric_service, error);
    if (error) return;
    tcp::endpoint endpoint = found.begin()->endpoint();
    for (const auto& entry : found) {
      if (entry.endpoint().address().is_v4()) endpoint = entry.endpoint();
    }
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  }

  // On the first loop, which hands the connections out in turn.
  void Accept() {
    const std::shared_ptr<HttpLoop>& loop = loops_[next_loop_++ % loops_.size()];
    acceptor_.async_accept(loop->context(), [this, &loop](const ErrorCode& error, tcp::socket socket) {
      if (!acceptor_.is_open()) return;
      if (!error) {
        Take(std::move(socket), loop);
        return Accept();
      }
      pause_.expires_after(kAcceptPause);
      pause_.async_wait([this](const ErrorCode& cancelled) {
        if (!cancelled) Accept();
      });
    });
  }

  void Take(tcp::socket socket, const std::shared_ptr<HttpLoop>& loop) {
    const int open = core_->connections();
    const std::shared_ptr<asio::ssl::context> tls = Tls();
    std::optional<HttpRefusal> refusal;
    if (open >= max_connections_) {
      if (tls != nullptr || open >= max_connections_ + kToldAtOnce) return;
      refusal = {503,
                 Unavailable("HTTP_CONNECTIONS", "{} connections are open; the limit is {}", open, max_connections_)};
    }
    ErrorCode error;
    const tcp::endpoint peer = socket.remote_endpoint(error);
    if (error) return;  // gone already
    SetOptions(socket);
    std::shared_ptr<HttpTransport> transport =
        tls == nullptr ? MakePlainTransport(std::move(socket)) : MakeTlsTransport(std::move(socket), *tls);
    auto connection = std::make_shared<HttpConnection>(loop, core_, std::move(transport), NameOf(peer));
    loop->Post([connection = std::move(connection), refusal = std::move(refusal)] { connection->Start(refusal); });
  }

  std::shared_ptr<asio::ssl::context> Tls() {
    absl::MutexLock lock(&tls_mutex_);
    return tls_;
  }

  void ForEachConnection(const std::function<void(HttpConnection&)>& task) {
    for (const std::shared_ptr<HttpLoop>& loop : loops_) {
      loop->Post([&connections = loop->connections, task] {
        const std::vector<std::shared_ptr<HttpConnection>> all(connections.begin(), connections.end());
        for (const std::shared_ptr<HttpConnection>& connection : all) task(*connection);
      });
    }
  }

  const std::string host_;
  const std::shared_ptr<HttpCore> core_;
  const int max_connections_;
  int port_ = 0;
  absl::Mutex tls_mutex_;
  std::shared_ptr<asio::ssl::context> tls_ ABSL_GUARDED_BY(tls_mutex_);
  absl::Mutex shutdown_mutex_;
  const std::vector<std::shared_ptr<HttpLoop>> loops_;
  // Of the first loop's thread, once it listens.
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  size_t next_loop_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpServerOptions options) {
  auto server = std::make_unique<AsioHttpServer>(options);
  RETURN_IF_ERROR(server->Listen(options));
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace qamserve
