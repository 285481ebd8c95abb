#include "server/http/openai/models_endpoint.h"

#include <functional>
#include <utility>

#include "qamserve/v1/serving.pb.h"
#include "server/grpc/converters.h"

namespace qamserve::openai {
namespace {

constexpr std::string_view kListModels = "qamserve.v1.ServingService.ListServedModels";
constexpr std::string_view kListAliases = "qamserve.v1.ServingService.ListAliases";
constexpr std::string_view kGetModel = "qamserve.v1.ServingService.GetServedModel";
constexpr std::string_view kGetAlias = "qamserve.v1.ServingService.GetAlias";
constexpr int kPage = 1000;

Json ModelOf(std::string_view id, int64_t created) {
  Json out;
  out["id"] = id;
  out["object"] = "model";
  out["created"] = created;
  out["owned_by"] = "qamserve";
  return out;
}

Json ToModel(const v1::ServedModel& model) {
  Json out = ModelOf(WithoutCollection(kServedModels, model.name()), model.ready_time().seconds());
  // What clients that cut prompts to size look for; the name is vLLM's.
  out["max_model_len"] = model.context_tokens();
  return out;
}

Json ToModel(const v1::Alias& alias) {
  return ModelOf(WithoutCollection(kAliases, alias.name()), alias.update_time().seconds());
}

bool IsReady(const v1::ServedModel& model) { return model.state() == v1::SERVED_MODEL_STATE_READY; }

ApiError NoSuchModel(std::string_view id) {
  return {.status = 404,
          .message = fmt::format("The model '{}' does not exist or is not ready.", id),
          .type = "not_found_error",
          .param = "model",
          .code = "model_not_found"};
}

// Page after page of both lists; each call keeps this alive.
class ModelList : public std::enable_shared_from_this<ModelList> {
 public:
  explicit ModelList(std::shared_ptr<Session> session) : session_(std::move(session)) {}

  void AskModels(const std::string& page_token) {
    v1::ListServedModelsRequest request;
    request.set_page_size(kPage);
    request.set_page_token(page_token);
    session_->Ask<v1::ListServedModelsResponse>(
        kListModels, request, [self = shared_from_this()](const v1::ListServedModelsResponse& page) {
          for (const v1::ServedModel& model : page.models()) {
            if (IsReady(model)) self->data_.push_back(ToModel(model));
          }
          page.next_page_token().empty() ? self->AskAliases("") : self->AskModels(page.next_page_token());
        });
  }

 private:
  void AskAliases(const std::string& page_token) {
    v1::ListAliasesRequest request;
    request.set_page_size(kPage);
    request.set_page_token(page_token);
    session_->Ask<v1::ListAliasesResponse>(
        kListAliases, request, [self = shared_from_this()](const v1::ListAliasesResponse& page) {
          for (const v1::Alias& alias : page.aliases()) self->data_.push_back(ToModel(alias));
          page.next_page_token().empty() ? self->Finish() : self->AskAliases(page.next_page_token());
        });
  }

  void Finish() {
    Json out;
    out["object"] = "list";
    out["data"] = std::move(data_);
    session_->Respond(out);
  }

  const std::shared_ptr<Session> session_;
  Json data_ = Json::array();
};

void AskAlias(const std::shared_ptr<Session>& session, const std::string& id) {
  v1::GetAliasRequest request;
  request.set_name(fmt::format("{}/{}", kAliases, WithoutCollection(kAliases, id)));
  session->Try<v1::Alias>(kGetAlias, request, [session, id](const v1::Alias* alias, const grpc::Status& status) {
    if (alias != nullptr) return session->Respond(ToModel(*alias));
    const bool missing = status.error_code() == grpc::StatusCode::NOT_FOUND ||
                         status.error_code() == grpc::StatusCode::INVALID_ARGUMENT;  // no name at all
    session->RespondError(missing ? NoSuchModel(id) : session->ErrorOf(status));
  });
}

}  // namespace

void AnswerModels(const std::shared_ptr<Session>& session) { std::make_shared<ModelList>(session)->AskModels(""); }

void AnswerModel(const std::shared_ptr<Session>& session, const std::string& id) {
  if (WithoutCollection(kAliases, id).size() != id.size()) return AskAlias(session, id);
  v1::GetServedModelRequest request;
  request.set_name(fmt::format("{}/{}", kServedModels, WithoutCollection(kServedModels, id)));
  session->Try<v1::ServedModel>(
      kGetModel, request, [session, id](const v1::ServedModel* model, const grpc::Status& status) {
        if (model != nullptr) {
          return IsReady(*model) ? session->Respond(ToModel(*model)) : session->RespondError(NoSuchModel(id));
        }
        const bool missing = status.error_code() == grpc::StatusCode::NOT_FOUND ||
                             status.error_code() == grpc::StatusCode::INVALID_ARGUMENT;
        missing ? AskAlias(session, id) : session->RespondError(session->ErrorOf(status));
      });
}

}  // namespace qamserve::openai
