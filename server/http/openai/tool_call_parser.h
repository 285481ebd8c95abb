// Finds tool calls in what a model says, piece by piece. Templates teach models different ways to call; these are read:
//   <tool_call>{"name": ..., "arguments": {...}}</tool_call>         Hermes, Qwen
//   {"name": ..., "parameters": {...}}, several with ';' between     Llama 3.1, with or without <|python_tag|>
//   [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]             Mistral, with or without the marker, which is a
//                                                                    special token and then not part of the text
// Only calls of the request's own tools count; whatever else looks like a call stays text. Text is held back only while
// it may still become a call. Not thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/http/openai/json_reader.h"

namespace qamserve::openai {

struct ToolCall {
  std::string name;
  std::string arguments;  // a JSON object, as text
};

// What a piece of an answer turned out to be.
struct SaidPart {
  std::string content;
  std::vector<ToolCall> calls;
};

class ToolCallParser {
 public:
  explicit ToolCallParser(std::vector<std::string> tool_names) : names_(std::move(tool_names)) {}
  // What is decided with `text`, which follows on what was added before.
  SaidPart Add(std::string_view text);
  // The rest: nothing follows.
  SaidPart Finish();

 private:
  enum class State {
    kStart,  // only spaces until now
    kText,
    kTagged,   // held_ begins with a marker
    kClosing,  // a call is read, its closing mark may follow
    kBare,     // JSON that began the answer or follows on a call
    kAfterCall,
  };

  bool Step(SaidPart& out);  // false: more text is needed
  bool StepOutside();
  bool StepText(SaidPart& out);
  bool StepTagged(SaidPart& out);
  bool StepClosing();
  bool StepBare(SaidPart& out);
  void Say(size_t bytes, SaidPart& out);
  void Drop(size_t bytes);
  bool ScanJson(size_t begin);
  bool TakeCalls(std::string_view json, bool needs_arguments, SaidPart& out) const;

  const std::vector<std::string> names_;
  State state_ = State::kStart;
  std::string held_;
  std::string_view closing_;  // what ends the calls of the marker; empty = nothing does
  size_t begin_ = 0;          // bytes of held_ before the JSON: the marker, or spaces
  bool finished_ = false;
  bool said_ = false;  // some text was passed on
  // Of the JSON in held_ that is being read: where the scan is, and how.
  size_t scanned_ = 0;
  int depth_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
};

// A call that an answer was forced to be: whole, or as far as it got when its tokens ran out; then `arguments` may end
// anywhere. False if not even the name is there.
bool ReadForcedCall(std::string_view text, ToolCall* call);

}  // namespace qamserve::openai
