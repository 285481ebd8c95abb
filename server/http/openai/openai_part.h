// The endpoints that OpenAI's clients speak to: GET /v1/models and /v1/models/{id}, POST /v1/completions,
// /v1/chat/completions and /v1/embeddings (docs/openai.md). Each is a conversion: JSON to calls of the services and
// back, so that keys, limits, metrics and errors are theirs.
#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "server/grpc/executor.h"
#include "server/http/exchange.h"
#include "server/http/local_calls.h"

namespace qamserve {

struct OpenAiOptions {
  // The system_fingerprint of "servedModels/{name}": what it was loaded from and by which build; "" = not known. Called
  // from any thread; must not block.
  std::function<std::string(std::string_view served_model)> fingerprint;
  std::function<int64_t()> unix_seconds;  // the clock's if empty
  // What ids of answers and tool calls end in: letters and digits, another each time. Random if empty.
  std::function<std::string()> new_id;
  absl::Duration ping_interval = absl::Seconds(15);  // of silence in a stream, before a comment is sent
  size_t max_body_bytes = size_t{8} << 20;
  // Where bodies are read that take more than a moment; must outlive the part. Null = on I/O threads.
  Executor* executor = nullptr;
};

// To be asked before a part that takes all of /v1.
HttpPart OpenAiPart(std::shared_ptr<LocalCalls> calls, OpenAiOptions options = {});

}  // namespace qamserve
