#include "server/http/openai/tool_call_parser.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <utility>

namespace qamserve::openai {
namespace {

struct Marker {
  std::string_view opening;
  std::string_view closing;
};
constexpr std::array<Marker, 3> kMarkers = {{
    {"<tool_call>", "</tool_call>"},
    {"[TOOL_CALLS]", ""},
    {"<|python_tag|>", ""},
}};
// The members that a call may begin with.
constexpr std::array<std::string_view, 6> kFirstKeys = {"\"name\"",     "\"arguments\"", "\"parameters\"",
                                                        "\"function\"", "\"type\"",      "\"id\""};
constexpr std::string_view kSpaces = " \t\r\n";

size_t SkipSpaces(std::string_view text, size_t at) {
  return std::min(text.find_first_not_of(kSpaces, at), text.size());
}

bool IsBlank(std::string_view text) { return SkipSpaces(text, 0) == text.size(); }

// Bytes at the end of `text` that a marker may begin with.
size_t PossibleMarker(std::string_view text) {
  size_t longest = 0;
  for (const Marker& marker : kMarkers) {
    for (size_t n = std::min(text.size(), marker.opening.size() - 1); n > longest; --n) {
      if (text.ends_with(marker.opening.substr(0, n))) {
        longest = n;
        break;
      }
    }
  }
  return longest;
}

// Whether JSON that begins like this may be a call or a list of calls.
bool MayBeCall(std::string_view text) {
  size_t at = 0;
  if (text[0] == '[') at = SkipSpaces(text, 1);
  if (at == text.size()) return true;
  if (text[at] != '{') return false;
  at = SkipSpaces(text, at + 1);
  const std::string_view key = text.substr(at);
  return std::any_of(kFirstKeys.begin(), kFirstKeys.end(),
                     [key](std::string_view first) { return key.starts_with(first) || first.starts_with(key); });
}

// The arguments of a call as text; nothing if they are none.
std::optional<std::string> ArgumentsOf(const Json& call, bool required) {
  for (const char* name : {"arguments", "parameters"}) {
    const auto it = call.find(name);
    if (it == call.end()) continue;
    if (it->is_object()) return TextOf(*it);
    if (!it->is_string()) return std::nullopt;
    const auto& text = it->get_ref<const std::string&>();
    const absl::StatusOr<Json> parsed = ParseJsonText(text);
    return parsed.ok() && parsed->is_object() ? std::optional(text) : std::nullopt;
  }
  return required ? std::nullopt : std::optional<std::string>("{}");
}

}  // namespace

SaidPart ToolCallParser::Add(std::string_view text) {
  SaidPart out;
  held_ += text;
  while (!held_.empty() && Step(out)) {
  }
  return out;
}

SaidPart ToolCallParser::Finish() {
  SaidPart out;
  finished_ = true;
  while (!held_.empty() && Step(out)) {
  }
  // In the two states held_ is blank, or a piece of a closing mark.
  if (state_ != State::kAfterCall && state_ != State::kClosing) Say(held_.size(), out);
  return out;
}

bool ToolCallParser::Step(SaidPart& out) {
  switch (state_) {
    case State::kStart:
    case State::kAfterCall:
      return StepOutside();
    case State::kText:
      return StepText(out);
    case State::kTagged:
      return StepTagged(out);
    case State::kClosing:
      return StepClosing();
    case State::kBare:
      return StepBare(out);
  }
  return false;
}

bool ToolCallParser::StepOutside() {
  size_t at = SkipSpaces(held_, 0);
  if (state_ == State::kAfterCall) {
    // Spaces around calls are no content, nor is what stands between two of them.
    if (at < held_.size() && (held_[at] == ';' || held_[at] == ',')) at = SkipSpaces(held_, at + 1);
    Drop(at);
    at = 0;
  }
  if (at == held_.size()) return false;
  state_ = State::kText;
  if ((held_[at] == '{' || held_[at] == '[') && MayBeCall(std::string_view(held_).substr(at))) {
    state_ = State::kBare;
    begin_ = at;
    scanned_ = 0;
  }
  return true;
}

bool ToolCallParser::StepText(SaidPart& out) {
  size_t first = std::string::npos;
  const Marker* found = nullptr;
  for (const Marker& marker : kMarkers) {
    const size_t at = held_.find(marker.opening);
    if (at >= first) continue;
    first = at;
    found = &marker;
  }
  if (found == nullptr) {
    const size_t keep = finished_ ? 0 : PossibleMarker(held_);
    Say(held_.size() - keep, out);
    return false;
  }
  // Line breaks before a first call are no content.
  if (!said_ && IsBlank(std::string_view(held_).substr(0, first))) {
    Drop(first);
  } else {
    Say(first, out);
  }
  state_ = State::kTagged;
  begin_ = found->opening.size();
  closing_ = found->closing;
  scanned_ = 0;
  return true;
}

bool ToolCallParser::StepTagged(SaidPart& out) {
  const size_t begin = SkipSpaces(held_, begin_);
  if (begin == held_.size()) return false;
  const bool is_json = held_[begin] == '{' || held_[begin] == '[';
  if (is_json && !ScanJson(begin)) return false;
  if (!is_json || !TakeCalls(std::string_view(held_).substr(begin, scanned_ - begin), /*needs_arguments=*/false, out)) {
    Say(begin_, out);  // no call after all; what follows is looked at as text
    state_ = State::kText;
    return true;
  }
  Drop(scanned_);
  state_ = closing_.empty() ? State::kAfterCall : State::kClosing;
  return true;
}

bool ToolCallParser::StepClosing() {
  const size_t at = SkipSpaces(held_, 0);
  const std::string_view rest = std::string_view(held_).substr(at);
  if (rest.size() < closing_.size() && closing_.starts_with(rest)) return false;
  if (rest.starts_with(closing_)) Drop(at + closing_.size());
  state_ = State::kAfterCall;
  return true;
}

bool ToolCallParser::StepBare(SaidPart& out) {
  const bool possible = MayBeCall(std::string_view(held_).substr(begin_));
  if (possible && !ScanJson(begin_)) return false;
  if (possible && TakeCalls(std::string_view(held_).substr(begin_, scanned_ - begin_), /*needs_arguments=*/true, out)) {
    Drop(scanned_);
    state_ = State::kAfterCall;
  } else {
    state_ = State::kText;
  }
  return true;
}

void ToolCallParser::Say(size_t bytes, SaidPart& out) {
  if (bytes == 0) return;
  out.content.append(held_, 0, bytes);
  said_ = true;
  Drop(bytes);
}

void ToolCallParser::Drop(size_t bytes) { held_.erase(0, bytes); }

// Goes on to the end of the JSON value that begins at `begin`; true if it is there, and scanned_ is behind it.
bool ToolCallParser::ScanJson(size_t begin) {
  if (scanned_ <= begin) {
    scanned_ = begin;
    depth_ = 0;
    in_string_ = escaped_ = false;
  } else if (depth_ == 0) {
    return true;
  }
  while (scanned_ < held_.size()) {
    const char c = held_[scanned_++];
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
      }
      continue;
    }
    if (c == '"') in_string_ = true;
    if (c == '{' || c == '[') ++depth_;
    if ((c == '}' || c == ']') && --depth_ == 0) return true;
  }
  return false;
}

bool ToolCallParser::TakeCalls(std::string_view json, bool needs_arguments, SaidPart& out) const {
  const absl::StatusOr<Json> parsed = ParseJsonText(json);
  if (!parsed.ok()) return false;
  const Json list = parsed->is_array() ? *parsed : Json::array({*parsed});
  std::vector<ToolCall> calls;
  for (const Json& entry : list) {
    if (!entry.is_object()) return false;
    const auto function = entry.find("function");
    const Json& call = function != entry.end() && function->is_object() ? *function : entry;
    const auto name = call.find("name");
    if (name == call.end() || !name->is_string()) return false;
    const auto& text = name->get_ref<const std::string&>();
    if (std::find(names_.begin(), names_.end(), text) == names_.end()) return false;
    std::optional<std::string> arguments = ArgumentsOf(call, needs_arguments);
    if (!arguments) return false;
    calls.push_back({text, *std::move(arguments)});
  }
  if (calls.empty()) return false;
  std::move(calls.begin(), calls.end(), std::back_inserter(out.calls));
  return true;
}

bool ReadForcedCall(std::string_view text, ToolCall* call) {
  if (const absl::StatusOr<Json> parsed = ParseJsonText(text); parsed.ok() && parsed->is_object()) {
    const auto name = parsed->find("name");
    const std::optional<std::string> arguments = ArgumentsOf(*parsed, /*required=*/true);
    if (name == parsed->end() || !name->is_string() || !arguments) return false;
    *call = {name->get<std::string>(), *arguments};
    return true;
  }
  // Cut off. The schema puts the name, which has no escapes, before the arguments.
  const auto after = [text](std::string_view key, size_t from) {
    const size_t at = text.find(key, from);
    if (at == std::string_view::npos) return text.size();
    const size_t colon = SkipSpaces(text, at + key.size());
    return colon < text.size() && text[colon] == ':' ? SkipSpaces(text, colon + 1) : text.size();
  };
  const size_t quote = after("\"name\"", 0);
  if (quote >= text.size() || text[quote] != '"') return false;
  const size_t end = text.find('"', quote + 1);
  if (end == std::string_view::npos) return false;
  *call = {std::string(text.substr(quote + 1, end - quote - 1)), std::string(text.substr(after("\"arguments\"", end)))};
  return true;
}

}  // namespace qamserve::openai
