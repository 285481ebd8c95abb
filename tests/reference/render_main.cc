// Renders chat templates as the server does, for a script that compares. Each line of standard input is a JSON object:
// "template" (a path), "bos_token", "eos_token", "messages" (objects with our fields), "tools_json",
// "template_args_json", "add_generation_prompt", "continue_last_message", "now_seconds". Each line of the output is
// {"text": ...} or {"error": reason, "message": ...}.
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "core/tokenizer/chat_template.h"

namespace qamserve {
namespace {

using nlohmann::json;

using Templates = std::map<std::string, absl::StatusOr<std::shared_ptr<const ChatTemplate>>>;

absl::StatusOr<std::string> Render(const json& request, Templates& templates) {
  const auto path = request.at("template").get<std::string>();
  if (!templates.contains(path)) {
    std::ifstream file(path, std::ios::binary);
    const std::string source{std::istreambuf_iterator<char>(file), {}};
    templates.emplace(path,
                      ChatTemplate::Parse(source, request.value("bos_token", ""), request.value("eos_token", "")));
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<const ChatTemplate> chat, templates.at(path));
  std::vector<ChatMessage> messages;
  for (const json& message : request.at("messages")) {
    messages.push_back({.role = message.value("role", ""),
                        .content = message.value("content", ""),
                        .name = message.value("name", ""),
                        .tool_calls_json = message.value("tool_calls_json", ""),
                        .tool_call_id = message.value("tool_call_id", "")});
  }
  ChatRenderOptions options;
  options.add_generation_prompt = request.value("add_generation_prompt", true);
  options.tools_json = request.value("tools_json", "");
  options.now_seconds = request.at("now_seconds").get<int64_t>();
  options.template_args_json = request.value("template_args_json", "");
  options.continue_last_message = request.value("continue_last_message", false);
  return chat->Render(messages, options);
}

}  // namespace
}  // namespace qamserve

int main() {
  std::string line;
  qamserve::Templates templates;
  while (std::getline(std::cin, line)) {
    const auto text = qamserve::Render(nlohmann::json::parse(line), templates);
    nlohmann::json answer;
    if (text.ok()) {
      answer["text"] = *text;
    } else {
      answer["error"] = qamserve::ReasonOf(text.status());
      answer["message"] = qamserve::MessageOf(text.status());
    }
    std::cout << answer.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  }
  return 0;
}
