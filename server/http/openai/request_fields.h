// What requests for completions and for chat have in common: model, streaming, sampling, constraints. Pure functions
// over a JSON body that has been parsed; errors are those of Members, sticky.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "qamserve/v1/inference.pb.h"
#include "server/http/openai/json_reader.h"

namespace qamserve::openai {

// Of one request, all prompts together: each is a sequence of its own.
inline constexpr int64_t kMaxChoices = 128;
inline constexpr int64_t kMaxStops = 16;
inline constexpr int64_t kMaxTopLogprobs = 20;
// "As many as fit": the engine cuts what is left of the context.
inline constexpr int64_t kAllTokens = 1 << 24;
// A message to a service may have 4 MiB; what is not prompt or schema is small.
inline constexpr size_t kMaxTextBytes = (4 << 20) - (64 << 10);

struct RequestFields {
  std::string model;
  bool stream = false;
  bool include_usage = false;
  int64_t n = 1;
  std::optional<uint64_t> seed;
  v1::SamplingParams params;  // without max_tokens, logprobs and seed
};

// Reads them from `body`; `max_tokens` is none of them.
void ReadRequestFields(Members& body, RequestFields& fields);

// `seed` of choice `i` of a request: the first has the request's own, the others what is derived from it. 0, which the
// services read as "choose one", is mapped to another. Nothing stays nothing.
uint64_t SeedOfChoice(const std::optional<uint64_t>& seed, int64_t i);

// response_format, structured_outputs and guided_*, of which at most one may be given. `named` is the member that was.
struct ConstraintFields {
  v1::OutputConstraint constraint;
  std::string named;  // empty = none
};
void ReadConstraint(Members& body, ConstraintFields& fields);

}  // namespace qamserve::openai
