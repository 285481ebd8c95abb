#include "server/grpc/open_inference_service.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "server/grpc/open_inference_calls.h"
#include "server/grpc/open_inference_tensors.h"
#include "server/grpc/status_conversion.h"

namespace qamserve {
namespace {

constexpr char kVersion[] = "1";
constexpr int32_t kMaxModels = 1000;

grpc::ServerUnaryReactor* AnswerAtOnce(grpc::CallbackServerContext* call, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

absl::Status CheckVersion(const std::string& model, const std::string& version) {
  if (version.empty() || version == kVersion) return absl::OkStatus();
  return NotFound("MODEL_NOT_FOUND", "model \"{}\" has no version \"{}\"; there is \"{}\"", model, version, kVersion);
}

absl::Status BadLoadParameter(std::string_view name) {
  return InvalidArgument("INFER_PARAMETER",
                         "parameter \"{}\" is not known or out of range; there are source (\"artifacts/...\" or "
                         "\"checkpoints/...\") and context_tokens, and config: a JSON object of these",
                         name);
}

absl::Status SetLoadParameter(std::string_view name, const nlohmann::json& value, v1::LoadModelRequest& load) {
  if (name == "source" && value.is_string()) {
    load.set_source(value.get<std::string>());
    return absl::OkStatus();
  }
  if (name == "context_tokens" && value.is_number_unsigned() && value.get<uint64_t>() <= (1U << 24)) {
    load.set_context_tokens(value.get<int32_t>());
    return absl::OkStatus();
  }
  return BadLoadParameter(name);
}

// Triton's clients have one parameter for whatever a server wants to know: "config", an object as text.
absl::StatusOr<v1::LoadModelRequest> LoadRequestFrom(const inference::RepositoryModelLoadRequest& request) {
  v1::LoadModelRequest load;
  load.set_name(request.model_name());
  for (const auto& [name, parameter] : request.parameters()) {
    if (name != "config") {
      const bool text = parameter.parameter_choice_case() == inference::ModelRepositoryParameter::kStringParam;
      const nlohmann::json value = text ? nlohmann::json(parameter.string_param())
                                        : nlohmann::json(static_cast<uint64_t>(parameter.int64_param()));
      RETURN_IF_ERROR(SetLoadParameter(name, value, load));
      continue;
    }
    const nlohmann::json config = nlohmann::json::parse(parameter.string_param(), nullptr, false);
    if (!config.is_object()) return BadLoadParameter(name);
    for (const auto& [key, value] : config.items()) RETURN_IF_ERROR(SetLoadParameter(key, value, load));
  }
  return load;
}

// The names of the protocol.
std::string_view StateText(v1::ServedModelState state) {
  switch (state) {
    case v1::SERVED_MODEL_STATE_READY:
      return "READY";
    case v1::SERVED_MODEL_STATE_LOADING:
      return "LOADING";
    case v1::SERVED_MODEL_STATE_DRAINING:
      return "UNLOADING";
    default:
      return "UNAVAILABLE";
  }
}

}  // namespace

grpc::ServerUnaryReactor* OpenInferenceService::ServerLive(grpc::CallbackServerContext* call,
                                                           const inference::ServerLiveRequest*,
                                                           inference::ServerLiveResponse* response) {
  response->set_live(true);
  return AnswerAtOnce(call, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerReady(grpc::CallbackServerContext* call,
                                                            const inference::ServerReadyRequest*,
                                                            inference::ServerReadyResponse* response) {
  response->set_ready(options_.ready());
  return AnswerAtOnce(call, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerMetadata(grpc::CallbackServerContext* call,
                                                               const inference::ServerMetadataRequest*,
                                                               inference::ServerMetadataResponse* response) {
  response->set_name("qamserve");
  response->set_version(options_.version);
  response->add_extensions("model_repository");
  response->add_extensions("binary_tensor_data");
  response->add_extensions("generate");
  return AnswerAtOnce(call, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelReady(grpc::CallbackServerContext* call,
                                                           const inference::ModelReadyRequest* request,
                                                           inference::ModelReadyResponse* response) {
  if (const absl::Status known = CheckVersion(request->name(), request->version()); !known.ok()) {
    return AnswerAtOnce(call, known);
  }
  v1::GetServedModelRequest inner;
  inner.set_name("servedModels/" + request->name());
  return Forward<v1::GetServedModelRequest, v1::ServedModel>(
      call, Serving(), &v1::ServingService::Stub::async_interface::GetServedModel, std::move(inner),
      [response](const v1::ServedModel& model) { response->set_ready(model.state() == v1::SERVED_MODEL_STATE_READY); });
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelMetadata(grpc::CallbackServerContext* call,
                                                              const inference::ModelMetadataRequest* request,
                                                              inference::ModelMetadataResponse* response) {
  if (const absl::Status known = CheckVersion(request->name(), request->version()); !known.ok()) {
    return AnswerAtOnce(call, known);
  }
  v1::GetServedModelRequest inner;
  inner.set_name("servedModels/" + request->name());
  return Forward<v1::GetServedModelRequest, v1::ServedModel>(
      call, Serving(), &v1::ServingService::Stub::async_interface::GetServedModel, std::move(inner),
      [response, name = request->name()](const v1::ServedModel&) {
        response->set_name(name);
        response->add_versions(kVersion);
        response->set_platform("qamserve");
        DescribeModel(*response);
      });
}

grpc::ServerUnaryReactor* OpenInferenceService::RepositoryIndex(grpc::CallbackServerContext* call,
                                                                const inference::RepositoryIndexRequest* request,
                                                                inference::RepositoryIndexResponse* response) {
  v1::ListServedModelsRequest inner;
  inner.set_page_size(kMaxModels);
  return Forward<v1::ListServedModelsRequest, v1::ListServedModelsResponse>(
      call, Serving(), &v1::ServingService::Stub::async_interface::ListServedModels, std::move(inner),
      [response, only_ready = request->ready()](const v1::ListServedModelsResponse& list) {
        for (const v1::ServedModel& model : list.models()) {
          if (only_ready && model.state() != v1::SERVED_MODEL_STATE_READY) continue;
          auto* entry = response->add_models();
          entry->set_name(model.name().substr(model.name().find('/') + 1));
          entry->set_version(kVersion);
          entry->set_state(std::string(StateText(model.state())));
          entry->set_reason(model.error());
        }
      });
}

grpc::ServerUnaryReactor* OpenInferenceService::RepositoryModelLoad(
    grpc::CallbackServerContext* call, const inference::RepositoryModelLoadRequest* request,
    inference::RepositoryModelLoadResponse*) {
  const absl::StatusOr<v1::LoadModelRequest> inner = LoadRequestFrom(*request);
  if (!inner.ok()) return AnswerAtOnce(call, inner.status());
  return Forward<v1::LoadModelRequest, v1::ServedModel>(
      call, Serving(), &v1::ServingService::Stub::async_interface::LoadModel, *inner, [](const v1::ServedModel&) {});
}

grpc::ServerUnaryReactor* OpenInferenceService::RepositoryModelUnload(
    grpc::CallbackServerContext* call, const inference::RepositoryModelUnloadRequest* request,
    inference::RepositoryModelUnloadResponse*) {
  v1::UnloadModelRequest inner;
  inner.set_name("servedModels/" + request->model_name());
  return Forward<v1::UnloadModelRequest, v1::ServedModel>(call, Serving(),
                                                          &v1::ServingService::Stub::async_interface::UnloadModel,
                                                          std::move(inner), [](const v1::ServedModel&) {});
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelInfer(grpc::CallbackServerContext* call,
                                                           const inference::ModelInferRequest* request,
                                                           inference::ModelInferResponse* response) {
  return StartInfer(call, options_.channel(), *request, response);
}

grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>*
OpenInferenceService::ModelStreamInfer(grpc::CallbackServerContext* call) {
  return StartStreamInfer(call, options_.channel());
}

}  // namespace qamserve
