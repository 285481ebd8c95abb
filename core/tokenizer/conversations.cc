#include "core/tokenizer/conversations.h"

#include "core/tokenizer/json_fields.h"
#include "core/tokenizer/tokenizer_config.h"

namespace qamserve {
namespace {

// Templates that print the date must not make the same text other tokens tomorrow: noon of 1 January 2025, UTC.
constexpr int64_t kFixedNow = 1735732800;

absl::StatusOr<std::string> RenderFixed(const ChatTemplate& chat, const std::vector<ChatMessage>& messages) {
  return chat.Render(messages, {.add_generation_prompt = false, .now_seconds = kFixedNow});
}

// Takes the first line off `text`.
std::string_view TakeLine(std::string_view& text) {
  const size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

bool IsBlank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

absl::Status Invalid(int64_t line, std::string_view what) {
  return InvalidArgument(
      "CONVERSATION_INVALID",
      "line {}: {}; expected is {{\"messages\": [{{\"role\": \"...\", \"content\": \"...\"}}, ...]}}", line, what);
}

absl::Status ReadMessages(std::string_view text, int64_t line, std::vector<ChatMessage>& out) {
  const Json object = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return Invalid(line, "not a JSON object");
  const Json* messages = FindField(object, "messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return Invalid(line, "\"messages\" is not an array with something in it");
  }
  for (const Json& message : *messages) {
    const Json* role = FindField(message, "role");
    const Json* content = FindField(message, "content");
    if (role == nullptr || !role->is_string() || content == nullptr || !content->is_string()) {
      return Invalid(line, fmt::format("message {} has no role and content that are texts", out.size() + 1));
    }
    out.push_back({role->get<std::string>(), content->get<std::string>()});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ReadChatTemplate(const TokenizerFiles& files) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, ParseTokenizerConfig(files.tokenizer_config_json));
  const std::string& source = files.chat_template.empty() ? config.chat_template : files.chat_template;
  if (source.empty()) return std::shared_ptr<const ChatTemplate>();
  return ChatTemplate::Parse(source, config.bos_token, config.eos_token);
}

absl::Status TryChatTemplate(const ChatTemplate& chat) {
  const ChatMessage user{"user", "Hello"};
  const absl::Status alone = chat.Render({user}, {}).status();
  return alone.ok() || chat.Render({{"system", "Be brief."}, user}, {}).ok() ? absl::OkStatus() : alone;
}

bool AreConversations(std::string_view text) {
  while (!text.empty()) {
    const std::string_view line = TakeLine(text);
    if (IsBlank(line)) continue;
    // Most texts are not; parsing them for that would be a waste.
    if (line[line.find_first_not_of(" \t\r")] != '{') return false;
    const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const Json* messages = FindField(object, "messages");
    return messages != nullptr && messages->is_array();
  }
  return false;
}

absl::Status ForEachConversation(
    std::string_view text,
    absl::FunctionRef<absl::Status(int64_t line, const std::vector<ChatMessage>& messages)> visit) {
  std::vector<ChatMessage> messages;
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = TakeLine(text);
    if (IsBlank(line)) continue;
    messages.clear();
    RETURN_IF_ERROR(ReadMessages(line, number, messages));
    RETURN_IF_ERROR(visit(number, messages));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> EncodeConversations(std::string_view text, const ChatTemplate& chat,
                                                         const Tokenizer& tokenizer, int64_t enough) {
  std::vector<int32_t> tokens;
  auto encode = [&](int64_t line, const std::vector<ChatMessage>& messages) -> absl::Status {
    if (static_cast<int64_t>(tokens.size()) >= enough) return absl::OkStatus();
    const auto rendered = RenderFixed(chat, messages);
    if (!rendered.ok()) return Annotate(rendered.status(), fmt::format("line {}", line));
    const std::vector<int32_t> more = EncodeChat(tokenizer, *rendered);
    tokens.insert(tokens.end(), more.begin(), more.end());
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(ForEachConversation(text, encode));
  return tokens;
}

absl::StatusOr<std::string> UserTurnStart(const ChatTemplate& chat) {
  // Nothing that a template trims, escapes or prints by itself.
  const std::string said = "Qamserve7said4this";
  ASSIGN_OR_RETURN(std::string text, RenderFixed(chat, {{"user", said}}));
  const size_t at = text.find(said);
  if (at == std::string::npos) {
    return InvalidArgument("CHAT_TEMPLATE_REFUSED", "chat template: what the user says is not in what it prints");
  }
  text.resize(at);
  // Tokens of most vocabularies have the space before a word; a space left over would be one that no text has.
  text.resize(text.find_last_not_of(' ') + 1);
  if (!text.empty()) return text;
  return InvalidArgument("CHAT_TEMPLATE_REFUSED", "chat template: nothing stands before what the user says");
}

std::vector<int32_t> EncodeChat(const Tokenizer& tokenizer, std::string_view rendered) {
  return tokenizer.Encode(rendered, {.add_special = false, .parse_special = true});
}

}  // namespace qamserve
