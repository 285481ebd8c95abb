// TLS for the gRPC port, with certificates that may change while it listens: every handshake takes what TlsFiles has at
// that moment. Connections that are there stay as they are.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "server/access/tls_files.h"

namespace qamserve {

// For one port. `files` must outlive the credentials, and those the server. Where it has a client CA, a client must
// show a certificate of that CA: whether it does is decided here, once; which CA that is may change.
std::shared_ptr<grpc::ServerCredentials> TlsCredentials(const TlsFiles& files);

}  // namespace qamserve
