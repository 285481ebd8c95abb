// The stream of DownloadFile.
#pragma once

#include "qamserve/v1/artifact.grpc.pb.h"
#include "server/grpc/service_context.h"

namespace qamserve {

grpc::ServerWriteReactor<v1::DownloadFileResponse>* StartDownloadStream(ServiceContext& context,
                                                                        const grpc::CallbackServerContext& call,
                                                                        const v1::DownloadFileRequest& request);

}  // namespace qamserve
