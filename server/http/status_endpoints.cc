#include "server/http/status_endpoints.h"

#include <memory>
#include <utility>

#include "server/http/http_text.h"

namespace qamserve {
namespace {

void RespondText(HttpExchange& exchange, int status, const char* type, std::string text) {
  exchange.Respond({status, {{"Content-Type", type}, {"Cache-Control", "no-store"}}}, std::move(text));
}

void RespondProbe(HttpExchange& exchange, const std::function<std::string()>& trouble) {
  const std::string text = trouble ? trouble() : std::string();
  RespondText(exchange, text.empty() ? 200 : 503, "text/plain; charset=utf-8", (text.empty() ? "ok" : text) + "\n");
}

void Answer(const StatusSources& sources, const std::shared_ptr<HttpExchange>& exchange) {
  const HttpRequestHead& head = exchange->head();
  if (head.method != "GET" && head.method != "HEAD") {
    const absl::Status error = InvalidArgument("HTTP_METHOD", "{} knows GET and HEAD; got {}", head.path, head.method);
    return exchange->Respond({405, {{"Content-Type", "application/json"}, {"Allow", "GET, HEAD"}}},
                             HttpErrorBody(405, error));
  }
  if (head.path == "/livez") return RespondProbe(*exchange, nullptr);
  if (head.path == "/readyz") return RespondProbe(*exchange, sources.not_ready);
  if (head.path == "/startupz") return RespondProbe(*exchange, sources.not_started);
  const auto scrape = [exchange, text = sources.metrics_text] {
    RespondText(*exchange, 200, "text/plain; version=0.0.4; charset=utf-8", text());
  };
  if (sources.run) return sources.run(scrape);
  scrape();
}

}  // namespace

HttpPart StatusPart(StatusSources sources) {
  const auto shared = std::make_shared<const StatusSources>(std::move(sources));
  return {[](const HttpRequestHead& head) {
            return head.path == "/metrics" || head.path == "/livez" || head.path == "/readyz" ||
                   head.path == "/startupz";
          },
          [shared](const std::shared_ptr<HttpExchange>& exchange) { Answer(*shared, exchange); }, "status"};
}

}  // namespace qamserve
