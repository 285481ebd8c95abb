// WatchJob: the job now, then after every change, with the tensors that are new; ends after a final state, or with
// UNAVAILABLE (SHUTTING_DOWN) when the server drains. Changes that come while a message is on its way, or within 100 ms
// after it, are told together.
#pragma once

#include <string>

#include "qamserve/v1/job.grpc.pb.h"
#include "server/grpc/service_context.h"

namespace qamserve {

// `name` is the job's resource name.
grpc::ServerWriteReactor<v1::Job>* StartWatchStream(ServiceContext& context, const grpc::CallbackServerContext& call,
                                                   const std::string& name);

}  // namespace qamserve
