#include "server/http/open_inference/open_inference_part.h"

#include <absl/strings/numbers.h>
#include <absl/time/time.h>

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "inference/open_inference.pb.h"
#include "qamserve/v1/inference.pb.h"
#include "server/grpc/open_inference_tensors.h"
#include "server/grpc/status_conversion.h"
#include "server/http/open_inference/infer_json.h"
#include "server/http/openai/event_stream.h"
#include "server/http/percent.h"
#include "server/http/rest/errors.h"

namespace qamserve {
namespace {

using google::protobuf::Message;
using nlohmann::json;
using open_inference::ErrorBody;

constexpr size_t kMaxBodyBytes = size_t{16} << 20;
constexpr absl::Duration kPingInterval = absl::Seconds(15);
constexpr char kJsonBytes[] = "Inference-Header-Content-Length";

using Exchange = std::shared_ptr<HttpExchange>;

HttpAnswerHead JsonHead(int status) { return {.status = status, .fields = {{"Content-Type", "application/json"}}}; }

void Refuse(const Exchange& exchange, const grpc::Status& status) {
  rest::Answer answer = rest::ErrorAnswer(status);
  exchange->Respond(std::move(answer.head), ErrorBody(status.error_message()));
}
void Refuse(const Exchange& exchange, const absl::Status& status) { Refuse(exchange, ToGrpcStatus(status)); }

const google::protobuf::MethodDescriptor& MethodNamed(const char* name) {
  return *inference::ModelInferRequest::descriptor()
              ->file()
              ->FindServiceByName("GRPCInferenceService")
              ->FindMethodByName(name);
}

// One call, and what becomes of its answer. A client that goes away cancels it.
template <typename Response>
void Forward(LocalCalls& calls, const Exchange& exchange, const char* method, const Message& request,
             std::function<void(const Exchange&, const Response&)> answer) {
  const absl::StatusOr<CallMetadata> metadata = CallMetadataOf(exchange->head());
  if (!metadata.ok()) return Refuse(exchange, metadata.status());
  const auto call = calls.Unary(
      MethodNamed(method), request, *metadata,
      [exchange, answer = std::move(answer)](const std::unique_ptr<Message>& message, const grpc::Status& status) {
        if (!status.ok()) return Refuse(exchange, status);
        answer(exchange, static_cast<const Response&>(*message));
      });
  exchange->OnGone([call] { call->Cancel(); });
}

json TensorJson(const inference::ModelMetadataResponse::TensorMetadata& tensor) {
  return {{"name", tensor.name()},
          {"datatype", tensor.datatype()},
          {"shape", std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end())}};
}

json MetadataJson(const inference::ModelMetadataResponse& metadata) {
  json inputs = json::array();
  for (const auto& tensor : metadata.inputs()) inputs.push_back(TensorJson(tensor));
  json outputs = json::array();
  for (const auto& tensor : metadata.outputs()) outputs.push_back(TensorJson(tensor));
  return {{"name", metadata.name()},
          {"versions", std::vector<std::string>(metadata.versions().begin(), metadata.versions().end())},
          {"platform", metadata.platform()},
          {"inputs", std::move(inputs)},
          {"outputs", std::move(outputs)}};
}

// A generation as server-sent events, one for each message of Generate. Kept alive by its pending Read.
class GenerateEvents : public std::enable_shared_from_this<GenerateEvents> {
 public:
  GenerateEvents(Exchange exchange, std::shared_ptr<LocalStream> stream, std::string model, std::string id)
      : exchange_(std::move(exchange)), stream_(std::move(stream)), model_(std::move(model)), id_(std::move(id)) {}

  void Start() {
    exchange_->OnGone([stream = stream_] { stream->Cancel(); });
    Read();
  }

 private:
  void Read() {
    stream_->Read([self = shared_from_this()](const std::unique_ptr<Message>& message, const grpc::Status& status) {
      if (message == nullptr) return self->End(status);
      self->Send(static_cast<const v1::GenerateResponse&>(*message));
    });
  }
  void Send(const v1::GenerateResponse& response) {
    BeginOnce();
    json event = {{"model_name", model_}, {"model_version", "1"}, {"text_output", response.text()}};
    if (!id_.empty()) event["id"] = id_;
    if (response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      event["finish_reason"] = std::string(FinishReasonText(response.finish_reason()));
    }
    events_->Send(event.dump());
    events_->WhenDrained([self = shared_from_this()] { self->Read(); });
  }
  // Before the first event an error has a status of its own.
  void End(const grpc::Status& status) {
    if (events_ == nullptr && !status.ok()) return Refuse(exchange_, status);
    BeginOnce();
    if (!status.ok()) events_->Send(ErrorBody(status.error_message()));
    events_->End();
  }
  void BeginOnce() {
    if (events_ != nullptr) return;
    HttpAnswerHead head{
        .status = 200, .fields = {{"Content-Type", "text/event-stream; charset=utf-8"}, {"Cache-Control", "no-cache"}}};
    events_ = openai::EventStream::Begin(exchange_, std::move(head), kPingInterval);
  }

  const Exchange exchange_;
  const std::shared_ptr<LocalStream> stream_;
  const std::string model_;
  const std::string id_;
  std::shared_ptr<openai::EventStream> events_;
};

// What a path names.
struct Target {
  std::vector<std::string> parts;  // decoded, behind "/v2"
  bool Is(std::initializer_list<std::string_view> names) const {
    return std::equal(parts.begin(), parts.end(), names.begin(), names.end(),
                      [](const std::string& part, std::string_view name) { return name == "*" || part == name; });
  }
};

absl::StatusOr<Target> TargetOf(std::string_view path) {
  Target target;
  path.remove_prefix(std::string_view("/v2").size());
  while (!path.empty()) {
    path.remove_prefix(1);
    const size_t end = std::min(path.find('/'), path.size());
    ASSIGN_OR_RETURN(std::string part, PercentDecode(path.substr(0, end)));
    target.parts.push_back(std::move(part));
    path.remove_prefix(end);
  }
  if (!target.parts.empty() && target.parts.back().empty()) target.parts.pop_back();  // a slash at the end
  return target;
}

class OpenInference : public std::enable_shared_from_this<OpenInference> {
 public:
  explicit OpenInference(std::shared_ptr<LocalCalls> calls) : calls_(std::move(calls)) {}

  void Handle(const Exchange& exchange) {
    const absl::StatusOr<Target> target = TargetOf(exchange->head().path);
    if (!target.ok()) return Refuse(exchange, target.status());
    const std::string& method = exchange->head().method;
    if (method == "GET" || method == "HEAD") return Get(exchange, *target);
    if (method == "POST") return Post(exchange, *target);
    exchange->Respond({.status = 405, .fields = {{"Allow", "GET, HEAD, POST"}, {"Content-Type", "application/json"}}},
                      ErrorBody("the method must be GET or POST"));
  }

 private:
  void Get(const Exchange& exchange, const Target& target) {
    const auto& parts = target.parts;
    if (parts.empty()) return ServerMetadata(exchange);
    if (target.Is({"health", "live"})) return Live(exchange);
    if (target.Is({"health", "ready"})) return Ready(exchange);
    if (target.Is({"models", "*"})) return Model(exchange, parts[1], "");
    if (target.Is({"models", "*", "versions", "*"})) return Model(exchange, parts[1], parts[3]);
    if (target.Is({"models", "*", "ready"})) return ModelReady(exchange, parts[1], "");
    if (target.Is({"models", "*", "versions", "*", "ready"})) return ModelReady(exchange, parts[1], parts[3]);
    NotThere(exchange);
  }

  void Post(const Exchange& exchange, const Target& target) {
    const auto& parts = target.parts;
    const bool versioned = parts.size() == 5 && parts[0] == "models" && parts[2] == "versions";
    if (versioned || (parts.size() == 3 && parts[0] == "models")) {
      const std::string version = versioned ? parts[3] : "";
      if (parts.back() == "infer")
        return WithBody(exchange, [=, model = parts[1]](auto& self, std::string body) {
          self.Infer(exchange, model, version, body);
        });
      const bool stream = parts.back() == "generate_stream";
      if (stream || parts.back() == "generate") {
        return WithBody(exchange, [=, model = parts[1]](auto& self, std::string body) {
          self.Generate(exchange, model, version, body, stream);
        });
      }
    }
    if (target.Is({"repository", "index"})) {
      return WithBody(exchange, [=](auto& self, const std::string& body) { self.Index(exchange, body); });
    }
    if (target.Is({"repository", "models", "*", "load"})) {
      return WithBody(exchange,
                      [=, model = parts[2]](auto& self, const std::string& body) { self.Load(exchange, model, body); });
    }
    if (target.Is({"repository", "models", "*", "unload"})) {
      return WithBody(exchange,
                      [=, model = parts[2]](auto& self, const std::string&) { self.Unload(exchange, model); });
    }
    NotThere(exchange);
  }

  static void NotThere(const Exchange& exchange) {
    exchange->Respond(JsonHead(404), ErrorBody(fmt::format("there is no {}", exchange->head().path)));
  }

  void WithBody(const Exchange& exchange, std::function<void(OpenInference&, std::string)> handle) {
    ReadBody(exchange, kMaxBodyBytes,
             [self = shared_from_this(), exchange, handle = std::move(handle)](absl::StatusOr<std::string> body) {
               if (!body.ok())
                 return exchange->Respond(rest::ErrorAnswer(body.status()).head, ErrorBody(MessageOf(body.status())));
               handle(*self, *std::move(body));
             });
  }

  // --- GET ---
  void ServerMetadata(const Exchange& exchange) {
    Forward<inference::ServerMetadataResponse>(
        *calls_, exchange, "ServerMetadata", inference::ServerMetadataRequest(),
        [](const Exchange& to, const inference::ServerMetadataResponse& response) {
          const json body = {
              {"name", response.name()},
              {"version", response.version()},
              {"extensions", std::vector<std::string>(response.extensions().begin(), response.extensions().end())}};
          to->Respond(JsonHead(200), body.dump());
        });
  }
  void Live(const Exchange& exchange) {
    Forward<inference::ServerLiveResponse>(*calls_, exchange, "ServerLive", inference::ServerLiveRequest(),
                                           [](const Exchange& to, const inference::ServerLiveResponse& response) {
                                             to->Respond(JsonHead(200), json{{"live", response.live()}}.dump());
                                           });
  }
  void Ready(const Exchange& exchange) {
    Forward<inference::ServerReadyResponse>(
        *calls_, exchange, "ServerReady", inference::ServerReadyRequest(),
        [](const Exchange& to, const inference::ServerReadyResponse& response) {
          to->Respond(JsonHead(response.ready() ? 200 : 503), json{{"ready", response.ready()}}.dump());
        });
  }
  void Model(const Exchange& exchange, const std::string& model, const std::string& version) {
    inference::ModelMetadataRequest request;
    request.set_name(model);
    request.set_version(version);
    Forward<inference::ModelMetadataResponse>(*calls_, exchange, "ModelMetadata", request,
                                              [](const Exchange& to, const inference::ModelMetadataResponse& response) {
                                                to->Respond(JsonHead(200), MetadataJson(response).dump());
                                              });
  }
  void ModelReady(const Exchange& exchange, const std::string& model, const std::string& version) {
    inference::ModelReadyRequest request;
    request.set_name(model);
    request.set_version(version);
    Forward<inference::ModelReadyResponse>(*calls_, exchange, "ModelReady", request,
                                           [model](const Exchange& to, const inference::ModelReadyResponse& response) {
                                             to->Respond(JsonHead(response.ready() ? 200 : 503),
                                                         json{{"name", model}, {"ready", response.ready()}}.dump());
                                           });
  }

  // --- POST ---
  static absl::Status CheckVersion(const std::string& model, const std::string& version) {
    if (version.empty() || version == "1") return absl::OkStatus();
    return NotFound("MODEL_NOT_FOUND", "model \"{}\" has no version \"{}\"; there is \"1\"", model, version);
  }

  void Infer(const Exchange& exchange, const std::string& model, const std::string& version, const std::string& body) {
    std::optional<size_t> json_bytes;
    if (const std::string_view field = exchange->head().field(kJsonBytes); !field.empty()) {
      size_t bytes = 0;
      if (!absl::SimpleAtoi(absl::string_view(field.data(), field.size()), &bytes)) {
        return Refuse(exchange, InvalidArgument("INFER_JSON", "{} must be a number; got \"{}\"", kJsonBytes, field));
      }
      json_bytes = bytes;
    }
    absl::Status status = CheckVersion(model, version);
    absl::StatusOr<open_inference::InferBody> asked = open_inference::ReadInferBody(body, json_bytes);
    if (status.ok()) status = asked.status();
    if (!status.ok()) return Refuse(exchange, status);
    asked->request.set_model_name(model);
    const auto shared = std::make_shared<const open_inference::InferBody>(*std::move(asked));
    Forward<inference::ModelInferResponse>(*calls_, exchange, "ModelInfer", shared->request,
                                           [shared](const Exchange& to, const inference::ModelInferResponse& response) {
                                             open_inference::InferAnswerBody answer =
                                                 open_inference::WriteInferAnswer(response, *shared);
                                             HttpAnswerHead head = JsonHead(200);
                                             if (answer.json_bytes) {
                                               head.fields = {{"Content-Type", "application/octet-stream"},
                                                              {kJsonBytes, std::to_string(*answer.json_bytes)}};
                                             }
                                             to->Respond(std::move(head), std::move(answer.body));
                                           });
  }

  void Generate(const Exchange& exchange, const std::string& model, const std::string& version, const std::string& body,
                bool stream) {
    absl::Status status = CheckVersion(model, version);
    absl::StatusOr<inference::ModelInferRequest> request = open_inference::ReadGenerateBody(body);
    if (status.ok()) status = request.status();
    if (!status.ok()) return Refuse(exchange, status);
    request->set_model_name(model);
    if (stream) return GenerateStream(exchange, model, *request);
    Forward<inference::ModelInferResponse>(
        *calls_, exchange, "ModelInfer", *request,
        [](const Exchange& to, const inference::ModelInferResponse& response) {
          json answer = {{"model_name", response.model_name()}, {"model_version", response.model_version()}};
          if (!response.id().empty()) answer["id"] = response.id();
          answer["text_output"] = response.outputs(0).contents().bytes_contents(0);
          answer["finish_reason"] = response.outputs(1).contents().bytes_contents(0);
          to->Respond(JsonHead(200), answer.dump(-1, ' ', false, json::error_handler_t::replace));
        });
  }

  void GenerateStream(const Exchange& exchange, const std::string& model, const inference::ModelInferRequest& infer) {
    const absl::StatusOr<std::vector<v1::GenerateRequest>> requests = GenerateRequestsFromInfer(infer);
    if (!requests.ok()) return Refuse(exchange, requests.status());
    const absl::StatusOr<CallMetadata> metadata = CallMetadataOf(exchange->head());
    if (!metadata.ok()) return Refuse(exchange, metadata.status());
    const auto* service = v1::GenerateRequest::descriptor()->file()->FindServiceByName("InferenceService");
    std::make_shared<GenerateEvents>(
        exchange, calls_->ServerStream(*service->FindMethodByName("Generate"), requests->front(), *metadata), model,
        infer.id())
        ->Start();
  }

  void Index(const Exchange& exchange, const std::string& body) {
    inference::RepositoryIndexRequest request;
    if (!body.empty()) {
      const json parsed = json::parse(body, nullptr, false);
      if (!parsed.is_object() || (parsed.contains("ready") && !parsed["ready"].is_boolean())) {
        return Refuse(exchange, InvalidArgument("INFER_JSON", "the body must be an object; \"ready\" in it a bool"));
      }
      request.set_ready(parsed.value("ready", false));
    }
    Forward<inference::RepositoryIndexResponse>(
        *calls_, exchange, "RepositoryIndex", request,
        [](const Exchange& to, const inference::RepositoryIndexResponse& response) {
          json models = json::array();
          for (const auto& model : response.models()) {
            models.push_back({{"name", model.name()},
                              {"version", model.version()},
                              {"state", model.state()},
                              {"reason", model.reason()}});
          }
          to->Respond(JsonHead(200), models.dump());
        });
  }

  void Load(const Exchange& exchange, const std::string& model, const std::string& body) {
    inference::RepositoryModelLoadRequest request;
    request.set_model_name(model);
    const json parsed = body.empty() ? json::object() : json::parse(body, nullptr, false);
    const json parameters = parsed.is_object() ? parsed.value("parameters", json::object()) : json();
    if (!parameters.is_object()) {
      return Refuse(exchange,
                    InvalidArgument("INFER_JSON", "the body must be an object, and \"parameters\" in it too"));
    }
    for (const auto& [name, value] : parameters.items()) {
      inference::ModelRepositoryParameter& parameter = (*request.mutable_parameters())[name];
      if (value.is_string()) {
        parameter.set_string_param(value.get<std::string>());
      } else if (value.is_number_integer()) {
        parameter.set_int64_param(value.get<int64_t>());
      } else {
        return Refuse(exchange, InvalidArgument("INFER_JSON", "parameters.{} must be a string or a number", name));
      }
    }
    Forward<inference::RepositoryModelLoadResponse>(
        *calls_, exchange, "RepositoryModelLoad", request,
        [](const Exchange& to, const inference::RepositoryModelLoadResponse&) { to->Respond(JsonHead(200), "{}"); });
  }

  void Unload(const Exchange& exchange, const std::string& model) {
    inference::RepositoryModelUnloadRequest request;
    request.set_model_name(model);
    Forward<inference::RepositoryModelUnloadResponse>(
        *calls_, exchange, "RepositoryModelUnload", request,
        [](const Exchange& to, const inference::RepositoryModelUnloadResponse&) { to->Respond(JsonHead(200), "{}"); });
  }

  const std::shared_ptr<LocalCalls> calls_;
};

}  // namespace

HttpPart OpenInferencePart(std::shared_ptr<LocalCalls> calls) {
  const auto part = std::make_shared<OpenInference>(std::move(calls));
  return {.takes = [](const HttpRequestHead& head) { return head.path == "/v2" || head.path.starts_with("/v2/"); },
          .handle = [part](const std::shared_ptr<HttpExchange>& exchange) { part->Handle(exchange); },
          .name = "open_inference"};
}

}  // namespace qamserve
