#include "core/format/json_text.h"

namespace qamserve {

nlohmann::json ParseJson(std::string_view text) {
  using nlohmann::json;
  bool too_deep = false;
  // What is refused is dropped at once.
  const auto is_shallow = [&too_deep](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kMaxJsonDepth;
    return !too_deep;
  };
  json parsed = json::parse(text, is_shallow, /*allow_exceptions=*/false);
  return too_deep ? json(json::value_t::discarded) : parsed;
}

}  // namespace qamserve
