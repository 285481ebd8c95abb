#include "server/grpc/serving_service.h"

#include "server/grpc/converters.h"

namespace qamserve {
namespace {

constexpr CallName ServingCall(std::string_view method) { return {"ServingService", method}; }
constexpr int32_t kDefaultPage = 50;
constexpr int32_t kMaxPage = 1000;

// Puts the page that `request` asks for into `response`: `add` takes one of `items`, which are sorted by name. The
// token is the last name of the page before.
template <typename Item, typename Request, typename Response, typename Add>
absl::Status FillPage(const std::vector<Item>& items, const Request& request, Response* response, Add add) {
  if (request.page_size() < 0 || request.page_size() > kMaxPage) {
    return InvalidArgument("PAGE_SIZE", "page_size must be 0 to {}; got {}", kMaxPage, request.page_size());
  }
  if (!request.page_token().empty() && !CheckModelName(request.page_token()).ok()) {
    return InvalidArgument("PAGE_TOKEN", "page_token is none that this server gave out");
  }
  const int32_t size = request.page_size() == 0 ? kDefaultPage : request.page_size();
  int32_t taken = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].name <= request.page_token()) continue;
    add(items[i]);
    if (++taken == size && i + 1 < items.size()) {
      response->set_next_page_token(items[i].name);
      break;
    }
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* ServingServiceImpl::LoadModel(grpc::CallbackServerContext* call,
                                                        const v1::LoadModelRequest* request,
                                                        v1::ServedModel* response) {
  return AnswerOn(context_.slow, context_, call, ServingCall("LoadModel"), [this, call, request, response]() -> absl::Status {
    LoadArgs args;
    args.name = request->name();
    args.source = request->source();
    args.context_tokens = request->context_tokens();
    args.replicas = request->replicas();
    args.request_id = request->request_id();
    args.deadline = absl::FromChrono(call->deadline());
    args.still_wanted = [this, call] { return ReadyToBegin(context_, *call); };
    ASSIGN_OR_RETURN(const ServedModelView model, context_.serving.Load(args));
    *response = ToProto(model);
    return absl::OkStatus();
  }, {request, response});
}

grpc::ServerUnaryReactor* ServingServiceImpl::UnloadModel(grpc::CallbackServerContext* call,
                                                          const v1::UnloadModelRequest* request,
                                                          v1::ServedModel* response) {
  return AnswerOn(context_.slow, context_, call, ServingCall("UnloadModel"), [this, call, request, response]() -> absl::Status {
    UnloadArgs args;
    ASSIGN_OR_RETURN(args.name, ParseResourceName(kServedModels, request->name()));
    args.drain_seconds =
        request->drain_seconds() == 0 ? context_.limits.default_drain_seconds : request->drain_seconds();
    args.request_id = request->request_id();
    args.deadline = absl::FromChrono(call->deadline());
    args.still_wanted = [this, call] { return ReadyToBegin(context_, *call); };
    ASSIGN_OR_RETURN(const ServedModelView model, context_.serving.Unload(args));
    *response = ToProto(model);
    return absl::OkStatus();
  }, {request, response});
}

grpc::ServerUnaryReactor* ServingServiceImpl::GetServedModel(grpc::CallbackServerContext* call,
                                                             const v1::GetServedModelRequest* request,
                                                             v1::ServedModel* response) {
  return AnswerOn(context_.quick, context_, call, ServingCall("GetServedModel"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string name, ParseResourceName(kServedModels, request->name()));
    ASSIGN_OR_RETURN(const ServedModelView model, context_.serving.Get(name));
    *response = ToProto(model);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ServingServiceImpl::ListServedModels(grpc::CallbackServerContext* call,
                                                               const v1::ListServedModelsRequest* request,
                                                               v1::ListServedModelsResponse* response) {
  return AnswerOn(context_.quick, context_, call, ServingCall("ListServedModels"),
                  [this, request, response]() -> absl::Status {
                    ASSIGN_OR_RETURN(const std::vector<ServedModelView> models, context_.serving.ListModels());
                    return FillPage(models, *request, response,
                                    [&](const ServedModelView& model) { *response->add_models() = ToProto(model); });
                  });
}

grpc::ServerUnaryReactor* ServingServiceImpl::UpdateAlias(grpc::CallbackServerContext* call,
                                                          const v1::UpdateAliasRequest* request, v1::Alias* response) {
  return AnswerOn(context_.quick, context_, call, ServingCall("UpdateAlias"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const UpdateAliasArgs args, UpdateAliasFromProto(*request));
    ASSIGN_OR_RETURN(const AliasRecord alias, context_.serving.UpdateAlias(args));
    *response = ToProto(alias);
    return absl::OkStatus();
  }, {request, response});
}

grpc::ServerUnaryReactor* ServingServiceImpl::GetAlias(grpc::CallbackServerContext* call,
                                                       const v1::GetAliasRequest* request, v1::Alias* response) {
  return AnswerOn(context_.quick, context_, call, ServingCall("GetAlias"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string name, ParseResourceName(kAliases, request->name()));
    ASSIGN_OR_RETURN(const AliasRecord alias, context_.serving.GetAlias(name));
    *response = ToProto(alias);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ServingServiceImpl::ListAliases(grpc::CallbackServerContext* call,
                                                          const v1::ListAliasesRequest* request,
                                                          v1::ListAliasesResponse* response) {
  return AnswerOn(context_.quick, context_, call, ServingCall("ListAliases"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<AliasRecord> aliases, context_.serving.ListAliases());
    return FillPage(aliases, *request, response,
                    [&](const AliasRecord& alias) { *response->add_aliases() = ToProto(alias); });
  });
}

grpc::ServerUnaryReactor* ServingServiceImpl::DeleteAlias(grpc::CallbackServerContext* call,
                                                          const v1::DeleteAliasRequest* request,
                                                          v1::DeleteAliasResponse*) {
  return AnswerOn(context_.quick, context_, call, ServingCall("DeleteAlias"), [this, request]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string name, ParseResourceName(kAliases, request->name()));
    return context_.serving.DeleteAlias(name, request->etag(), request->request_id());
  }, {request});
}

}  // namespace qamserve
