// Bodies of POST /v1/chat/completions. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/http/openai/request_fields.h"

namespace qamserve::openai {

enum class ToolMode {
  kNone,    // the answer is text
  kAuto,    // the model decides; calls are found in what it says
  kForced,  // the answer is constrained to be a call
};

struct ChatCompletionRequest : RequestFields {
  v1::ChatRequest chat;   // but for what depends on the choice
  int64_t logprobs = -1;  // -1 = none, 0 = of what was chosen, n = and of the n best
  ToolMode tools = ToolMode::kNone;
  std::vector<std::string> tool_names;
  bool parallel_tool_calls = true;
  std::string constraint_name;  // the member that constrains; empty = none
};

absl::StatusOr<ChatCompletionRequest> ReadChatCompletionRequest(const Json& body);

}  // namespace qamserve::openai
