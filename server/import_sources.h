// Hubs and stores that imports may read from, out of the options.
#pragma once

#include "server/fetch/remote_source.h"
#include "server/options.h"

namespace qamserve {

// FAILED_PRECONDITION (OPTION) if the token's file cannot be read or has no token of one line.
absl::StatusOr<RemoteOptions> RemoteOptionsOf(const ServerOptions& options);

}  // namespace qamserve
