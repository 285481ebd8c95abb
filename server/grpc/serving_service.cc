#include "server/grpc/serving_service.h"

#include "server/grpc/converters.h"

namespace qamserve {
namespace {

constexpr CallName Name(std::string_view method) { return {"ServingService", method}; }
constexpr int32_t kDefaultPage = 50;
constexpr int32_t kMaxPage = 1000;

absl::Status FillList(const std::vector<ServedModelView>& models, const v1::ListServedModelsRequest& request,
                      v1::ListServedModelsResponse* response) {
  if (request.page_size() < 0 || request.page_size() > kMaxPage) {
    return InvalidArgument("PAGE_SIZE", "page_size must be 0 to {}; got {}", kMaxPage, request.page_size());
  }
  // The token is the last name of the page before; models are sorted by name.
  if (!request.page_token().empty() && !CheckModelName(request.page_token()).ok()) {
    return InvalidArgument("PAGE_TOKEN", "page_token is none that this server gave out");
  }
  const int32_t size = request.page_size() == 0 ? kDefaultPage : request.page_size();
  for (size_t i = 0; i < models.size(); ++i) {
    if (models[i].name <= request.page_token()) continue;
    *response->add_models() = ToProto(models[i]);
    if (response->models_size() == size && i + 1 < models.size()) {
      response->set_next_page_token(models[i].name);
      break;
    }
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* ServingServiceImpl::LoadModel(grpc::CallbackServerContext* call,
                                                        const v1::LoadModelRequest* request,
                                                        v1::ServedModel* response) {
  return AnswerOn(context_.slow, context_, call, Name("LoadModel"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const ServedModelView model,
                     context_.models.Load({request->name(), request->source(), request->context_tokens(),
                                           request->request_id()}));
    *response = ToProto(model);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ServingServiceImpl::UnloadModel(grpc::CallbackServerContext* call,
                                                          const v1::UnloadModelRequest* request,
                                                          v1::ServedModel* response) {
  return AnswerOn(context_.slow, context_, call, Name("UnloadModel"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string name, ParseResourceName("servedModels", request->name()));
    const double seconds =
        request->drain_seconds() == 0 ? context_.limits.default_drain_seconds : request->drain_seconds();
    ASSIGN_OR_RETURN(const ServedModelView model, context_.models.Unload(name, seconds, request->request_id()));
    *response = ToProto(model);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ServingServiceImpl::GetServedModel(grpc::CallbackServerContext* call,
                                                             const v1::GetServedModelRequest* request,
                                                             v1::ServedModel* response) {
  return AnswerOn(context_.quick, context_, call, Name("GetServedModel"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string name, ParseResourceName("servedModels", request->name()));
    ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, context_.models.Find(name));
    *response = ToProto(model->View());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ServingServiceImpl::ListServedModels(grpc::CallbackServerContext* call,
                                                               const v1::ListServedModelsRequest* request,
                                                               v1::ListServedModelsResponse* response) {
  return AnswerOn(context_.quick, context_, call, Name("ListServedModels"), [this, request, response]() -> absl::Status {
    return FillList(context_.models.List(), *request, response);
  });
}

}  // namespace qamserve
