#include "server/http/status_server.h"

#include <CivetServer.h>

#include <utility>
#include <vector>

namespace qamserve {
namespace {

// A scrape takes milliseconds, so two are enough for Prometheus and a probe; CivetWeb takes a second a thread to stop.
constexpr char kThreads[] = "2";
constexpr char kRequestTimeoutMs[] = "5000";

void SendText(mg_connection* connection, const char* type, const std::string& text) {
  mg_send_http_ok(connection, type, static_cast<long long>(text.size()));
  mg_write(connection, text.data(), text.size());
}

class MetricsHandler final : public CivetHandler {
 public:
  explicit MetricsHandler(std::function<std::string()> text) : text_(std::move(text)) {}
  bool handleGet(CivetServer*, mg_connection* connection) override {
    SendText(connection, "text/plain; version=0.0.4; charset=utf-8", text_());
    return true;
  }

 private:
  const std::function<std::string()> text_;
};

class ProbeHandler final : public CivetHandler {
 public:
  explicit ProbeHandler(std::function<std::string()> trouble) : trouble_(std::move(trouble)) {}
  bool handleGet(CivetServer*, mg_connection* connection) override {
    const std::string trouble = trouble_ ? trouble_() : std::string();
    if (trouble.empty()) {
      SendText(connection, "text/plain; charset=utf-8", "ok\n");
    } else {
      mg_send_http_error(connection, 503, "%s", trouble.c_str());
    }
    return true;
  }

 private:
  const std::function<std::string()> trouble_;
};

class CivetStatusServer final : public StatusServer {
 public:
  explicit CivetStatusServer(StatusSources sources)
      : metrics_(std::move(sources.metrics_text)),
        live_(nullptr),
        ready_(std::move(sources.not_ready)),
        started_(std::move(sources.not_started)) {}

  absl::Status Listen(const std::string& listen) {
    const std::vector<std::string> options = {"listening_ports",   listen,          "num_threads", kThreads,
                                              "request_timeout_ms", kRequestTimeoutMs, "enable_keep_alive", "no"};
    try {
      server_ = std::make_unique<CivetServer>(options);
      server_->addHandler("/metrics$", metrics_);
      server_->addHandler("/livez$", live_);
      server_->addHandler("/readyz$", ready_);
      server_->addHandler("/startupz$", started_);
      const std::vector<int> ports = server_->getListeningPorts();
      port_ = ports.empty() ? 0 : ports.front();
    } catch (const CivetException& error) {
      return Unavailable("METRICS_LISTEN", "cannot listen on {} (--metrics-listen): {}; is the port in use?", listen,
                         error.what());
    }
    return absl::OkStatus();
  }

  int port() const override { return port_; }

 private:
  MetricsHandler metrics_;
  ProbeHandler live_;
  ProbeHandler ready_;
  ProbeHandler started_;
  int port_ = 0;
  std::unique_ptr<CivetServer> server_;  // last: it calls the handlers
};

}  // namespace

absl::StatusOr<std::unique_ptr<StatusServer>> StatusServer::Start(const std::string& listen, StatusSources sources) {
  auto server = std::make_unique<CivetStatusServer>(std::move(sources));
  RETURN_IF_ERROR(server->Listen(listen));
  return std::unique_ptr<StatusServer>(std::move(server));
}

}  // namespace qamserve
