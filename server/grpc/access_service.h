// AccessService over AccessControl.
#pragma once

#include "qamserve/v1/access.grpc.pb.h"
#include "server/grpc/call.h"

namespace qamserve {

class AccessServiceImpl final : public v1::AccessService::CallbackService {
 public:
  explicit AccessServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* CreateKey(grpc::CallbackServerContext* call, const v1::CreateKeyRequest* request,
                                      v1::NewKey* response) override;
  grpc::ServerUnaryReactor* GetKey(grpc::CallbackServerContext* call, const v1::GetKeyRequest* request,
                                   v1::Key* response) override;
  grpc::ServerUnaryReactor* ListKeys(grpc::CallbackServerContext* call, const v1::ListKeysRequest* request,
                                     v1::ListKeysResponse* response) override;
  grpc::ServerUnaryReactor* RotateKey(grpc::CallbackServerContext* call, const v1::RotateKeyRequest* request,
                                      v1::NewKey* response) override;
  grpc::ServerUnaryReactor* RevokeKey(grpc::CallbackServerContext* call, const v1::RevokeKeyRequest* request,
                                      v1::Key* response) override;
  grpc::ServerUnaryReactor* DeleteKey(grpc::CallbackServerContext* call, const v1::DeleteKeyRequest* request,
                                      v1::DeleteKeyResponse* response) override;
  grpc::ServerUnaryReactor* GetCaller(grpc::CallbackServerContext* call, const v1::GetCallerRequest* request,
                                      v1::Caller* response) override;
  grpc::ServerUnaryReactor* ListAuditEvents(grpc::CallbackServerContext* call,
                                            const v1::ListAuditEventsRequest* request,
                                            v1::ListAuditEventsResponse* response) override;

 private:
  ServiceContext& context_;
};

}  // namespace qamserve
