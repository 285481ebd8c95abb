// The parts of OpenAI's answers that several of them have. Pure functions, and TextOffsets.
#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "qamserve/v1/inference.pb.h"
#include "server/http/openai/json_reader.h"
#include "server/http/openai/tool_call_parser.h"

namespace qamserve::openai {

// What all objects of one answer say about it.
struct AnswerHead {
  std::string id;           // "chatcmpl-..."
  int64_t created = 0;      // seconds since 1970
  std::string model;        // as the request named it
  std::string fingerprint;  // empty = left out
};
// {"id", "object", "created", "model", "system_fingerprint"}
Json ObjectOf(const AnswerHead& head, std::string_view object);

struct TokenCounts {
  int64_t prompt = 0;
  int64_t cached = 0;  // of prompt
  int64_t completion = 0;
};
Json UsageOf(const TokenCounts& counts);

// "stop", "length", or null for what goes on or ends with an error.
Json FinishReasonOf(v1::FinishReason reason);

// JSON has no infinity: what is impossible is as improbable as OpenAI's documents say.
double Finite(double logprob);

// A token as text: "bytes:\xe2\x82" if it is only a part of a character, as OpenAI writes it in completions.
std::string TokenTextOf(std::string_view bytes);

using TokenLogprobs = google::protobuf::RepeatedPtrField<v1::TokenLogprob>;
// The entries of "logprobs.content" of a chat, with the `top` best tokens each.
Json ChatLogprobsOf(const TokenLogprobs& tokens, int64_t top);

// Where each token's text begins in a text that grows, in characters (code points). Tokens that the text does not show
// (special ones) begin where the next one does.
class TextOffsets {
 public:
  explicit TextOffsets(int64_t begin = 0) : offset_(begin) {}
  void AddText(std::string_view text);
  // Of the next token, which is moved past.
  int64_t Next(std::string_view bytes);

 private:
  void Move(std::string_view bytes);

  int64_t offset_;
  std::string rest_;  // text that no token has claimed
  size_t ahead_ = 0;  // bytes that tokens claimed before their text came
};

// "logprobs" of a completion: four lists that grow together.
class CompletionLogprobs {
 public:
  // The first token of a text has no probability.
  void AddFirst(std::string_view bytes, TextOffsets& offsets);
  void Add(const v1::TokenLogprob& token, int64_t top, TextOffsets& offsets);
  bool empty() const { return tokens_.empty(); }
  Json Take();

 private:
  Json tokens_ = Json::array();
  Json logprobs_ = Json::array();
  Json top_ = Json::array();
  Json offsets_ = Json::array();
};

// {"id", "type": "function", "function": {"name", "arguments"}}
Json ToolCallOf(const ToolCall& call, const std::string& id);

}  // namespace qamserve::openai
