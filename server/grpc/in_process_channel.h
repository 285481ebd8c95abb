// A connection from this process to its own gRPC server: HTTP/2 over a pair of sockets that nobody else has. gRPC's own
// transport inside a process is not used: in 1.51 a call after the server's shutdown ends the process, and a server
// that ends a stream of requests early leaves its client writing.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

// A new connection to `server`, which has started; the server's limit of streams a connection counts for each. After
// the server's shutdown its calls are UNAVAILABLE. UNAVAILABLE (IN_PROCESS_CHANNEL): the process may open no more
// files.
absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectInProcess(grpc::Server& server);

// Lets go of connections once nobody else holds them, for up to ten seconds: calls that have ended do a moment longer.
// The last one of a process must not go on a thread of gRPC's callbacks, which it would have to wait for.
void ReleaseInProcess(std::vector<std::shared_ptr<grpc::Channel>> channels);

// Whether a call came over such a connection, by ServerContext::peer().
bool IsInProcessPeer(std::string_view peer);

}  // namespace qamserve
