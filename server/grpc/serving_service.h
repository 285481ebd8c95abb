// ServingService over ServingControl.
#pragma once

#include "qamserve/v1/serving.grpc.pb.h"
#include "server/grpc/call.h"

namespace qamserve {

class ServingServiceImpl final : public v1::ServingService::CallbackService {
 public:
  explicit ServingServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* call, const v1::LoadModelRequest* request,
                                      v1::ServedModel* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* call, const v1::UnloadModelRequest* request,
                                        v1::ServedModel* response) override;
  grpc::ServerUnaryReactor* GetServedModel(grpc::CallbackServerContext* call, const v1::GetServedModelRequest* request,
                                           v1::ServedModel* response) override;
  grpc::ServerUnaryReactor* ListServedModels(grpc::CallbackServerContext* call,
                                             const v1::ListServedModelsRequest* request,
                                             v1::ListServedModelsResponse* response) override;
  grpc::ServerUnaryReactor* UpdateAlias(grpc::CallbackServerContext* call, const v1::UpdateAliasRequest* request,
                                        v1::Alias* response) override;
  grpc::ServerUnaryReactor* GetAlias(grpc::CallbackServerContext* call, const v1::GetAliasRequest* request,
                                     v1::Alias* response) override;
  grpc::ServerUnaryReactor* ListAliases(grpc::CallbackServerContext* call, const v1::ListAliasesRequest* request,
                                        v1::ListAliasesResponse* response) override;
  grpc::ServerUnaryReactor* DeleteAlias(grpc::CallbackServerContext* call, const v1::DeleteAliasRequest* request,
                                        v1::DeleteAliasResponse* response) override;

 private:
  ServiceContext& context_;
};

}  // namespace qamserve
