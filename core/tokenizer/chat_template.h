// The Jinja chat template of a checkpoint, rendered as transformers' apply_chat_template renders it (trim_blocks,
// lstrip_blocks, raise_exception, strftime_now, tojson). Differences: "upper" and "lower" change ASCII letters only.
// Macros may call each other 24 deep, and a rendering may take some seconds and make 256 MB of text and lists
// (template_guard.h). Thread safety: const after Parse.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

struct ChatMessage {
  std::string role;
  std::string content;
  std::string name = {};  // of who speaks or of the tool that answers; empty: not given, as the next two
  // Of an assistant: array of {"id", "type", "function": {"name", "arguments"}}, arguments an object or its text.
  // Templates get arguments as objects and, if nothing is said, no content, as transformers hands them over; those that
  // refuse that get arguments as text, or an empty content, or both.
  std::string tool_calls_json = {};
  std::string tool_call_id = {};  // which call a tool answers
};

struct ChatRenderOptions {
  bool add_generation_prompt = true;
  // JSON array of tool definitions, or empty.
  std::string tools_json;
  // What strftime_now takes for now, in seconds since 1970; the clock's time if not given.
  std::optional<int64_t> now_seconds = std::nullopt;
  // JSON object of further variables, or empty.
  std::string template_args_json = {};
  // The rendering ends with the last message, an assistant's, as if it were not over (transformers'
  // continue_final_message); there is no generation prompt then.
  bool continue_last_message = false;
};

class ChatTemplate {
 public:
  // `bos_token` and `eos_token` are texts that templates may print.
  // INVALID_ARGUMENT (CHAT_TEMPLATE_INVALID) says what could not be parsed.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Parse(std::string_view source, std::string bos_token,
                                                                   std::string eos_token);
  virtual ~ChatTemplate() = default;
  // INVALID_ARGUMENT: CHAT_TEMPLATE_REFUSED carries what raise_exception said; CHAT_MESSAGES, CHAT_TEMPLATE_TOOLS and
  // CHAT_TEMPLATE_ARGS name the field with JSON (1 MiB, 64 levels) that is wrong; CHAT_CONTINUE if the last message is
  // no assistant's, has tool calls, or is not in what the template prints. RESOURCE_EXHAUSTED (CHAT_TEMPLATE_BUDGET) if
  // the output passes 16 MB, or the template takes or makes too much on the way, or does what the engine would not
  // survive.
  virtual absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                             const ChatRenderOptions& options) const = 0;
};

}  // namespace qamserve
