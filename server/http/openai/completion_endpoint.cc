#include "server/http/openai/completion_endpoint.h"

#include <algorithm>
#include <utility>

#include "server/http/openai/completion_request.h"
#include "server/http/openai/echo.h"
#include "server/http/openai/generation_run.h"

namespace qamserve::openai {
namespace {

constexpr std::string_view kGenerate = "qamserve.v1.InferenceService.Generate";

class CompletionFormat final : public AnswerFormat {
 public:
  // `echoes` has what each prompt's choices begin with; empty without echo.
  CompletionFormat(AnswerHead answer_head, const CompletionRequest& request, std::vector<Echo> echoes)
      : AnswerFormat(std::move(answer_head)),
        n_(static_cast<size_t>(request.n)),
        logprobs_(request.logprobs),
        usage_(request.include_usage),
        echoes_(std::move(echoes)),
        choices_(request.prompts.size() * n_) {}

  void Add(size_t index, const v1::GenerateResponse& message, std::vector<Json>* chunks) override {
    Choice& choice = choices_[index];
    Count(index, message);
    if (!std::exchange(choice.begun, true)) AddEcho(index, chunks);
    const bool has_tokens = logprobs_ >= 0 && !message.logprobs().empty();
    choice.text += message.text();
    choice.offsets.AddText(message.text());
    if (logprobs_ >= 0) {
      for (const v1::TokenLogprob& token : message.logprobs()) choice.logprobs.Add(token, logprobs_, choice.offsets);
    }
    choice.finish_reason = FinishReasonOf(message.finish_reason());
    if (chunks == nullptr) return;
    if (!message.text().empty() || has_tokens) chunks->push_back(Chunk(index));
    if (!choice.finish_reason.is_null()) chunks->push_back(LastChunk(index));
  }

  void AddSilent(std::vector<Json>* chunks) override {
    for (size_t i = 0; i < choices_.size(); ++i) {
      if (choices_[i].begun) continue;
      EchoAlone(i, chunks);
      chunks->push_back(LastChunk(i));
    }
  }

  Json Whole() override {
    Json out = ObjectOf(head, "text_completion");
    out["choices"] = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      if (!choices_[i].begun) EchoAlone(i, nullptr);
      out["choices"].push_back(ChoiceOf(i, choices_[i].finish_reason));
    }
    out["usage"] = UsageOf(counts_);
    return out;
  }

  Json UsageChunk() override {
    Json out = ObjectOf(head, "text_completion");
    out["choices"] = Json::array();
    out["usage"] = UsageOf(counts_);
    return out;
  }

 private:
  struct Choice {
    std::string text;  // that was not sent
    TextOffsets offsets;
    CompletionLogprobs logprobs;  // that were not sent
    Json finish_reason;
    bool begun = false;
  };

  // A prompt counts once, however many choices it has.
  void Count(size_t index, const v1::GenerateResponse& message) {
    if (!message.has_usage()) return;
    counts_.completion += message.usage().completion_tokens();
    if (index % n_ != 0) return;
    counts_.prompt += message.usage().prompt_tokens();
    counts_.cached += message.usage().cached_prompt_tokens();
  }

  void AddEcho(size_t index, std::vector<Json>* chunks) {
    if (echoes_.empty()) return;
    const Echo& echo = echoes_[index / n_];
    Choice& choice = choices_[index];
    choice.text = echo.text;
    choice.offsets.AddText(echo.text);
    if (logprobs_ >= 0) {
      choice.logprobs.AddFirst(echo.first_token, choice.offsets);
      for (const v1::TokenLogprob& token : echo.details) choice.logprobs.Add(token, logprobs_, choice.offsets);
    }
    if (chunks != nullptr) chunks->push_back(Chunk(index));
  }

  // A choice that is its prompt and nothing else.
  void EchoAlone(size_t index, std::vector<Json>* chunks) {
    choices_[index].begun = true;
    choices_[index].finish_reason = "length";
    AddEcho(index, chunks);
    if (index % n_ == 0) counts_.prompt += static_cast<int64_t>(echoes_[index / n_].tokens.size());
  }

  // With what was not sent until now.
  Json ChoiceOf(size_t index, const Json& finish_reason) {
    Choice& choice = choices_[index];
    Json out;
    out["text"] = std::exchange(choice.text, {});
    out["index"] = index;
    out["logprobs"] = logprobs_ >= 0 && !choice.logprobs.empty() ? choice.logprobs.Take() : Json();
    out["finish_reason"] = finish_reason;
    return out;
  }

  Json Chunk(size_t index) { return ChunkOf(ChoiceOf(index, Json())); }
  Json LastChunk(size_t index) { return ChunkOf(ChoiceOf(index, choices_[index].finish_reason)); }
  Json ChunkOf(Json choice) const {
    Json out = ObjectOf(head, "text_completion");
    out["choices"] = Json::array();
    out["choices"].push_back(std::move(choice));
    if (usage_) out["usage"] = nullptr;
    return out;
  }

  const size_t n_;
  const int64_t logprobs_;
  const bool usage_;
  const std::vector<Echo> echoes_;
  std::vector<Choice> choices_;
  TokenCounts counts_;
};

void SetPrompt(const Prompt& prompt, v1::GenerateRequest& request) {
  if (prompt.is_tokens) {
    request.mutable_prompt_tokens()->mutable_ids()->Add(prompt.tokens.begin(), prompt.tokens.end());
  } else {
    request.set_prompt(prompt.text);
  }
}

v1::SamplingParams ParamsOf(const CompletionRequest& request) {
  v1::SamplingParams params = request.params;
  params.set_max_tokens(static_cast<int32_t>(request.max_tokens));
  if (request.logprobs < 0) return params;
  params.set_logprobs(static_cast<int32_t>(std::max<int64_t>(1, request.logprobs)));
  // Clients that measure log-likelihoods ask for the prompt and one token more, which they cut off again: it must be
  // there even if it is the one that ends a text.
  if (request.echo && request.max_tokens == 1) params.set_ignore_eos(true);
  return params;
}

std::vector<Generation> GenerationsOf(const CompletionRequest& request, const std::string& model,
                                      const std::vector<Echo>& echoes) {
  std::vector<Generation> generations;
  if (request.max_tokens == 0) return generations;
  const v1::SamplingParams params = ParamsOf(request);
  generations.reserve(request.prompts.size() * static_cast<size_t>(request.n));
  for (size_t p = 0; p < request.prompts.size(); ++p) {
    for (int64_t i = 0; i < request.n; ++i) {
      auto generate = std::make_unique<v1::GenerateRequest>();
      generate->set_model(model);
      if (!echoes.empty() && !echoes[p].tokens.empty()) {
        generate->mutable_prompt_tokens()->mutable_ids()->Add(echoes[p].tokens.begin(), echoes[p].tokens.end());
      } else {
        SetPrompt(request.prompts[p], *generate);
      }
      *generate->mutable_params() = params;
      generate->mutable_params()->set_seed(SeedOfChoice(request.seed, i));
      generations.push_back({kGenerate, std::move(generate)});
    }
  }
  return generations;
}

void Generate(const std::shared_ptr<Session>& session, const CompletionRequest& request, const std::string& model,
              std::vector<Echo> echoes) {
  std::vector<Generation> generations = GenerationsOf(request, model, echoes);
  AnswerHead head = session->NewAnswer("cmpl-", request.model);
  if (generations.empty()) head.fingerprint = session->options().fingerprint(model);
  auto format = std::make_unique<CompletionFormat>(std::move(head), request, std::move(echoes));
  GenerationRun::Start(session, std::move(format), std::move(generations),
                       {.stream = request.stream, .include_usage = request.include_usage});
}

}  // namespace

void AnswerCompletion(const std::shared_ptr<Session>& session, const Json& body) {
  absl::StatusOr<CompletionRequest> read = ReadCompletionRequest(body);
  if (!read.ok()) return session->RespondError(ToApiError(read.status()));
  session->SetErrorParams({.input = "prompt", .constraint = read->constraint_name});
  if (!read->echo) return Generate(session, *read, read->model, {});
  const auto request = std::make_shared<const CompletionRequest>(*std::move(read));
  EchoOptions options;
  options.logprobs = request->logprobs;
  options.count_tokens = request->max_tokens == 0;
  MakeEchoes(session, request->model, request->prompts, options,
             [session, request](const std::string& model, std::vector<Echo> echoes) {
               Generate(session, *request, model, std::move(echoes));
             });
}

}  // namespace qamserve::openai
