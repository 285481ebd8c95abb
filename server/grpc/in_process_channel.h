// A connection from this process to its own gRPC server: HTTP/2 over a pair of sockets that nobody else has. gRPC's own
// transport inside a process is not used: in 1.51 a call after the server's shutdown ends the process, a server that ends
// a stream of requests early leaves its client writing for ever, and a deadline races with its stream.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string_view>

#include "core/base/status.h"

namespace qamserve {

// A new connection to `server`, which has started; the server's limit of streams a connection counts for each. After the
// server's shutdown its calls are UNAVAILABLE. UNAVAILABLE (IN_PROCESS_CHANNEL): the process may open no more files.
absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectInProcess(grpc::Server& server);

// Whether a call came over such a connection, by ServerContext::peer().
bool IsInProcessPeer(std::string_view peer);

}  // namespace qamserve
