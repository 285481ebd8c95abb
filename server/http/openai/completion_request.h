// Bodies of POST /v1/completions and /v1/embeddings. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/http/openai/request_fields.h"

namespace qamserve::openai {

// A text, or its tokens.
struct Prompt {
  std::string text;
  std::vector<int32_t> tokens;
  bool is_tokens = false;
};

struct CompletionRequest : RequestFields {
  std::vector<Prompt> prompts;  // the answer has n choices for each, those of the first one first
  int64_t max_tokens = 16;      // 0 only with echo
  int64_t logprobs = -1;        // -1 = none, 0 = of what was chosen, n = and of the n best
  bool echo = false;
  std::string constraint_name;  // the member that constrains; empty = none
};

struct EmbeddingRequest {
  std::string model;
  std::vector<Prompt> inputs;
  bool base64 = false;  // floats as little-endian bytes in base64, which the official clients ask for
  bool normalize = true;
};

absl::StatusOr<CompletionRequest> ReadCompletionRequest(const Json& body);
absl::StatusOr<EmbeddingRequest> ReadEmbeddingRequest(const Json& body);

}  // namespace qamserve::openai
