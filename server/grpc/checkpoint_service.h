// CheckpointService over Catalog.
#pragma once

#include "qamserve/v1/checkpoint.grpc.pb.h"
#include "server/grpc/call.h"

namespace qamserve {

class CheckpointServiceImpl final : public v1::CheckpointService::CallbackService {
 public:
  explicit CheckpointServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* CreateUpload(grpc::CallbackServerContext* call, const v1::CreateUploadRequest* request,
                                         v1::Upload* response) override;
  grpc::ServerReadReactor<v1::UploadFileRequest>* UploadFile(grpc::CallbackServerContext* call,
                                                             v1::UploadFileResponse* response) override;
  grpc::ServerUnaryReactor* QueryUpload(grpc::CallbackServerContext* call, const v1::QueryUploadRequest* request,
                                        v1::Upload* response) override;
  grpc::ServerUnaryReactor* CompleteUpload(grpc::CallbackServerContext* call, const v1::CompleteUploadRequest* request,
                                           v1::CompleteUploadResponse* response) override;
  grpc::ServerUnaryReactor* CancelUpload(grpc::CallbackServerContext* call, const v1::CancelUploadRequest* request,
                                         v1::CancelUploadResponse* response) override;
  grpc::ServerUnaryReactor* ImportCheckpoint(grpc::CallbackServerContext* call,
                                             const v1::ImportCheckpointRequest* request,
                                             v1::CompleteUploadResponse* response) override;
  grpc::ServerUnaryReactor* GetCheckpoint(grpc::CallbackServerContext* call, const v1::GetCheckpointRequest* request,
                                          v1::Checkpoint* response) override;
  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* call,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteCheckpoint(grpc::CallbackServerContext* call,
                                             const v1::DeleteCheckpointRequest* request,
                                             v1::DeleteCheckpointResponse* response) override;

 private:
  ServiceContext& context_;
};

}  // namespace qamserve
