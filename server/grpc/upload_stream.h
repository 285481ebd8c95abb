// UploadFile: reads one message at a time and asks for the next only when its bytes are in the store, so a fast client
// waits in its own send buffer (HTTP/2 flow control) and the server holds one message a stream.
#pragma once

#include "qamserve/v1/checkpoint.grpc.pb.h"
#include "server/grpc/service_context.h"

namespace qamserve {

grpc::ServerReadReactor<v1::UploadFileRequest>* StartUploadStream(ServiceContext& context,
                                                                  grpc::CallbackServerContext* call,
                                                                  v1::UploadFileResponse* response);

}  // namespace qamserve
