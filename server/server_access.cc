// The part of Server that is about who may come in: keys, certificates, and what the process tells of itself.
#include <absl/strings/ascii.h>

#include "core/base/file.h"
#include "server/access/key_secret.h"
#include "server/access/retry_delay.h"
#include "server/http/http_text.h"
#include "server/server.h"

namespace qamserve {
namespace {

constexpr uint64_t kMaxAdminKeyFileBytes = 4096;
// In a fleet keys are read again after each change; this is for changes that were not told.
constexpr absl::Duration kAccessInterval = absl::Seconds(5);

// Empty: none was given.
absl::StatusOr<std::string> AdminKeyOf(const ServerOptions& options) {
  if (options.admin_key_file.empty()) {
    if (!options.admin_key.empty()) RETURN_IF_ERROR(CheckGivenSecret("QAMSERVE_ADMIN_KEY", options.admin_key));
    return options.admin_key;
  }
  absl::StatusOr<std::string> text = ReadFile(options.admin_key_file, kMaxAdminKeyFileBytes);
  if (!text.ok()) return Annotate(text.status(), "--admin-key-file");
  // Editors and `echo` end files with a line feed.
  absl::StripTrailingAsciiWhitespace(&*text);
  RETURN_IF_ERROR(CheckGivenSecret(fmt::format("--admin-key-file {}", options.admin_key_file), *text));
  return text;
}

// Whether a Host header means this machine. Clients of HTTP/1.0 may send none; pages in a browser cannot.
bool NamesLoopback(std::string_view host) {
  if (host.empty()) return true;
  const size_t colon = host.rfind(':');
  if (colon != std::string_view::npos && host.find(']', colon) == std::string_view::npos) host = host.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return IsLoopback(std::string(host));
}

}  // namespace

absl::Status Server::OpenTls() {
  const TlsPaths paths = {
      .certificate = options_.tls_cert, .key = options_.tls_key, .client_ca = options_.tls_client_ca};
  if (!paths.enabled()) return absl::OkStatus();
  ASSIGN_OR_RETURN(tls_, TlsFiles::Open(paths));
  return absl::OkStatus();
}

void Server::StartTlsWatch(absl::Duration interval) {
  if (tls_ == nullptr) return;
  tls_watcher_ = std::make_unique<TlsWatcher>(
      *tls_, interval,
      [this](const TlsPem& pem) {
        ReloadHttpTls(pem);
        if (channels_ != nullptr) channels_->Reset();  // what is connected from here on shows the new certificate
        log_->Info("tls_reloaded", {{"certificate", options_.tls_cert}});
      },
      [this](const absl::Status& error) {
        log_->Warning("tls_not_reloaded", {{"reason", ReasonOf(error)}, {"message", MessageOf(error)}});
      });
}

// The port of --metrics-listen is for those that watch the server; on that of everybody, numbers are for keys that may
// read. Probes ask nobody on either.
// Without keys, whoever reaches the port is let in, and a web page can make a name of its own lead to this machine (DNS
// rebinding): its requests then come with that name, and from loopback.
HttpPart Server::HostGate() {
  const absl::StatusOr<ListenAddress> address = ParseListenAddress("--http-listen", options_.http_listen);
  const bool watched = address.ok() && IsLoopback(address->host) && !options_.insecure_allow_remote;
  return {
      [this, watched](const HttpRequestHead& head) {
        return watched && !access_->keys_required() && !NamesLoopback(head.field("host"));
      },
      [](const std::shared_ptr<HttpExchange>& exchange) {
        const absl::Status error = MakeError(
            absl::StatusCode::kPermissionDenied, "HTTP_HOST",
            "a server without API keys answers on loopback to the names of loopback only, such as localhost; make a "
            "key, or start it with --insecure-allow-remote");
        exchange->Respond({403, {{"Content-Type", "application/json"}, {"Cache-Control", "no-store"}}},
                          HttpErrorBody(403, error));
      },
      ""};
}

HttpPart Server::MetricsGate() {
  const auto admitted = [this](const HttpRequestHead& head) {
    return access_->Admit(head.field("authorization"), FindMethodRule("SystemService", "GetSystem")).status;
  };
  return {[admitted](const HttpRequestHead& head) { return head.path == "/metrics" && !admitted(head).ok(); },
          [admitted](const std::shared_ptr<HttpExchange>& exchange) {
            absl::Status error = admitted(exchange->head());
            // What has become free meanwhile may be asked for again.
            if (error.ok()) error = ResourceExhausted("KEY_LIMIT", "too many requests with this key; try again");
            const int status = absl::IsUnauthenticated(error) ? 401 : absl::IsPermissionDenied(error) ? 403 : 429;
            HttpFields fields = {{"Content-Type", "application/json"}, {"Cache-Control", "no-store"}};
            if (status == 401) fields.emplace_back("WWW-Authenticate", "Bearer");
            if (status == 429)
              fields.emplace_back("Retry-After", fmt::format("{}", RetryDelaySecondsOf(error).value_or(1)));
            exchange->Respond({status, std::move(fields)}, HttpErrorBody(status, error));
          },
          "status"};
}

absl::Status Server::OpenAccess() {
  AccessOptions access_options;
  ASSIGN_OR_RETURN(access_options.admin_key, AdminKeyOf(options_));
  access_options.journal.on_error = [this](const absl::Status& error) {
    log_->Error("access_not_recorded", {{"reason", ReasonOf(error)}, {"message", MessageOf(error)}});
  };
  access_options.now_ms = [store = store_.get()] { return store->NowMs(); };
  ASSIGN_OR_RETURN(access_, AccessControl::Open(std::move(access_options), *store_));
  if (in_fleet_) {
    access_refresher_ = std::make_unique<AccessRefresher>(
        *access_, *store_, kAccessInterval, [this](const absl::Status& error) {
          log_->Warning("keys_not_read", {{"reason", ReasonOf(error)}, {"message", MessageOf(error)}});
        });
  }
  if (!options_.ReachesOut() || access_->keys_required() || !options_.tls_client_ca.empty()) return absl::OkStatus();
  return FailedPrecondition("REMOTE_WITHOUT_KEYS",
                            "{} can be reached from other machines, and nobody is asked who they are: there is no API "
                            "key yet. Start on 127.0.0.1 and make one (qamctl keys create), or give --admin-key-file, "
                            "or --tls-client-ca; or --insecure-allow-remote if the network is trusted",
                            options_.listen);
}

}  // namespace qamserve
