#include "server/grpc/inference_service.h"

#include "core/tokenizer/conversations.h"
#include "server/grpc/converters.h"
#include "server/grpc/generate_stream.h"

namespace qamserve {
namespace {

constexpr CallName InferenceCall(std::string_view method) { return {"InferenceService", method}; }

// The model of one request. Names have no '/', so that one with a collection before it cannot mean the other kind.
absl::StatusOr<std::shared_ptr<ServedModel>> ModelOf(ServiceContext& context, std::string_view field) {
  const std::string_view model = WithoutCollection(kServedModels, field);
  if (model.size() != field.size()) return context.models.Find(model);
  const std::string_view alias = WithoutCollection(kAliases, field);
  return alias.size() != field.size() ? context.models.RouteAlias(alias) : context.models.Route(field);
}

std::string ResourceNameOf(const ServedModel& model) { return ResourceName(kServedModels, model.name()); }

// Special tokens written in a prompt are read as such, as Hugging Face tokenizers do; a chat template prints its own BOS.
constexpr EncodeOptions kPromptEncoding = {.add_special = true, .parse_special = true};

// When a call came and when its client stops waiting.
struct Arrival {
  explicit Arrival(const grpc::CallbackServerContext& call) : deadline(call.deadline()) {}
  std::chrono::system_clock::time_point time = std::chrono::system_clock::now();
  std::chrono::system_clock::time_point deadline;
};

absl::StatusOr<GenerateInput> InputOfGenerate(const ServedModel& model, const v1::GenerateRequest& request,
                                              const Arrival& arrival) {
  GenerateInput input;
  ASSIGN_OR_RETURN(input.request,
                   RequestOptionsFrom(request.priority(), request.timeout_seconds(), arrival.deadline, arrival.time));
  ASSIGN_OR_RETURN(input.params, SamplingFromProto(request.params()));
  ASSIGN_OR_RETURN(input.tokenizer, model.tokenizer());
  switch (request.input_case()) {
    case v1::GenerateRequest::kPrompt:
      input.prompt = input.tokenizer->Encode(request.prompt(), kPromptEncoding);
      break;
    case v1::GenerateRequest::kPromptTokens:
      input.prompt.assign(request.prompt_tokens().ids().begin(), request.prompt_tokens().ids().end());
      break;
    case v1::GenerateRequest::INPUT_NOT_SET:
      return InvalidArgument("PROMPT_EMPTY", "one of prompt and prompt_tokens must be given");
  }
  return input;
}

absl::StatusOr<GenerateInput> InputOfChat(const ServiceContext& context, const ServedModel& model,
                                          const v1::ChatRequest& request, const Arrival& arrival) {
  if (request.messages().empty() || request.messages_size() > static_cast<int>(context.limits.max_chat_messages)) {
    return InvalidArgument("CHAT_MESSAGES", "messages must have 1 to {} entries; got {}",
                           context.limits.max_chat_messages, request.messages_size());
  }
  GenerateInput input;
  ASSIGN_OR_RETURN(input.request,
                   RequestOptionsFrom(request.priority(), request.timeout_seconds(), arrival.deadline, arrival.time));
  ASSIGN_OR_RETURN(input.params, SamplingFromProto(request.params()));
  ASSIGN_OR_RETURN(input.tokenizer, model.tokenizer());
  ASSIGN_OR_RETURN(const std::shared_ptr<const ChatTemplate> chat, model.chat_template());
  ASSIGN_OR_RETURN(const std::string prompt, chat->Render(MessagesFromProto(request.messages()), ChatRenderOptions{}));
  input.prompt = EncodeChat(*input.tokenizer, prompt);
  return input;
}

absl::Status FillScore(ServiceContext& context, const v1::ScoreRequest& request, v1::ScoreResponse* response) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, ModelOf(context, request.model()));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, model->tokenizer());
  std::vector<int32_t> tokens;
  if (request.has_tokens()) {
    tokens.assign(request.tokens().ids().begin(), request.tokens().ids().end());
  } else {
    tokens = tokenizer->Encode(request.text(), kPromptEncoding);
  }
  if (tokens.size() < 2) {
    return InvalidArgument("SCORE_TOO_SHORT", "a text to score must have at least 2 tokens; got {}", tokens.size());
  }
  ASSIGN_OR_RETURN(const std::vector<float> logprobs, model->Score(tokens));
  response->mutable_tokens()->Add(tokens.begin(), tokens.end());
  response->mutable_logprobs()->Add(logprobs.begin(), logprobs.end());
  response->set_model(ResourceNameOf(*model));
  return absl::OkStatus();
}

}  // namespace

// The request lives until the stream's OnDone.
grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceServiceImpl::Generate(grpc::CallbackServerContext* call,
                                                                               const v1::GenerateRequest* request) {
  return StartGenerateStream(
      context_, *call, InferenceCall("Generate"), request->model(),
      [this, request] { return ModelOf(context_, request->model()); },
      [request, arrival = Arrival(*call)](const ServedModel& model) {
        return InputOfGenerate(model, *request, arrival);
      });
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceServiceImpl::Chat(grpc::CallbackServerContext* call,
                                                                           const v1::ChatRequest* request) {
  return StartGenerateStream(
      context_, *call, InferenceCall("Chat"), request->model(),
      [this, request] { return ModelOf(context_, request->model()); },
      [this, request, arrival = Arrival(*call)](const ServedModel& model) {
        return InputOfChat(context_, model, *request, arrival);
      });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Score(grpc::CallbackServerContext* call,
                                                      const v1::ScoreRequest* request, v1::ScoreResponse* response) {
  return AnswerOn(context_.slow, context_, call, InferenceCall("Score"),
                  [this, request, response] { return FillScore(context_, *request, response); });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Tokenize(grpc::CallbackServerContext* call,
                                                         const v1::TokenizeRequest* request,
                                                         v1::TokenizeResponse* response) {
  return AnswerOn(context_.quick, context_, call, InferenceCall("Tokenize"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, ModelOf(context_, request->model()));
    ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, model->tokenizer());
    const std::vector<int32_t> tokens = tokenizer->Encode(
        request->text(), {.add_special = request->add_special(), .parse_special = request->parse_special()});
    response->mutable_tokens()->Add(tokens.begin(), tokens.end());
    response->set_model(ResourceNameOf(*model));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Detokenize(grpc::CallbackServerContext* call,
                                                           const v1::DetokenizeRequest* request,
                                                           v1::DetokenizeResponse* response) {
  return AnswerOn(context_.quick, context_, call, InferenceCall("Detokenize"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, ModelOf(context_, request->model()));
    ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, model->tokenizer());
    for (const int32_t id : request->tokens()) {
      if (id < 0 || id >= tokenizer->size()) {
        return InvalidArgument("PROMPT_TOKEN", "token {} is outside the vocabulary of {}", id, tokenizer->size());
      }
    }
    const std::vector<int32_t> ids(request->tokens().begin(), request->tokens().end());
    response->set_text(ValidUtf8(tokenizer->Decode(ids, request->skip_special())));
    response->set_model(ResourceNameOf(*model));
    return absl::OkStatus();
  });
}

}  // namespace qamserve
