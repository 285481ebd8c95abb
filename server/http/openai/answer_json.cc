#include "server/http/openai/answer_json.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/tokenizer/utf8.h"
#include "server/grpc/status_conversion.h"

namespace qamserve::openai {
namespace {

constexpr double kLeastLogprob = -9999;
// How far a text is searched for a token that is not where it should be: a character that could not be read before it.
constexpr size_t kResyncBytes = 16;

int64_t CharactersIn(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

bool IsText(std::string_view bytes) { return IsRepairedUtf8(bytes) && !HasSurrogates(bytes); }

Json BytesOf(std::string_view bytes) {
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return list;
}

Json ChatTokenOf(const v1::TokenLogprob& token) {
  Json out;
  out["token"] = ValidUtf8(token.text());
  out["bytes"] = BytesOf(token.text());
  out["logprob"] = Finite(token.logprob());
  return out;
}

}  // namespace

Json ObjectOf(const AnswerHead& head, std::string_view object) {
  Json out;
  out["id"] = head.id;
  out["object"] = object;
  out["created"] = head.created;
  out["model"] = head.model;
  if (!head.fingerprint.empty()) out["system_fingerprint"] = head.fingerprint;
  return out;
}

Json UsageOf(const TokenCounts& counts) {
  Json out;
  out["prompt_tokens"] = counts.prompt;
  out["completion_tokens"] = counts.completion;
  out["total_tokens"] = counts.prompt + counts.completion;
  out["prompt_tokens_details"]["cached_tokens"] = counts.cached;
  return out;
}

Json FinishReasonOf(v1::FinishReason reason) {
  if (reason == v1::FINISH_REASON_STOP) return "stop";
  if (reason == v1::FINISH_REASON_LENGTH) return "length";
  return {};
}

double Finite(double logprob) { return logprob >= kLeastLogprob ? logprob : kLeastLogprob; }

std::string TokenTextOf(std::string_view bytes) {
  if (IsText(bytes)) return std::string(bytes);
  std::string text = "bytes:";
  for (const char c : bytes) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text;
}

Json ChatLogprobsOf(const TokenLogprobs& tokens, int64_t top) {
  Json list = Json::array();
  for (const v1::TokenLogprob& token : tokens) {
    Json entry = ChatTokenOf(token);
    entry["top_logprobs"] = Json::array();
    const int count = std::min(token.top_size(), static_cast<int>(top));
    for (int i = 0; i < count; ++i) entry["top_logprobs"].push_back(ChatTokenOf(token.top(i)));
    list.push_back(std::move(entry));
  }
  return list;
}

void TextOffsets::AddText(std::string_view text) {
  const size_t known = std::min(ahead_, text.size());
  ahead_ -= known;
  rest_ += text.substr(known);
}

int64_t TextOffsets::Next(std::string_view bytes) {
  const int64_t begin = offset_;
  if (rest_.starts_with(bytes)) {
    Move(bytes);
  } else if (bytes.starts_with(rest_)) {  // its text is still held back, in part or wholly
    ahead_ += bytes.size() - rest_.size();
    offset_ += CharactersIn(bytes);
    rest_.clear();
  } else if (bytes.starts_with(' ') && rest_.starts_with(bytes.substr(1))) {  // a first word without its space
    Move(bytes.substr(1));
  } else if (const size_t at = rest_.substr(0, kResyncBytes + bytes.size()).find(bytes); at != std::string::npos) {
    Move(std::string(rest_, 0, at));
    const int64_t found = offset_;
    Move(bytes);
    return found;
  }
  return begin;
}

void TextOffsets::Move(std::string_view bytes) {
  offset_ += CharactersIn(bytes);
  rest_.erase(0, bytes.size());
}

void CompletionLogprobs::AddFirst(std::string_view bytes, TextOffsets& offsets) {
  tokens_.push_back(TokenTextOf(bytes));
  logprobs_.push_back(nullptr);
  top_.push_back(nullptr);
  offsets_.push_back(offsets.Next(bytes));
}

void CompletionLogprobs::Add(const v1::TokenLogprob& token, int64_t top, TextOffsets& offsets) {
  tokens_.push_back(TokenTextOf(token.text()));
  logprobs_.push_back(Finite(token.logprob()));
  offsets_.push_back(offsets.Next(token.text()));
  Json best = Json::object();
  const int count = std::min(token.top_size(), static_cast<int>(top));
  // Of tokens that are written alike the best one stands for all.
  for (int i = 0; i < count; ++i) {
    const std::string text = TokenTextOf(token.top(i).text());
    if (!best.contains(text)) best[text] = Finite(token.top(i).logprob());
  }
  const std::string chosen = TokenTextOf(token.text());
  if (!best.contains(chosen)) best[chosen] = Finite(token.logprob());
  top_.push_back(std::move(best));
}

Json CompletionLogprobs::Take() {
  Json out;
  out["text_offset"] = std::exchange(offsets_, Json::array());
  out["token_logprobs"] = std::exchange(logprobs_, Json::array());
  out["tokens"] = std::exchange(tokens_, Json::array());
  out["top_logprobs"] = std::exchange(top_, Json::array());
  return out;
}

Json ToolCallOf(const ToolCall& call, const std::string& id) {
  Json out;
  out["id"] = id;
  out["type"] = "function";
  out["function"]["name"] = call.name;
  out["function"]["arguments"] = call.arguments;
  return out;
}

}  // namespace qamserve::openai
