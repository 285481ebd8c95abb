// AdminService of admin.proto: what instances, queue and stores are like, and what can be put in order by hand.
#pragma once

#include "qamserve/v1/admin.grpc.pb.h"
#include "server/grpc/service_context.h"

namespace qamserve {

class AdminServiceImpl final : public v1::AdminService::CallbackService {
 public:
  explicit AdminServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* ListInstances(grpc::CallbackServerContext* call, const v1::ListInstancesRequest* request,
                                          v1::ListInstancesResponse* response) override;
  grpc::ServerUnaryReactor* DrainInstance(grpc::CallbackServerContext* call, const v1::DrainInstanceRequest* request,
                                          v1::Instance* response) override;
  grpc::ServerUnaryReactor* ListLeases(grpc::CallbackServerContext* call, const v1::ListLeasesRequest* request,
                                       v1::ListLeasesResponse* response) override;
  grpc::ServerUnaryReactor* ReleaseLease(grpc::CallbackServerContext* call, const v1::ReleaseLeaseRequest* request,
                                         v1::ReleaseLeaseResponse* response) override;
  grpc::ServerUnaryReactor* GetQueue(grpc::CallbackServerContext* call, const v1::GetQueueRequest* request,
                                     v1::Queue* response) override;
  grpc::ServerUnaryReactor* CollectGarbage(grpc::CallbackServerContext* call, const v1::CollectGarbageRequest* request,
                                           v1::Garbage* response) override;
  grpc::ServerUnaryReactor* GetSchema(grpc::CallbackServerContext* call, const v1::GetSchemaRequest* request,
                                      v1::Schema* response) override;
  grpc::ServerWriteReactor<v1::BackupChunk>* BackupMetadata(grpc::CallbackServerContext* call,
                                                            const v1::BackupMetadataRequest* request) override;

 private:
  ServiceContext& context_;
};

}  // namespace qamserve
