// The HTTP ports of the server: --metrics-listen for machines that watch it,
// --http-listen for everybody.
#include <absl/time/time.h>

#include <utility>

#include "server/http/console.h"
#include "server/http/status_endpoints.h"
#include "server/server.h"

namespace qamserve {
namespace {

// Parsing and copying between sockets and handlers; what takes longer runs on
// other threads.
constexpr int kHttpThreads = 2;

// 404 -> "4xx".
std::string_view CodeClass(int status) {
  constexpr std::string_view kClasses[] = {"2xx", "3xx", "4xx", "5xx"};
  return status >= 200 && status < 600 ? kClasses[status / 100 - 2] : "other";
}

}  // namespace

absl::Status Server::ListenHttp() {
  if (options_.http_listen != "off") {
    HttpServerOptions http = {.flag = "--http-listen", .reason = "HTTP_LISTEN", .threads = kHttpThreads};
    ASSIGN_OR_RETURN(http.parts, HttpParts());
    http.on_answered = [this](const HttpAnswered& answered) {
      metrics_.Add(Metric::kHttpRequestsTotal, {answered.part, CodeClass(answered.status)});
    };
    ASSIGN_OR_RETURN(http_, StartHttp(options_.http_listen, std::move(http)));
    metrics_.AddGaugeSource(
        [this](Metrics::GaugeWriter& writer) { writer.Set(Metric::kHttpConnections, {}, http_->connections()); });
  }
  if (options_.metrics_listen == "off") return absl::OkStatus();
  HttpServerOptions status = {.flag = "--metrics-listen", .reason = "METRICS_LISTEN", .threads = 1};
  status.parts.push_back(StatusPart(ServerStatus()));
  ASSIGN_OR_RETURN(status_, StartHttp(options_.metrics_listen, std::move(status)));
  return absl::OkStatus();
}

// What --http-listen serves; the first part that takes a request gets it. A new
// part is added here.
absl::StatusOr<std::vector<HttpPart>> Server::HttpParts() {
  std::vector<HttpPart> parts;
  parts.push_back(StatusPart(ServerStatus()));
  parts.push_back(ConsolePart());
  return parts;
}

StatusSources Server::ServerStatus() {
  StatusSources sources;
  sources.metrics_text = [this] { return metrics_.Text(); };
  sources.not_started = [this] { return restored_ ? "" : "served models are being loaded"; };
  sources.not_ready = [this] {
    return draining_ ? "the server is shutting down" : restored_ ? "" : "served models are being loaded";
  };
  sources.run = [this](const std::function<void()>& task) {
    if (!quick_->Run(task).ok()) task();
  };
  return sources;
}

absl::StatusOr<std::unique_ptr<HttpServer>> Server::StartHttp(const std::string& listen, HttpServerOptions options) {
  ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(options.flag, listen));
  options.host = address.host;
  options.port = address.port;
  return HttpServer::Start(std::move(options));
}

std::string Server::http_url() const {
  if (http_ == nullptr) return "";
  const std::string host = options_.http_listen.substr(0, options_.http_listen.rfind(':'));
  return fmt::format("http://{}:{}", host, http_->port());
}

}  // namespace qamserve
