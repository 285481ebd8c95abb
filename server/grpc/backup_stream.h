// The stream of BackupMetadata.
#pragma once

#include "qamserve/v1/admin.grpc.pb.h"
#include "server/grpc/service_context.h"

namespace qamserve {

// The rows are written to a scratch file first, so that a slow reader keeps no snapshot of the store open.
grpc::ServerWriteReactor<v1::BackupChunk>* StartBackupStream(ServiceContext& context,
                                                             const grpc::CallbackServerContext& call);

}  // namespace qamserve
