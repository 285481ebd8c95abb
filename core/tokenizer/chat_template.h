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
};

struct ChatRenderOptions {
  bool add_generation_prompt = true;
  // JSON array of tool definitions, or empty.
  std::string tools_json;
  // What strftime_now takes for now, in seconds since 1970; the clock's time if not given.
  std::optional<int64_t> now_seconds = std::nullopt;
};

class ChatTemplate {
 public:
  // `bos_token` and `eos_token` are texts that templates may print.
  // INVALID_ARGUMENT (CHAT_TEMPLATE_INVALID) says what could not be parsed.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Parse(std::string_view source, std::string bos_token,
                                                                   std::string eos_token);
  virtual ~ChatTemplate() = default;
  // INVALID_ARGUMENT: CHAT_TEMPLATE_REFUSED carries what raise_exception said, CHAT_TEMPLATE_TOOLS tells what is wrong
  // with tools_json. RESOURCE_EXHAUSTED (CHAT_TEMPLATE_BUDGET) if the output passes 16 MB, or the template takes or
  // makes too much on the way, or does what the engine would not survive.
  virtual absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                             const ChatRenderOptions& options) const = 0;
};

}  // namespace qamserve
