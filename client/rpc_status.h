// The one place where a grpc::Status becomes an absl::Status in the client.
#pragma once

#include <grpcpp/support/status.h>

#include "core/base/status.h"

namespace qamserve {

// Given to an UNAVAILABLE that no server explained: nothing listens there, or the connection broke.
inline constexpr char kServerUnreachable[] = "SERVER_UNREACHABLE";

// Code and message as they came. The reason is that of the google.rpc.ErrorInfo in the details, else
// kServerUnreachable for UNAVAILABLE, else the name of the code. Field violations of a google.rpc.BadRequest are added
// to the message.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace qamserve
