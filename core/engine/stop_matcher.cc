#include "core/engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace qamserve {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& stop : stops) {
    if (!stop.empty()) stops_.push_back(stop);
  }
}

// The longest end of pending_ that begins a stop string.
size_t StopMatcher::HeldBytes() const {
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (std::string_view(pending_).ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  return held;
}

std::string StopMatcher::Add(std::string_view text) {
  if (stopped_) return "";
  if (stops_.empty()) return std::string(text);
  pending_ += text;
  size_t first_end = std::string::npos;
  size_t first_begin = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t begin = pending_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (std::pair(end, begin) < std::pair(first_end, first_begin)) {
      first_end = end;
      first_begin = begin;
    }
  }
  stopped_ = first_begin != std::string::npos;
  const size_t sent = stopped_ ? first_begin : pending_.size() - HeldBytes();
  std::string out = pending_.substr(0, sent);
  pending_.erase(0, stopped_ ? pending_.size() : sent);
  return out;
}

std::string StopMatcher::Flush() { return std::exchange(pending_, std::string()); }

}  // namespace qamserve
