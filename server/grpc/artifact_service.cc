#include "server/grpc/artifact_service.h"

#include "server/grpc/converters.h"
#include "server/grpc/download_stream.h"

namespace qamserve {
namespace {

// Well below the message limit of 4 MiB, with room for the tensors beside it.
constexpr uint64_t kMaxReportBytes = uint64_t{2} << 20;

constexpr CallName ArtifactCall(std::string_view method) { return {"ArtifactService", method}; }

absl::Status FillReport(ServiceContext& context, const std::string& digest, v1::Report* response) {
  ASSIGN_OR_RETURN(const ArtifactRecord artifact, context.catalog.GetArtifact(digest));
  ASSIGN_OR_RETURN(std::string json, context.catalog.ReadArtifactFile(digest, "report.json", 0, kMaxReportBytes));
  response->set_artifact(ResourceName("artifacts", digest));
  response->set_json(ValidUtf8(json));
  if (!artifact.quality_json.empty()) {
    ASSIGN_OR_RETURN(const QualityReport quality, QualityReportFromJson(artifact.quality_json));
    *response->mutable_quality() = ToProto(quality);
  }
  if (!artifact.tensors_json.empty()) {
    ASSIGN_OR_RETURN(const std::vector<TensorOutcome> tensors, TensorOutcomesFromJson(artifact.tensors_json));
    for (const TensorOutcome& tensor : tensors) *response->add_tensors() = ToProto(tensor);
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* ArtifactServiceImpl::GetArtifact(grpc::CallbackServerContext* call,
                                                           const v1::GetArtifactRequest* request,
                                                           v1::Artifact* response) {
  return AnswerOn(context_.quick, context_, call, ArtifactCall("GetArtifact"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string digest, ParseResourceName("artifacts", request->name()));
    ASSIGN_OR_RETURN(const ArtifactRecord artifact, context_.catalog.GetArtifact(digest));
    *response = ToProto(artifact);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ArtifactServiceImpl::ListArtifacts(grpc::CallbackServerContext* call,
                                                             const v1::ListArtifactsRequest* request,
                                                             v1::ListArtifactsResponse* response) {
  return AnswerOn(context_.quick, context_, call, ArtifactCall("ListArtifacts"), [this, request, response]() -> absl::Status {
    std::string checkpoint;
    if (!request->checkpoint().empty()) {
      ASSIGN_OR_RETURN(checkpoint, ParseResourceName("checkpoints", request->checkpoint()));
    }
    ASSIGN_OR_RETURN(const Page<ArtifactRecord> page,
                     context_.catalog.ListArtifacts(PageFromProto(request->page_size(), request->page_token()),
                                                    checkpoint));
    for (const ArtifactRecord& artifact : page.items) *response->add_artifacts() = ToProto(artifact);
    response->set_next_page_token(page.next_page_token);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::DownloadFileResponse>* ArtifactServiceImpl::DownloadFile(
    grpc::CallbackServerContext* call, const v1::DownloadFileRequest* request) {
  return StartDownloadStream(context_, *call, *request);
}

grpc::ServerUnaryReactor* ArtifactServiceImpl::GetReport(grpc::CallbackServerContext* call,
                                                         const v1::GetReportRequest* request, v1::Report* response) {
  return AnswerOn(context_.quick, context_, call, ArtifactCall("GetReport"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string digest, ParseResourceName("artifacts", request->artifact()));
    return FillReport(context_, digest, response);
  });
}

grpc::ServerUnaryReactor* ArtifactServiceImpl::DeleteArtifact(grpc::CallbackServerContext* call,
                                                              const v1::DeleteArtifactRequest* request,
                                                              v1::DeleteArtifactResponse*) {
  return AnswerOn(context_.slow, context_, call, ArtifactCall("DeleteArtifact"), [this, request]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string digest, ParseResourceName("artifacts", request->name()));
    return context_.catalog.DeleteArtifact(digest, request->request_id());
  }, {request});
}

}  // namespace qamserve
