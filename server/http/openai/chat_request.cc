#include "server/http/openai/chat_request.h"

#include <algorithm>
#include <utility>

#include "server/http/openai/chat_messages.h"

namespace qamserve::openai {
namespace {

constexpr std::string_view kUseTools = "use 'tools' and 'tool_choice'";

// The newer name wins only where the older one is not given: both at once must agree.
void ReadMaxTokens(Members& body, v1::SamplingParams& params) {
  int64_t newer = 0;
  int64_t older = 0;
  const bool has_newer = body.Read("max_completion_tokens", newer, 1, kAllTokens);
  const bool has_older = body.Read("max_tokens", older, 1, kAllTokens);
  if (has_newer && has_older && newer != older) {
    body.Fail("INVALID_VALUE", "max_tokens",
              fmt::format("'max_tokens' ({}) and 'max_completion_tokens' ({}) differ.", older, newer));
  }
  params.set_max_tokens(static_cast<int32_t>(has_newer ? newer : has_older ? older : kAllTokens));
}

void ReadLogprobs(Members& body, ChatCompletionRequest& request) {
  bool wanted = false;
  body.Read("logprobs", wanted);
  int64_t top = 0;
  const bool has_top = body.Read("top_logprobs", top, 0, kMaxTopLogprobs);
  if (has_top && top > 0 && !wanted) {
    body.Fail("INVALID_VALUE", "top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is true.");
  }
  if (wanted) request.logprobs = top;
}

// The tools that an answer must be a call of; empty if it need not be one.
struct ToolChoice {
  ToolMode mode = ToolMode::kNone;
  std::vector<Tool> forced;
};

ToolChoice ReadNamedChoice(Members& body, const Json& value, const std::vector<Tool>& tools) {
  ToolChoice choice;
  Members members(value, "tool_choice", body.status());
  std::string type;
  if (members.Require("type") != nullptr) members.ReadOneOf("type", {"function"}, type);
  const Json* function = members.Require("function");
  members.RefuseOthers();
  if (function == nullptr || !body.ok()) return choice;
  Members named(*function, "tool_choice.function", body.status());
  const std::string name = named.RequireText("name");
  named.RefuseOthers();
  if (!body.ok()) return choice;
  const auto tool = std::find_if(tools.begin(), tools.end(), [&name](const Tool& t) { return t.name == name; });
  if (tool == tools.end()) {
    named.Fail("INVALID_VALUE", "name", fmt::format("'tool_choice' names '{}', which is none of 'tools'.", name));
    return choice;
  }
  choice.mode = ToolMode::kForced;
  choice.forced = {*tool};
  return choice;
}

ToolChoice ReadToolChoice(Members& body, const std::vector<Tool>& tools) {
  ToolChoice choice;
  if (!tools.empty()) choice.mode = ToolMode::kAuto;
  const Json* value = body.Find("tool_choice");
  if (value == nullptr) return choice;
  if (!value->is_string()) return ReadNamedChoice(body, *value, tools);
  std::string text;
  if (!body.ReadOneOf("tool_choice", {"none", "auto", "required"}, text)) return choice;
  if (text == "none") choice.mode = ToolMode::kNone;
  if (text != "required") return choice;
  if (tools.empty()) {
    body.Fail("INVALID_VALUE", "tool_choice", "'tool_choice' is 'required', but there are no 'tools'.");
  }
  choice.mode = ToolMode::kForced;
  choice.forced = tools;
  return choice;
}

void ReadToolFields(Members& body, ChatCompletionRequest& request, ConstraintFields& constraint) {
  std::string json;
  const std::vector<Tool> tools = ReadTools(body, &json);
  const ToolChoice choice = ReadToolChoice(body, tools);
  body.Read("parallel_tool_calls", request.parallel_tool_calls);
  request.tools = choice.mode;
  if (!body.ok() || choice.mode == ToolMode::kNone) return;
  request.chat.set_tools_json(std::move(json));
  request.tool_names.reserve(tools.size());
  for (const Tool& tool : tools) request.tool_names.push_back(tool.name);
  if (!constraint.named.empty()) {
    return body.Fail("INVALID_VALUE", constraint.named,
                     fmt::format("'{}' and 'tools' exclude each other unless 'tool_choice' is 'none': a constrained "
                                 "answer cannot become a call.",
                                 constraint.named));
  }
  if (choice.mode != ToolMode::kForced) return;
  constraint.named = "tools";
  constraint.constraint.set_json_schema(TextOf(SchemaOfCall(choice.forced)));
}

void ReadTemplateFields(Members& body, v1::ChatRequest& chat) {
  Json arguments = Json::object();
  if (const Json* given = body.Find("chat_template_kwargs"); given != nullptr) {
    if (!given->is_object()) {
      body.status() = TypeError("chat_template_kwargs", "an object", *given);
      return;
    }
    arguments = *given;
  }
  std::string effort;
  if (body.Read("reasoning_effort", effort) && !arguments.contains("reasoning_effort")) {
    arguments["reasoning_effort"] = effort;
  }
  if (!arguments.empty()) chat.set_template_args_json(TextOf(arguments));
  bool goes_on = false;
  body.Read("continue_final_message", goes_on);
  bool prompt = !goes_on;
  body.Read("add_generation_prompt", prompt);
  if (prompt == goes_on) {
    body.Fail("INVALID_VALUE", "add_generation_prompt",
              "'add_generation_prompt' must be false with 'continue_final_message' and true without.");
  }
  if (goes_on && body.ok() && !chat.messages().empty() && chat.messages().rbegin()->role() != "assistant") {
    body.Fail("INVALID_VALUE", "continue_final_message", "The message to go on with must be an assistant's.");
  }
  chat.set_continue_last_message(goes_on);
}

void ReadUnsupported(Members& body) {
  body.Refuse("functions", kUseTools);
  body.Refuse("function_call", kUseTools);
  body.Refuse("audio", "answers are text");
  body.Refuse("web_search_options", "nothing is searched here");
  body.Refuse("moderation", "nothing is moderated here");
  if (const Json* modalities = body.Find("modalities"); modalities != nullptr && *modalities != Json::array({"text"})) {
    body.Fail("UNSUPPORTED_VALUE", "modalities", "'modalities' may only be [\"text\"].");
  }
  // Hints about storage, billing, caching and speed: the answer is the same without.
  body.Ignore({"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
               "prompt_cache_retention", "prediction", "verbosity"});
}

}  // namespace

absl::StatusOr<ChatCompletionRequest> ReadChatCompletionRequest(const Json& json) {
  absl::Status status;
  ChatCompletionRequest request;
  Members body(json, "", status);
  ReadRequestFields(body, request);
  ReadMessages(body, request.chat);
  ReadMaxTokens(body, request.params);
  ReadLogprobs(body, request);
  ConstraintFields constraint;
  ReadConstraint(body, constraint);
  ReadToolFields(body, request, constraint);
  ReadTemplateFields(body, request.chat);
  ReadUnsupported(body);
  body.RefuseOthers();
  if (!constraint.named.empty()) *request.params.mutable_constraint() = std::move(constraint.constraint);
  request.constraint_name = constraint.named;
  if (status.ok() && request.chat.ByteSizeLong() + request.params.ByteSizeLong() > kMaxTextBytes) {
    body.Fail("STRING_ABOVE_MAX_LENGTH", "messages",
              fmt::format("The messages, tools and schema of a request may have {} bytes in all; these have {}.",
                          kMaxTextBytes, request.chat.ByteSizeLong() + request.params.ByteSizeLong()));
  }
  if (!status.ok()) return status;
  return request;
}

}  // namespace qamserve::openai
