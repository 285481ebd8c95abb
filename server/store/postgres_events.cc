#include "server/store/postgres_events.h"

#include <algorithm>

namespace qamserve {
namespace {

// PostgreSQL takes less than 8000 bytes.
constexpr size_t kMaxPayload = 7900;
constexpr std::string_view kJob = "job ";
constexpr std::string_view kPing = "ping";

std::string LineOf(const StoreEvent& event) {
  switch (event.kind) {
    case StoreEvent::Kind::kJob:
      // An id that is no id of ours would break the lines; who hears "missed" looks at everything.
      if (event.id.empty() || event.id.size() > 200 || event.id.find('\n') != std::string::npos) break;
      return std::string(kJob) + event.id;
    case StoreEvent::Kind::kWork:
      return "work";
    case StoreEvent::Kind::kServing:
      return "serving";
    case StoreEvent::Kind::kAccess:
      return "access";
    case StoreEvent::Kind::kMissed:
      break;
  }
  return "missed";
}

StoreEvent EventOf(std::string_view line) {
  if (line.substr(0, kJob.size()) == kJob) {
    return {.kind = StoreEvent::Kind::kJob, .id = std::string(line.substr(kJob.size()))};
  }
  if (line == "work") return {.kind = StoreEvent::Kind::kWork, .id = ""};
  if (line == "serving") return {.kind = StoreEvent::Kind::kServing, .id = ""};
  if (line == "access") return {.kind = StoreEvent::Kind::kAccess, .id = ""};
  return {.kind = StoreEvent::Kind::kMissed, .id = ""};
}

}  // namespace

std::vector<std::string> EncodeEvents(const EventMessage& message) {
  std::vector<std::string> payloads;
  const auto add = [&](std::string_view line) {
    if (payloads.empty() || payloads.back().size() + 1 + line.size() > kMaxPayload) payloads.push_back(message.sender);
    payloads.back() += '\n';
    payloads.back() += line;
  };
  for (const StoreEvent& event : message.events) add(LineOf(event));
  if (message.ping) add(kPing);
  return payloads;
}

EventMessage DecodeEvents(std::string_view payload) {
  EventMessage message;
  bool first = true;
  while (!payload.empty()) {
    const size_t end = std::min(payload.find('\n'), payload.size());
    const std::string_view line = payload.substr(0, end);
    payload.remove_prefix(std::min(end + 1, payload.size()));
    if (first) {
      message.sender = line;
    } else if (line == kPing) {
      message.ping = true;
    } else {
      message.events.push_back(EventOf(line));
    }
    first = false;
  }
  return message;
}

}  // namespace qamserve
