#include "core/tokenizer/tokenizer_config.h"

namespace qamserve {
namespace {

std::string ChatTemplateText(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string first;
  if (!value.is_array()) return first;
  for (const Json& entry : value) {
    const Json* text = FindField(entry, "template");
    if (text == nullptr || !text->is_string()) continue;
    const Json* name = FindField(entry, "name");
    if (name != nullptr && *name == "default") return text->get<std::string>();
    if (first.empty()) first = text->get<std::string>();
  }
  return first;
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view text) {
  TokenizerConfig config;
  if (text.empty()) return config;
  const Json root = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!root.is_object())
    return InvalidArgument("TOKENIZER_CONFIG_INVALID", "tokenizer_config.json is not a JSON object");
  if (const Json* bos = FindField(root, "bos_token"); bos != nullptr) config.bos_token = TokenText(*bos);
  if (const Json* eos = FindField(root, "eos_token"); eos != nullptr) config.eos_token = TokenText(*eos);
  ASSIGN_OR_RETURN(config.add_bos_token, BoolField(root, "add_bos_token", false));
  ASSIGN_OR_RETURN(config.add_eos_token, BoolField(root, "add_eos_token", false));
  ASSIGN_OR_RETURN(const std::string rules, StringField(root, kMergeRulesKey, ""));
  config.gguf_rules = rules == kGgufMergeRules;
  if (const Json* chat = FindField(root, "chat_template"); chat != nullptr)
    config.chat_template = ChatTemplateText(*chat);
  return config;
}

}  // namespace qamserve
