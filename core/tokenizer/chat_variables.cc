#include "core/tokenizer/chat_variables.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>

#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

// Of one field: tool lists of a hundred functions have 100 KB.
constexpr size_t kMaxJsonBytes = size_t{1} << 20;
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxArgs = 64;
// Of what a parser says, which may quote all that it was given.
constexpr size_t kMaxReportBytes = 300;

// Where a JSON text stands, for errors.
struct Field {
  std::string_view reason;
  std::string name;
};

template <typename... Args>
absl::Status Bad(const Field& field, fmt::format_string<Args...> format, Args&&... args) {
  return InvalidArgument(field.reason, "{}: {}", field.name, fmt::format(format, std::forward<Args>(args)...));
}

// Deepest nesting of brackets outside of strings.
int BracketNesting(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\') ++i;
    if (c == '"') quoted = !quoted;
    if (quoted) continue;
    if (c == '[' || c == '{') deepest = std::max(deepest, ++depth);
    if (c == ']' || c == '}') --depth;
  }
  return deepest;
}

// The engine's integers have 64 bits and a sign; a larger one would become another number in silence.
bool HoldsLargeInteger(const common_json& json) {
  if (json.is_number_integer()) return json.get<int64_t>() < 0 && json.dump()[0] != '-';
  if (!json.is_array() && !json.is_object()) return false;
  for (const common_json& item : json) {
    if (HoldsLargeInteger(item)) return true;
  }
  return false;
}

absl::StatusOr<common_json> ParseField(const Field& field, const std::string& text) {
  if (text.size() > kMaxJsonBytes) return Bad(field, "{} bytes; the limit is {}", text.size(), kMaxJsonBytes);
  if (BracketNesting(text) > kMaxJsonNesting) return Bad(field, "nested past {} levels", kMaxJsonNesting);
  try {
    common_json json = common_json::parse(text);
    if (HoldsLargeInteger(json)) {
      return Bad(field, "an integer above {}", std::numeric_limits<int64_t>::max());
    }
    return json;
  } catch (const common_json_error& e) {
    std::string_view what = e.what();
    if (what.size() > kMaxReportBytes) what = what.substr(0, RepairedPrefix(what.substr(0, kMaxReportBytes)));
    return Bad(field, "{}", what);
  }
}

// {"name": "...", "arguments": an object or its text}.
absl::Status ReadFunction(const Field& call, const CallForm& form, common_json& function) {
  if (!function.is_object() || !function.contains("name") || !function.at("name").is_string()) {
    return Bad(call, "\"function\" is not an object with a \"name\"");
  }
  if (!function.contains("arguments")) return absl::OkStatus();
  common_json& arguments = function.at("arguments");
  const std::string text = arguments.is_string() ? arguments.get<std::string>() : arguments.dump();
  if (arguments.is_string()) {
    const Field field{call.reason, call.name + ".function.arguments"};
    ASSIGN_OR_RETURN(arguments, ParseField(field, text));
  }
  const bool is_object = arguments.is_object();
  if (form.arguments_as_text) arguments = text;
  if (is_object) return absl::OkStatus();
  return Bad(call, "\"arguments\" is neither a JSON object nor the text of one");
}

absl::StatusOr<common_json> ReadToolCalls(const Field& field, const CallForm& form, const std::string& text) {
  ASSIGN_OR_RETURN(common_json calls, ParseField(field, text));
  if (!calls.is_array()) return Bad(field, "not a JSON array");
  for (size_t i = 0; i < calls.size(); ++i) {
    common_json& call = calls.at(i);
    const Field place{field.reason, fmt::format("{}[{}]", field.name, i)};
    if (!call.is_object() || !call.contains("function")) return Bad(place, "not an object with a \"function\"");
    RETURN_IF_ERROR(ReadFunction(place, form, call.at("function")));
  }
  return calls;
}

absl::Status CheckName(const std::string& message, std::string_view field, const std::string& value) {
  if (value.size() <= kMaxNameBytes) return absl::OkStatus();
  return InvalidArgument("CHAT_MESSAGES", "{}.{}: {} bytes; the limit is {}", message, field, value.size(),
                         kMaxNameBytes);
}

absl::StatusOr<common_json> ReadMessage(const ChatMessage& message, const CallForm& form, const std::string& place) {
  RETURN_IF_ERROR(CheckName(place, "role", message.role));
  RETURN_IF_ERROR(CheckName(place, "name", message.name));
  RETURN_IF_ERROR(CheckName(place, "tool_call_id", message.tool_call_id));
  common_json entry;
  entry["role"] = message.role;
  // What others call null: templates expect of it that it is not there.
  const bool says_nothing = message.content.empty() && !message.tool_calls_json.empty();
  if (!says_nothing || form.empty_content) entry["content"] = message.content;
  if (!message.name.empty()) entry["name"] = message.name;
  if (!message.tool_calls_json.empty()) {
    const Field field{"CHAT_MESSAGES", place + ".tool_calls_json"};
    if (message.role != "assistant") return Bad(field, "only an assistant's message has tool calls");
    ASSIGN_OR_RETURN(common_json calls, ReadToolCalls(field, form, message.tool_calls_json));
    entry["tool_calls"] = std::move(calls);
  }
  if (!message.tool_call_id.empty()) entry["tool_call_id"] = message.tool_call_id;
  return entry;
}

bool IsIdentifier(const std::string& name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  const auto part = [&](char c) { return letter(c) || (c >= '0' && c <= '9'); };
  return !name.empty() && letter(name[0]) && std::all_of(name.begin(), name.end(), part);
}

absl::Status AddArgs(const std::string& text, common_json& variables) {
  // Each has a field of its own.
  constexpr std::string_view kTaken[] = {"messages", "tools", "add_generation_prompt"};
  const Field field{"CHAT_TEMPLATE_ARGS", "template_args_json"};
  ASSIGN_OR_RETURN(const common_json args, ParseField(field, text));
  if (!args.is_object()) return Bad(field, "not a JSON object");
  if (args.size() > kMaxArgs) return Bad(field, "{} members; the limit is {}", args.size(), kMaxArgs);
  for (const auto& [name, value] : args.items()) {
    if (name.size() > kMaxNameBytes || !IsIdentifier(name)) {
      return Bad(field, "\"{}\" is not the name of a variable", name.substr(0, RepairedPrefix(name.substr(0, 64))));
    }
    if (std::find(std::begin(kTaken), std::end(kTaken), name) != std::end(kTaken)) {
      return Bad(field, "\"{}\" cannot be set here", name);
    }
    variables[name] = value;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<common_json> ChatVariables(const std::vector<ChatMessage>& messages, const ChatRenderOptions& options,
                                          const CallForm& form) {
  common_json variables;
  common_json list = common_json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    ASSIGN_OR_RETURN(common_json entry, ReadMessage(messages[i], form, fmt::format("messages[{}]", i)));
    list.push_back(std::move(entry));
  }
  variables["messages"] = std::move(list);
  variables["add_generation_prompt"] = options.add_generation_prompt && !options.continue_last_message;
  // transformers defines both, as None, when there are none.
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  if (!options.tools_json.empty()) {
    const Field field{"CHAT_TEMPLATE_TOOLS", "tools_json"};
    ASSIGN_OR_RETURN(common_json tools, ParseField(field, options.tools_json));
    if (!tools.is_array()) return Bad(field, "not a JSON array");
    for (size_t i = 0; i < tools.size(); ++i) {
      if (!tools.at(i).is_object()) return Bad(field, "[{}] is not an object", i);
    }
    variables["tools"] = std::move(tools);
  }
  if (!options.template_args_json.empty()) RETURN_IF_ERROR(AddArgs(options.template_args_json, variables));
  return variables;
}

}  // namespace qamserve
