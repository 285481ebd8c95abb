// Conversations as text to calibrate or measure on, in a model's own chat format. Thread-safe.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace qamserve {

// The chat template among a tokenizer's files; null if the model has none. CHAT_TEMPLATE_INVALID.
absl::StatusOr<std::shared_ptr<const ChatTemplate>> ReadChatTemplate(const TokenizerFiles& files);

// Renders what any template should: one thing that a user says, with or without a system message before it. The error
// is that of the rendering without one.
absl::Status TryChatTemplate(const ChatTemplate& chat);

// Whether a text is meant as conversations: its first line that is not blank is a JSON object with a "messages" array,
// as data sets of chats have it.
bool AreConversations(std::string_view text);
// Calls visit(number of the line from 1, its messages) for each line that is not blank:
//   {"messages": [{"role": "user", "content": "..."}, ...], ...}
// Other members of the object and of messages are left aside. INVALID_ARGUMENT (CONVERSATION_INVALID) names the line
// and what is wrong with it; an error of `visit` stops the walk and is returned.
absl::Status ForEachConversation(
    std::string_view text,
    absl::FunctionRef<absl::Status(int64_t line, const std::vector<ChatMessage>& messages)> visit);

// Tokens of all conversations of a text, each rendered by the template (without a generation prompt; special tokens
// become their ids), one after the other. Every line is checked; rendering ends once there are `enough` tokens. Errors
// are those of ForEachConversation and of ChatTemplate::Render, with the line.
absl::StatusOr<std::vector<int32_t>> EncodeConversations(std::string_view text, const ChatTemplate& chat,
                                                         const Tokenizer& tokenizer, int64_t enough);

// What the template prints before the first thing that a user says, system prompt included: what a model continues it
// with is something that a user says, and then the rest of a conversation. INVALID_ARGUMENT (CHAT_TEMPLATE_REFUSED) if
// the template prints nothing there or not what the user said.
absl::StatusOr<std::string> UserTurnStart(const ChatTemplate& chat);
// As tokens, special ones included.
std::vector<int32_t> EncodeChat(const Tokenizer& tokenizer, std::string_view rendered);

}  // namespace qamserve
