#include "server/grpc/checkpoint_service.h"

#include "server/grpc/converters.h"
#include "server/grpc/upload_stream.h"

namespace qamserve {
namespace {

constexpr CallName CheckpointCall(std::string_view method) { return {"CheckpointService", method}; }

std::string_view KindLabel(UploadKind kind) { return kind == UploadKind::kText ? "text" : "checkpoint"; }

absl::Status CountUpload(ServiceContext& context, const CallGuard& guard, UploadKind kind,
                         const absl::StatusOr<CheckpointOrText>& result, v1::CompleteUploadResponse* response) {
  context.metrics.Add(Metric::kUploadsTotal, {KindLabel(kind), result.ok() ? "completed" : "refused"});
  if (!result.ok()) return result.status();
  *response = ToProto(*result);
  Log::Fields fields = guard.LogFields();
  fields["name"] = response->has_text() ? response->text().name() : response->checkpoint().name();
  context.log.Info("model_or_text_added", fields);
  return absl::OkStatus();
}

absl::StatusOr<CheckpointOrText> Import(ServiceContext& context, const grpc::CallbackServerContext& call,
                                        UploadKind kind, const v1::ImportCheckpointRequest& request) {
  if (!request.path().empty() && !request.source().empty()) {
    return InvalidArgument("IMPORT_PATH", "one of path and source can be given, not both");
  }
  if (request.source().empty()) {
    return context.catalog.Import(kind, request.path(), request.display_name(), request.request_id());
  }
  return context.catalog.ImportRemote(kind, request.source(), request.display_name(), request.request_id(),
                                      [&] { return call.IsCancelled() || context.drain.raised(); });
}

}  // namespace

grpc::ServerUnaryReactor* CheckpointServiceImpl::CreateUpload(grpc::CallbackServerContext* call,
                                                              const v1::CreateUploadRequest* request,
                                                              v1::Upload* response) {
  return AnswerOn(context_.quick, context_, call, CheckpointCall("CreateUpload"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const UploadKind kind, UploadKindFromProto(request->kind()));
    ASSIGN_OR_RETURN(const std::vector<FileRecord> files, FilesFromProto(request->files()));
    ASSIGN_OR_RETURN(const UploadView upload, context_.catalog.CreateUpload(kind, files, request->display_name(),
                                                                            request->request_id()));
    *response = ToProto(upload);
    return absl::OkStatus();
  }, {request, response});
}

grpc::ServerReadReactor<v1::UploadFileRequest>* CheckpointServiceImpl::UploadFile(grpc::CallbackServerContext* call,
                                                                                  v1::UploadFileResponse* response) {
  return StartUploadStream(context_, call, response);
}

grpc::ServerUnaryReactor* CheckpointServiceImpl::QueryUpload(grpc::CallbackServerContext* call,
                                                             const v1::QueryUploadRequest* request,
                                                             v1::Upload* response) {
  return AnswerOn(context_.quick, context_, call, CheckpointCall("QueryUpload"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string id, ParseResourceName("uploads", request->name()));
    ASSIGN_OR_RETURN(const UploadView upload, context_.catalog.QueryUpload(id));
    *response = ToProto(upload);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CheckpointServiceImpl::CompleteUpload(grpc::CallbackServerContext* call,
                                                                const v1::CompleteUploadRequest* request,
                                                                v1::CompleteUploadResponse* response) {
  return AnswerOn(context_.slow, context_, call, CheckpointCall("CompleteUpload"), [this, request, response](const CallGuard& guard) -> absl::Status {
    ASSIGN_OR_RETURN(const std::string id, ParseResourceName("uploads", request->name()));
    ASSIGN_OR_RETURN(const UploadView upload, context_.catalog.QueryUpload(id));
    return CountUpload(context_, guard, upload.kind, context_.catalog.CompleteUpload(id, request->request_id()), response);
  }, {request, response});
}

grpc::ServerUnaryReactor* CheckpointServiceImpl::CancelUpload(grpc::CallbackServerContext* call,
                                                              const v1::CancelUploadRequest* request,
                                                              v1::CancelUploadResponse*) {
  return AnswerOn(context_.quick, context_, call, CheckpointCall("CancelUpload"), [this, request]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string id, ParseResourceName("uploads", request->name()));
    return context_.catalog.CancelUpload(id);
  }, {request});
}

grpc::ServerUnaryReactor* CheckpointServiceImpl::ImportCheckpoint(grpc::CallbackServerContext* call,
                                                                  const v1::ImportCheckpointRequest* request,
                                                                  v1::CompleteUploadResponse* response) {
  Executor& executor = request->source().empty() ? context_.slow : context_.transfers;
  return AnswerOn(executor, context_, call, CheckpointCall("ImportCheckpoint"), [this, call, request, response](const CallGuard& guard) -> absl::Status {
    ASSIGN_OR_RETURN(const UploadKind kind, UploadKindFromProto(request->kind()));
    return CountUpload(context_, guard, kind, Import(context_, *call, kind, *request), response);
  }, {request, response});
}

grpc::ServerUnaryReactor* CheckpointServiceImpl::GetCheckpoint(grpc::CallbackServerContext* call,
                                                               const v1::GetCheckpointRequest* request,
                                                               v1::Checkpoint* response) {
  return AnswerOn(context_.quick, context_, call, CheckpointCall("GetCheckpoint"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string digest, ParseResourceName("checkpoints", request->name()));
    ASSIGN_OR_RETURN(const CheckpointRecord checkpoint, context_.catalog.GetCheckpoint(digest));
    *response = ToProto(checkpoint);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CheckpointServiceImpl::ListCheckpoints(grpc::CallbackServerContext* call,
                                                                 const v1::ListCheckpointsRequest* request,
                                                                 v1::ListCheckpointsResponse* response) {
  return AnswerOn(context_.quick, context_, call, CheckpointCall("ListCheckpoints"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const Page<CheckpointRecord> page,
                     context_.catalog.ListCheckpoints(PageFromProto(request->page_size(), request->page_token())));
    for (const CheckpointRecord& checkpoint : page.items) *response->add_checkpoints() = ToProto(checkpoint);
    response->set_next_page_token(page.next_page_token);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CheckpointServiceImpl::DeleteCheckpoint(grpc::CallbackServerContext* call,
                                                                  const v1::DeleteCheckpointRequest* request,
                                                                  v1::DeleteCheckpointResponse*) {
  return AnswerOn(context_.slow, context_, call, CheckpointCall("DeleteCheckpoint"), [this, request]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string digest, ParseResourceName("checkpoints", request->name()));
    return context_.catalog.DeleteCheckpoint(digest, request->request_id());
  }, {request});
}

}  // namespace qamserve
