// The "messages" and "tools" of a chat request. Pure functions; errors as in Members, sticky.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "qamserve/v1/inference.pb.h"
#include "server/http/openai/json_reader.h"

namespace qamserve::openai {

inline constexpr size_t kMaxTools = 128;          // as OpenAI
inline constexpr size_t kMaxToolNameLength = 64;  // as OpenAI

// Adds body.messages to `chat`. "developer" is what "system" is called for newer models.
void ReadMessages(Members& body, v1::ChatRequest& chat);

struct Tool {
  std::string name;
  Json parameters;  // a JSON schema; any object if the request gives none
};
// body.tools, checked; `json` gets them as text for the template. Empty if there are none.
std::vector<Tool> ReadTools(Members& body, std::string* json);

// The JSON schema of a call of one of `tools`: {"name": one of the names, "arguments": as its parameters say}.
// References within parameters ("#/$defs/...") are rewritten, since parameters are now a part of a larger schema.
Json SchemaOfCall(const std::vector<Tool>& tools);

}  // namespace qamserve::openai
