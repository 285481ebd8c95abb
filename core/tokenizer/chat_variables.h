// What a chat template sees of a request: messages, tools and further variables, as transformers' apply_chat_template
// hands them over. Internal to core/tokenizer; sees the JSON type of the Jinja engine and must not be included where
// nlohmann/json.hpp is, whose version differs. Pure functions.
#pragma once

#include <json.h>

#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/chat_template.h"

namespace qamserve {

// JSON of a request may be nested so deep. The engine walks by recursion; tool lists stay below 20.
inline constexpr int kMaxJsonNesting = 64;

// How a template gets an assistant's message that calls tools. Transformers asks templates to take objects as arguments
// and no "content" where nothing is said, which some do not: they add either to a text.
struct CallForm {
  bool empty_content = false;      // "" where nothing is said
  bool arguments_as_text = false;  // as they were written
};

// "messages", "tools", "documents", "add_generation_prompt" and what options.template_args_json has. A message has what
// was given of it. INVALID_ARGUMENT names the field:
// CHAT_MESSAGES, CHAT_TEMPLATE_TOOLS, CHAT_TEMPLATE_ARGS.
absl::StatusOr<common_json> ChatVariables(const std::vector<ChatMessage>& messages, const ChatRenderOptions& options,
                                          const CallForm& form);

}  // namespace qamserve
