// SystemService: the process that answers.
#pragma once

#include "qamserve/v1/system.grpc.pb.h"
#include "server/grpc/call.h"

namespace qamserve {

class SystemServiceImpl final : public v1::SystemService::CallbackService {
 public:
  explicit SystemServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetSystem(grpc::CallbackServerContext* call, const v1::GetSystemRequest* request,
                                      v1::System* response) override;

 private:
  ServiceContext& context_;
};

}  // namespace qamserve
