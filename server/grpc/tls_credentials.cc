#include "server/grpc/tls_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>

#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

namespace qamserve {
namespace {

// gRPC's C++ API has only certificates that stay, or files that it watches itself and takes unchecked. Its C API asks
// at each handshake; this makes such credentials ones of C++.
class ReloadingCredentials final : public grpc::ServerCredentials {
 public:
  explicit ReloadingCredentials(const TlsFiles& files) : files_(files) {
    const bool mutual = !files.current()->client_ca_pem.empty();
    credentials_ =
        grpc_ssl_server_credentials_create_with_options(grpc_ssl_server_credentials_create_options_using_config_fetcher(
            mutual ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                   : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            &ReloadingCredentials::Fetch, this));
  }
  ReloadingCredentials(const ReloadingCredentials&) = delete;
  ReloadingCredentials& operator=(const ReloadingCredentials&) = delete;
  ~ReloadingCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {
    // Keys are checked in call.h. A processor that is never asked would be an open door that looks closed.
    gpr_log(GPR_ERROR, "the server's TLS credentials take no metadata processor");
    std::abort();
  }

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  // Before the first handshake and at each one. One server listens with these credentials, so that what was given last
  // is what it has.
  static grpc_ssl_certificate_config_reload_status Fetch(void* self, grpc_ssl_server_certificate_config** config) {
    return static_cast<ReloadingCredentials*>(self)->Fetch(config);
  }
  grpc_ssl_certificate_config_reload_status Fetch(grpc_ssl_server_certificate_config** config) {
    std::shared_ptr<const TlsPem> pem = files_.current();
    const std::lock_guard lock(mutex_);
    if (pem == given_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair = {pem->key_pem.c_str(), pem->certificate_pem.c_str()};
    // gRPC 1.51 insists on roots here, also where clients are not asked for certificates and nothing is checked against
    // them.
    const std::string& roots = pem->client_ca_pem.empty() ? pem->certificate_pem : pem->client_ca_pem;
    *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
    given_ = std::move(pem);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const TlsFiles& files_;
  grpc_server_credentials* credentials_;
  std::mutex mutex_;
  std::shared_ptr<const TlsPem> given_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> TlsCredentials(const TlsFiles& files) {
  return std::make_shared<ReloadingCredentials>(files);
}

}  // namespace qamserve
