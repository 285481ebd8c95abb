#include "server/http/openai/chat_endpoint.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "server/http/openai/chat_request.h"
#include "server/http/openai/generation_run.h"
#include "server/http/openai/tool_call_parser.h"

namespace qamserve::openai {
namespace {

constexpr std::string_view kChat = "qamserve.v1.InferenceService.Chat";

bool IsLast(const v1::GenerateResponse& message) {
  return message.finish_reason() == v1::FINISH_REASON_STOP || message.finish_reason() == v1::FINISH_REASON_LENGTH;
}

class ChatFormat final : public AnswerFormat {
 public:
  ChatFormat(AnswerHead answer_head, std::shared_ptr<Session> session, const ChatCompletionRequest& request)
      : AnswerFormat(std::move(answer_head)),
        session_(std::move(session)),
        tools_(request.tools),
        parallel_(request.parallel_tool_calls),
        logprobs_(request.logprobs),
        usage_(request.include_usage),
        choices_(static_cast<size_t>(request.n), Choice(request.tool_names)) {}

  void Add(size_t index, const v1::GenerateResponse& message, std::vector<Json>* chunks) override {
    Choice& choice = choices_[index];
    Count(index, message);
    SaidPart said = Understand(choice, message);
    if (!parallel_ && !said.calls.empty()) said.calls.resize(choice.calls.empty() ? 1 : 0);
    Json calls = Json::array();
    for (const ToolCall& call : said.calls) calls.push_back(ToolCallOf(call, session_->NewId("call_")));
    Json logprobs = logprobs_ >= 0 ? ChatLogprobsOf(message.logprobs(), logprobs_) : Json::array();
    if (chunks != nullptr) AddChunks(index, said.content, calls, logprobs, *chunks);
    choice.content += said.content;
    for (Json& call : calls) choice.calls.push_back(std::move(call));
    for (Json& token : logprobs) choice.logprobs.push_back(std::move(token));
    if (!IsLast(message)) return;
    choice.finish_reason = FinishReasonOf(message.finish_reason());
    // A call that was cut off is no reason to call anything.
    if (!choice.calls.empty() && choice.finish_reason == "stop") choice.finish_reason = "tool_calls";
    if (chunks != nullptr) chunks->push_back(Chunk(index, Json::object(), Json(), choice.finish_reason));
  }

  Json Whole() override {
    Json out = ObjectOf(head, "chat.completion");
    out["choices"] = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      Choice& choice = choices_[i];
      Json entry;
      entry["index"] = i;
      Json& message = entry["message"];
      message["role"] = "assistant";
      message["content"] = choice.content.empty() && !choice.calls.empty() ? Json() : Json(choice.content);
      message["refusal"] = nullptr;
      if (!choice.calls.empty()) message["tool_calls"] = std::move(choice.calls);
      entry["logprobs"] = LogprobsOf(std::move(choice.logprobs));
      entry["finish_reason"] = choice.finish_reason;
      out["choices"].push_back(std::move(entry));
    }
    out["usage"] = UsageOf(counts_);
    return out;
  }

  Json UsageChunk() override {
    Json out = ObjectOf(head, "chat.completion.chunk");
    out["choices"] = Json::array();
    out["usage"] = UsageOf(counts_);
    return out;
  }

 private:
  struct Choice {
    explicit Choice(std::vector<std::string> tool_names) : parser(std::move(tool_names)) {}
    ToolCallParser parser;
    std::string forced;  // the text of a forced call
    std::string content;
    Json calls = Json::array();
    Json logprobs = Json::array();
    Json finish_reason;
    bool begun = false;
  };

  // The prompt is one and the same for all choices.
  void Count(size_t index, const v1::GenerateResponse& message) {
    if (!message.has_usage()) return;
    counts_.completion += message.usage().completion_tokens();
    counts_.prompt = message.usage().prompt_tokens();
    if (index == 0) counts_.cached = message.usage().cached_prompt_tokens();
  }

  SaidPart Understand(Choice& choice, const v1::GenerateResponse& message) const {
    if (tools_ == ToolMode::kNone) return {.content = message.text()};
    if (tools_ == ToolMode::kForced) return UnderstandForced(choice, message);
    SaidPart said = choice.parser.Add(message.text());
    if (!IsLast(message)) return said;
    SaidPart rest = choice.parser.Finish();
    said.content += rest.content;
    std::move(rest.calls.begin(), rest.calls.end(), std::back_inserter(said.calls));
    return said;
  }

  static SaidPart UnderstandForced(Choice& choice, const v1::GenerateResponse& message) {
    choice.forced += message.text();
    if (!IsLast(message)) return {};
    ToolCall call;
    if (!ReadForcedCall(choice.forced, &call)) return {.content = choice.forced};
    return {.calls = {std::move(call)}};
  }

  Json LogprobsOf(Json tokens) const {
    if (logprobs_ < 0) return {};
    Json out;
    out["content"] = std::move(tokens);
    out["refusal"] = nullptr;
    return out;
  }

  Json Chunk(size_t index, Json delta, Json logprobs, const Json& finish_reason) const {
    Json out = ObjectOf(head, "chat.completion.chunk");
    Json choice;
    choice["index"] = index;
    choice["delta"] = std::move(delta);
    choice["logprobs"] = std::move(logprobs);
    choice["finish_reason"] = finish_reason;
    out["choices"] = Json::array();
    out["choices"].push_back(std::move(choice));
    if (usage_) out["usage"] = nullptr;
    return out;
  }

  // What a message adds, as deltas: the role once, text (with the tokens that it is of), calls.
  void AddChunks(size_t index, const std::string& content, const Json& calls, const Json& logprobs,
                 std::vector<Json>& chunks) {
    Choice& choice = choices_[index];
    if (!std::exchange(choice.begun, true)) {
      Json delta;
      delta["role"] = "assistant";
      delta["content"] = "";
      delta["refusal"] = nullptr;
      chunks.push_back(Chunk(index, std::move(delta), Json(), Json()));
    }
    if (!content.empty() || !logprobs.empty()) {
      Json delta;
      delta["content"] = content;
      chunks.push_back(Chunk(index, std::move(delta), LogprobsOf(logprobs), Json()));
    }
    if (calls.empty()) return;
    Json delta;
    delta["tool_calls"] = Json::array();
    size_t number = choice.calls.size();
    for (const Json& call : calls) {
      Json entry;
      entry["index"] = number++;
      entry.update(call);
      delta["tool_calls"].push_back(std::move(entry));
    }
    chunks.push_back(Chunk(index, std::move(delta), Json(), Json()));
  }

  const std::shared_ptr<Session> session_;
  const ToolMode tools_;
  const bool parallel_;
  const int64_t logprobs_;
  const bool usage_;
  std::vector<Choice> choices_;
  TokenCounts counts_;
};

std::vector<Generation> GenerationsOf(const ChatCompletionRequest& request) {
  std::vector<Generation> generations;
  generations.reserve(static_cast<size_t>(request.n));
  for (int64_t i = 0; i < request.n; ++i) {
    auto chat = std::make_unique<v1::ChatRequest>(request.chat);
    chat->set_model(request.model);
    *chat->mutable_params() = request.params;
    chat->mutable_params()->set_seed(SeedOfChoice(request.seed, i));
    if (request.logprobs >= 0) {
      chat->mutable_params()->set_logprobs(static_cast<int32_t>(std::max<int64_t>(1, request.logprobs)));
    }
    generations.push_back({kChat, std::move(chat)});
  }
  return generations;
}

}  // namespace

void AnswerChat(const std::shared_ptr<Session>& session, const Json& body) {
  const absl::StatusOr<ChatCompletionRequest> request = ReadChatCompletionRequest(body);
  if (!request.ok()) return session->RespondError(ToApiError(request.status()));
  session->SetErrorParams({.input = "messages", .constraint = request->constraint_name});
  auto format = std::make_unique<ChatFormat>(session->NewAnswer("chatcmpl-", request->model), session, *request);
  GenerationRun::Start(session, std::move(format), GenerationsOf(*request),
                       {.stream = request->stream, .include_usage = request->include_usage});
}

}  // namespace qamserve::openai
