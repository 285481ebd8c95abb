// ArtifactService over Catalog.
#pragma once

#include "qamserve/v1/artifact.grpc.pb.h"
#include "server/grpc/call.h"

namespace qamserve {

class ArtifactServiceImpl final : public v1::ArtifactService::CallbackService {
 public:
  explicit ArtifactServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetArtifact(grpc::CallbackServerContext* call, const v1::GetArtifactRequest* request,
                                        v1::Artifact* response) override;
  grpc::ServerUnaryReactor* ListArtifacts(grpc::CallbackServerContext* call, const v1::ListArtifactsRequest* request,
                                          v1::ListArtifactsResponse* response) override;
  grpc::ServerWriteReactor<v1::DownloadFileResponse>* DownloadFile(grpc::CallbackServerContext* call,
                                                                   const v1::DownloadFileRequest* request) override;
  grpc::ServerUnaryReactor* GetReport(grpc::CallbackServerContext* call, const v1::GetReportRequest* request,
                                      v1::Report* response) override;
  grpc::ServerUnaryReactor* DeleteArtifact(grpc::CallbackServerContext* call, const v1::DeleteArtifactRequest* request,
                                           v1::DeleteArtifactResponse* response) override;

 private:
  ServiceContext& context_;
};

}  // namespace qamserve
