#include "server/http/openai/chat_messages.h"

#include <algorithm>
#include <utility>

namespace qamserve::openai {
namespace {

constexpr std::string_view kFunctionFields = "functions are called through 'tools' and 'tool_calls'";

// A string, or parts of type "text", which are joined by line breaks.
bool ReadContent(Members& message, std::string& out) {
  const Json* content = message.Find("content");
  if (content == nullptr) return false;
  const std::string path = message.PathOf("content");
  if (content->is_string()) {
    out = content->get_ref<const std::string&>();
    return true;
  }
  if (!content->is_array()) {
    message.status() = TypeError(path, "a string or an array of parts", *content);
    return false;
  }
  for (size_t i = 0; i < content->size() && message.ok(); ++i) {
    Members part((*content)[i], fmt::format("{}[{}]", path, i), message.status());
    const std::string type = part.RequireText("type");
    if (part.ok() && type != "text") {
      part.Fail("UNSUPPORTED_VALUE", "type",
                fmt::format("Unsupported part '{}' at '{}': models here read text only.", type, part.PathOf("type")));
    }
    const std::string text = part.RequireText("text");
    part.RefuseOthers();
    if (i > 0) out += '\n';
    out += text;
  }
  return message.ok();
}

bool IsToolName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxToolNameLength && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  });
}

std::string ReadToolName(Members& function) {
  std::string name = function.RequireText("name");
  if (function.ok() && !IsToolName(name)) {
    function.Fail("INVALID_VALUE", "name",
                  fmt::format("'{}' must have 1 to {} of a-z, A-Z, 0-9, '_', '-' and '.'.", function.PathOf("name"),
                              kMaxToolNameLength));
  }
  return name;
}

// {"id", "type": "function", "function": {"name", "arguments"}}, with nothing else.
Json ReadToolCall(const Json& value, std::string path, absl::Status& status) {
  Members call(value, std::move(path), status);
  Json out;
  out["id"] = call.RequireText("id");
  out["type"] = "function";
  std::string type;
  call.ReadOneOf("type", {"function"}, type);
  call.Ignore({"index"});
  if (const Json* body = call.Require("function"); body != nullptr) {
    Members function(*body, call.PathOf("function"), status);
    Json& to = out["function"];
    to["name"] = ReadToolName(function);
    std::string arguments = "{}";
    function.Read("arguments", arguments);
    to["arguments"] = std::move(arguments);
    function.RefuseOthers();
  }
  call.RefuseOthers();
  return out;
}

void ReadToolCalls(Members& message, v1::ChatMessage& out) {
  const Json* calls = message.Find("tool_calls");
  if (calls == nullptr) return;
  const std::string path = message.PathOf("tool_calls");
  if (!calls->is_array()) {
    message.status() = TypeError(path, "an array", *calls);
    return;
  }
  Json list = Json::array();
  for (size_t i = 0; i < calls->size() && message.ok(); ++i) {
    list.push_back(ReadToolCall((*calls)[i], fmt::format("{}[{}]", path, i), message.status()));
  }
  if (message.ok() && !list.empty()) out.set_tool_calls_json(TextOf(list));
}

void ReadAssistant(Members& message, v1::ChatMessage& out) {
  std::string text;
  bool said = ReadContent(message, text);
  ReadToolCalls(message, out);
  std::string refusal;
  if (message.Read("refusal", refusal) && !said) {
    text = std::move(refusal);
    said = true;
  }
  message.Refuse("audio", "models here read text only");
  message.Refuse("function_call", kFunctionFields);
  message.Ignore({"annotations"});
  if (message.ok() && !said && out.tool_calls_json().empty()) {
    message.Fail("MISSING_REQUIRED_PARAMETER", "content",
                 fmt::format("Missing required parameter: '{}': a message of an assistant has content or tool_calls.",
                             message.PathOf("content")));
  }
  out.set_content(std::move(text));
}

void ReadMessage(const Json& value, std::string path, absl::Status& status, v1::ChatMessage& out) {
  Members message(value, std::move(path), status);
  std::string role;
  if (message.Require("role") == nullptr ||
      !message.ReadOneOf("role", {"system", "developer", "user", "assistant", "tool"}, role)) {
    return;
  }
  out.set_role(role == "developer" ? "system" : role);
  message.Read("name", *out.mutable_name());
  if (role == "tool") *out.mutable_tool_call_id() = message.RequireText("tool_call_id");
  if (role == "assistant") {
    ReadAssistant(message, out);
  } else if (!ReadContent(message, *out.mutable_content())) {
    message.Fail("MISSING_REQUIRED_PARAMETER", "content",
                 fmt::format("Missing required parameter: '{}'.", message.PathOf("content")));
  }
  message.RefuseOthers();
}

Tool ReadTool(const Json& value, std::string path, absl::Status& status) {
  Tool tool;
  Members members(value, std::move(path), status);
  const std::string type = members.RequireText("type");
  if (members.ok() && type != "function") {
    members.Fail(
        "UNSUPPORTED_VALUE", "type",
        fmt::format("Unsupported tool '{}' at '{}': only functions can be called.", type, members.PathOf("type")));
  }
  if (const Json* body = members.Require("function"); body != nullptr) {
    Members function(*body, members.PathOf("function"), status);
    tool.name = ReadToolName(function);
    std::string description;
    function.Read("description", description);
    bool strict = false;
    function.Read("strict", strict);
    tool.parameters = Json{{"type", "object"}};
    if (const Json* parameters = function.Find("parameters"); parameters != nullptr) {
      if (parameters->is_object()) {
        if (!parameters->empty()) tool.parameters = *parameters;
      } else {
        status = TypeError(function.PathOf("parameters"), "an object", *parameters);
      }
    }
    function.RefuseOthers();
  }
  members.RefuseOthers();
  return tool;
}

// "#..." of a schema that now stands at `at` of another.
void RebaseReferences(Json& schema, const std::string& at) {
  if (schema.is_array()) {
    for (Json& entry : schema) RebaseReferences(entry, at);
  }
  if (!schema.is_object()) return;
  for (auto item = schema.begin(); item != schema.end(); ++item) {
    Json& value = item.value();
    const bool reference = item.key() == "$ref" && value.is_string();
    if (reference && value.get_ref<const std::string&>().starts_with('#')) {
      value = fmt::format("#{}{}", at, value.get_ref<const std::string&>().substr(1));
    } else {
      RebaseReferences(value, at);
    }
  }
}

Json SchemaOfOne(const Tool& tool, const std::string& at) {
  Json parameters = tool.parameters;
  RebaseReferences(parameters, fmt::format("{}/properties/arguments", at));
  Json schema = {{"type", "object"}};
  schema["properties"]["name"] = Json{{"const", tool.name}};
  schema["properties"]["arguments"] = std::move(parameters);
  schema["required"] = Json::array({"name", "arguments"});
  schema["additionalProperties"] = false;
  return schema;
}

}  // namespace

void ReadMessages(Members& body, v1::ChatRequest& chat) {
  const Json* messages = body.Require("messages");
  if (messages == nullptr) return;
  if (!messages->is_array()) {
    body.status() = TypeError("messages", "an array of objects", *messages);
    return;
  }
  if (messages->empty()) return body.Fail("INVALID_VALUE", "messages", "'messages' must have at least one entry.");
  for (size_t i = 0; i < messages->size() && body.ok(); ++i) {
    ReadMessage((*messages)[i], fmt::format("messages[{}]", i), body.status(), *chat.add_messages());
  }
}

std::vector<Tool> ReadTools(Members& body, std::string* json) {
  std::vector<Tool> tools;
  const Json* list = body.Find("tools");
  if (list == nullptr) return tools;
  if (!list->is_array()) {
    body.status() = TypeError("tools", "an array of objects", *list);
    return tools;
  }
  if (list->size() > kMaxTools) {
    body.Fail("INVALID_VALUE", "tools",
              fmt::format("'tools' has {} entries; the limit is {}.", list->size(), kMaxTools));
    return tools;
  }
  tools.reserve(list->size());
  for (size_t i = 0; i < list->size() && body.ok(); ++i) {
    Tool tool = ReadTool((*list)[i], fmt::format("tools[{}]", i), body.status());
    const bool twice = std::any_of(tools.begin(), tools.end(), [&tool](const Tool& t) { return t.name == tool.name; });
    if (body.ok() && twice) {
      body.status() = FieldError("INVALID_VALUE", fmt::format("tools[{}].function.name", i),
                                 fmt::format("Two tools have the name '{}'.", tool.name));
    }
    tools.push_back(std::move(tool));
  }
  if (body.ok() && !tools.empty()) *json = TextOf(*list);
  return tools;
}

Json SchemaOfCall(const std::vector<Tool>& tools) {
  if (tools.size() == 1) return SchemaOfOne(tools.front(), "");
  Json schema;
  schema["anyOf"] = Json::array();
  for (size_t i = 0; i < tools.size(); ++i) {
    schema["anyOf"].push_back(SchemaOfOne(tools[i], fmt::format("/anyOf/{}", i)));
  }
  return schema;
}

}  // namespace qamserve::openai
