#include "server/grpc/inference_service.h"

#include <algorithm>
#include <cmath>

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

// What stands inside a prompt, or behind one.
constexpr EncodeOptions kInnerEncoding = {.add_special = false, .parse_special = true};

constexpr int32_t kMaxCompareTokens = 1024;
constexpr int kMaxEmbedInputs = 256;

// When a call came and when its client stops waiting.
struct Arrival {
  explicit Arrival(const grpc::CallbackServerContext& call) : deadline(call.deadline()) {}
  std::chrono::system_clock::time_point time = std::chrono::system_clock::now();
  std::chrono::system_clock::time_point deadline;
};

absl::StatusOr<SamplingParams> SamplingOf(const ServedModel& model, const v1::SamplingParams& params) {
  ASSIGN_OR_RETURN(SamplingParams sampling, SamplingFromProto(params));
  ASSIGN_OR_RETURN(const std::optional<ConstraintSpec> spec, ConstraintFromProto(params));
  if (!spec.has_value()) return sampling;
  absl::StatusOr<std::shared_ptr<const Constraint>> constraint = model.constraint(*spec);
  if (!constraint.ok()) return Annotate(constraint.status(), "params.constraint");
  sampling.constraint = *std::move(constraint);
  return sampling;
}

absl::StatusOr<GenerateInput> InputOfGenerate(const ServedModel& model, const v1::GenerateRequest& request,
                                              const Arrival& arrival) {
  GenerateInput input;
  ASSIGN_OR_RETURN(input.request,
                   RequestOptionsFrom(request.priority(), request.timeout_seconds(), arrival.deadline, arrival.time));
  ASSIGN_OR_RETURN(input.params, SamplingOf(model, request.params()));
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

absl::StatusOr<std::vector<int32_t>> TokensOfChat(const ServiceContext& context, const ServedModel& model,
                                                  const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages,
                                                  const ChatRenderOptions& options) {
  if (messages.empty() || messages.size() > static_cast<int>(context.limits.max_chat_messages)) {
    return InvalidArgument("CHAT_MESSAGES", "messages must have 1 to {} entries; got {}",
                           context.limits.max_chat_messages, messages.size());
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, model.tokenizer());
  ASSIGN_OR_RETURN(const std::shared_ptr<const ChatTemplate> chat, model.chat_template());
  ASSIGN_OR_RETURN(const std::string prompt, chat->Render(MessagesFromProto(messages), options));
  return EncodeChat(*tokenizer, prompt);
}

absl::StatusOr<GenerateInput> InputOfChat(const ServiceContext& context, const ServedModel& model,
                                          const v1::ChatRequest& request, const Arrival& arrival) {
  GenerateInput input;
  ASSIGN_OR_RETURN(input.request,
                   RequestOptionsFrom(request.priority(), request.timeout_seconds(), arrival.deadline, arrival.time));
  ASSIGN_OR_RETURN(input.params, SamplingOf(model, request.params()));
  ASSIGN_OR_RETURN(input.tokenizer, model.tokenizer());
  ChatRenderOptions options;
  options.tools_json = request.tools_json();
  options.template_args_json = request.template_args_json();
  options.continue_last_message = request.continue_last_message();
  ASSIGN_OR_RETURN(input.prompt, TokensOfChat(context, model, request.messages(), options));
  return input;
}

absl::Status FillScore(ServiceContext& context, const CallGuard& guard, const v1::ScoreRequest& request,
                       v1::ScoreResponse* response) {
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
  if (request.top() < 0 || request.top() > kMaxTopLogprobs) {
    return InvalidArgument("SCORE_TOP", "top must be 0 to {}; got {}", kMaxTopLogprobs, request.top());
  }
  ASSIGN_OR_RETURN(TextScores scores, model->Score(tokens, request.top()));
  guard.CountTokens(static_cast<int64_t>(tokens.size()));
  response->mutable_tokens()->Add(tokens.begin(), tokens.end());
  response->mutable_logprobs()->Add(scores.logprobs.begin(), scores.logprobs.end());
  TokenEvent event;
  for (size_t i = 0; i < scores.top.size(); ++i) {
    event.token = tokens[i + 1];
    event.logprob = scores.logprobs[i];
    event.top = std::move(scores.top[i]);
    *response->add_details() = LogprobToProto(event, *tokenizer);
  }
  response->set_model(ResourceNameOf(*model));
  return absl::OkStatus();
}

// What Compare reads: the tokens of its text are those from `first` on.
struct ComparedTokens {
  std::vector<int32_t> ids;
  size_t first = 0;
};

absl::StatusOr<ComparedTokens> TokensOfCompare(const ServiceContext& context, const ServedModel& base,
                                               const v1::CompareRequest& request) {
  if (!request.prompt().empty() && !request.messages().empty()) {
    return InvalidArgument("COMPARE_INPUT", "prompt and messages are both given; at most one of them may be");
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, base.tokenizer());
  ComparedTokens tokens;
  if (request.messages().empty()) {
    tokens.ids = tokenizer->Encode(request.prompt(), kPromptEncoding);
  } else {
    ASSIGN_OR_RETURN(tokens.ids, TokensOfChat(context, base, request.messages(), {}));
  }
  // Of a first token of all there is no distribution.
  tokens.first = std::max<size_t>(1, tokens.ids.size());
  const std::vector<int32_t> text = tokenizer->Encode(request.text(), kInnerEncoding);
  tokens.ids.insert(tokens.ids.end(), text.begin(), text.end());
  if (tokens.ids.size() <= tokens.first) {
    return InvalidArgument("COMPARE_TOO_SHORT", "text has no token that stands behind another; it has {} tokens",
                           text.size());
  }
  if (tokens.ids.size() > static_cast<size_t>(kMaxCompareTokens)) {
    return InvalidArgument("COMPARE_TOO_LONG", "text and what comes before it have {} tokens; the limit is {}",
                           tokens.ids.size(), kMaxCompareTokens);
  }
  return tokens;
}

absl::Status FillCompare(ServiceContext& context, const CallGuard& guard, const v1::CompareRequest& request,
                         v1::CompareResponse* response) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> base, ModelOf(context, request.base()));
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> other, ModelOf(context, request.other()));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, base->tokenizer());
  ASSIGN_OR_RETURN(const ComparedTokens tokens, TokensOfCompare(context, *base, request));
  ASSIGN_OR_RETURN(const std::vector<TokenComparison> compared,
                   base->Compare(*other, tokens.ids, static_cast<int64_t>(tokens.first)));
  guard.CountTokens(2 * static_cast<int64_t>(tokens.ids.size()));  // two models have read them
  double kl = 0, agreements = 0;
  for (size_t i = 0; i < compared.size(); ++i) {
    *response->add_tokens() = ToProto(tokens.ids[tokens.first + i], compared[i], *tokenizer);
    kl += compared[i].kl;
    agreements += compared[i].same_top ? 1 : 0;
  }
  response->set_kl_mean(kl / static_cast<double>(compared.size()));
  response->set_top1_agreement(agreements / static_cast<double>(compared.size()));
  response->set_base(ResourceNameOf(*base));
  response->set_other(ResourceNameOf(*other));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> TokensOfInput(const Tokenizer& tokenizer, const v1::EmbedInput& input, int index,
                                                   int64_t limit) {
  std::vector<int32_t> tokens;
  if (input.has_tokens()) {
    tokens.assign(input.tokens().ids().begin(), input.tokens().ids().end());
  } else if (!input.text().empty()) {
    tokens = tokenizer.Encode(input.text(), kPromptEncoding);
  }
  if (tokens.empty()) return InvalidArgument("PROMPT_EMPTY", "inputs[{}] has neither text nor tokens", index);
  if (static_cast<int64_t>(tokens.size()) > limit) {
    return InvalidArgument("PROMPT_TOO_LONG", "inputs[{}] has {} tokens; at most {} fit the context", index,
                           tokens.size(), limit);
  }
  return tokens;
}

absl::Status FillEmbedding(std::span<const float> values, bool normalize, v1::Embedding* embedding) {
  double squares = 0;
  for (const float value : values) squares += double{value} * value;
  if (!std::isfinite(squares)) return Internal("EMBEDDING_NOT_FINITE", "the model's hidden states are not finite");
  const double scale = normalize && squares > 0 ? 1 / std::sqrt(squares) : 1;
  embedding->mutable_values()->Reserve(static_cast<int>(values.size()));
  for (const float value : values) embedding->add_values(static_cast<float>(value * scale));
  return absl::OkStatus();
}

absl::Status FillEmbed(ServiceContext& context, const CallGuard& guard, const grpc::CallbackServerContext& call,
                       const v1::EmbedRequest& request, v1::EmbedResponse* response) {
  if (request.inputs().empty() || request.inputs_size() > kMaxEmbedInputs) {
    return InvalidArgument("EMBED_INPUTS", "inputs must have 1 to {} entries; got {}", kMaxEmbedInputs,
                           request.inputs_size());
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, ModelOf(context, request.model()));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, model->tokenizer());
  std::vector<std::vector<int32_t>> inputs(static_cast<size_t>(request.inputs_size()));
  for (int i = 0; i < request.inputs_size(); ++i) {
    ASSIGN_OR_RETURN(inputs[static_cast<size_t>(i)],
                     TokensOfInput(*tokenizer, request.inputs(i), i, model->plan().context_tokens));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    // Of many long inputs the client may not wait for the last.
    RETURN_IF_ERROR(ReadyToBegin(context, call));
    const absl::StatusOr<std::vector<float>> values = model->Embed(inputs[i]);
    if (!values.ok()) return Annotate(values.status(), fmt::format("inputs[{}]", i));
    guard.CountTokens(static_cast<int64_t>(inputs[i].size()));
    v1::Embedding* embedding = response->add_embeddings();
    RETURN_IF_ERROR(FillEmbedding(*values, request.normalize(), embedding));
    embedding->set_tokens(static_cast<int32_t>(inputs[i].size()));
  }
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
                  [this, request, response](const CallGuard& guard) {
                    return FillScore(context_, guard, *request, response);
                  });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Compare(grpc::CallbackServerContext* call,
                                                        const v1::CompareRequest* request,
                                                        v1::CompareResponse* response) {
  return AnswerOn(context_.slow, context_, call, InferenceCall("Compare"),
                  [this, request, response](const CallGuard& guard) {
                    return FillCompare(context_, guard, *request, response);
                  });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Embed(grpc::CallbackServerContext* call,
                                                      const v1::EmbedRequest* request, v1::EmbedResponse* response) {
  return AnswerOn(context_.slow, context_, call, InferenceCall("Embed"),
                  [this, call, request, response](const CallGuard& guard) {
                    return FillEmbed(context_, guard, *call, *request, response);
                  });
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
