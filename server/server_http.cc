// The HTTP ports of the server: --metrics-listen for machines that watch it, --http-listen for everybody.
#include <absl/time/time.h>

#include <utility>

#include "server/grpc/converters.h"
#include "server/http/console.h"
#include "server/http/openai/openai_part.h"
#include "server/http/open_inference/open_inference_part.h"
#include "server/http/rest/rest_part.h"
#include "server/http/status_endpoints.h"
#include "server/server.h"

namespace qamserve {
namespace {

// Parsing and copying between sockets and handlers; what takes longer runs on other threads.
constexpr int kHttpThreads = 2;
// Of this process with itself; each may have RpcServer's limit of streams.
constexpr size_t kLocalChannels = 8;

// 404 -> "4xx".
std::string_view CodeClass(int status) {
  constexpr std::string_view kClasses[] = {"2xx", "3xx", "4xx", "5xx"};
  return status >= 200 && status < 600 ? kClasses[status / 100 - 2] : "other";
}

// Begins what the model was loaded from, and says the version: with the same one and the same seed, answers are the same.
std::string FingerprintOf(ServingControl& serving, std::string_view served_model) {
  const absl::StatusOr<ServedModelView> model = serving.Get(WithoutCollection(kServedModels, served_model));
  if (!model.ok()) return "";
  const std::string& source = model->source;
  return fmt::format("fp_{}_{}", source.substr(source.find('/') + 1, 12), QAMSERVE_VERSION);
}

}  // namespace

absl::Status Server::ListenHttp() {
  if (options_.http_listen != "off" && (!in_fleet_ || ServesApi())) {
    HttpServerOptions http = {.flag = "--http-listen", .reason = "HTTP_LISTEN", .threads = kHttpThreads};
    ASSIGN_OR_RETURN(http.parts, HttpParts());
    if (tls_ != nullptr) {
      const std::shared_ptr<const TlsPem> pem = tls_->current();
      http.tls = HttpTls{pem->certificate_pem, pem->key_pem, pem->client_ca_pem};
    }
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

// What --http-listen serves; the first part that takes a request gets it. A new part is added here.
absl::StatusOr<std::vector<HttpPart>> Server::HttpParts() {
  std::vector<HttpPart> parts;
  parts.push_back(MetricsGate());
  parts.push_back(StatusPart(ServerStatus()));
  parts.push_back(HostGate());
  parts.push_back(ConsolePart());
  ASSIGN_OR_RETURN(const std::vector<std::shared_ptr<grpc::Channel>> channels, rpc_->InProcessChannels(kLocalChannels));
  const auto calls = std::make_shared<LocalCalls>(channels);
  if (ServesInference()) {
    OpenAiOptions openai;
    openai.executor = quick_.get();
    openai.fingerprint = [this](std::string_view model) { return FingerprintOf(*serving_, model); };
    parts.push_back(OpenAiPart(calls, std::move(openai)));
    parts.push_back(OpenInferencePart(calls));
  }
  RestOptions rest;
  rest.calls = calls;
  rest.services = rpc_->service_names();
  rest.version = QAMSERVE_VERSION;
  rest.executor = quick_.get();
  ASSIGN_OR_RETURN(HttpPart rest_part, RestPart(rest));
  parts.push_back(std::move(rest_part));
  return parts;
}

StatusSources Server::ServerStatus() {
  StatusSources sources;
  sources.metrics_text = [this] { return metrics_.Text(); };
  sources.not_started = [this] { return NotStarted(); };
  sources.not_ready = [this] { return NotReady(); };
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

void Server::ReloadHttpTls(const TlsPem& pem) {
  if (http_ == nullptr) return;
  const absl::Status reloaded = http_->ReloadTls({pem.certificate_pem, pem.key_pem, pem.client_ca_pem});
  if (!reloaded.ok()) log_->Warning("tls_not_reloaded", {{"message", MessageOf(reloaded)}});
}

std::string Server::http_url() const {
  if (http_ == nullptr) return "";
  const std::string host = options_.http_listen.substr(0, options_.http_listen.rfind(':'));
  return fmt::format("{}://{}:{}", tls_ == nullptr ? "http" : "https", host, http_->port());
}

}  // namespace qamserve
