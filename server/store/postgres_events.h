// Events as payloads of NOTIFY. Internal to server/store.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/store/metadata_store.h"

namespace qamserve {

// The channel that all processes on a database listen to.
inline constexpr const char* kPostgresChannel = "qamserve";

// A payload's lines: who sends it, then an event each, as "job ID", "work", "serving", "access" or "missed"; or "ping",
// by which a store finds out whether it hears.
struct EventMessage {
  std::string sender;
  std::vector<StoreEvent> events;
  bool ping = false;
};
// As few payloads as PostgreSQL's limit of 8000 bytes allows; none for a message without events and ping.
std::vector<std::string> EncodeEvents(const EventMessage& message);
// A line that is not understood, as of a newer program, counts as kMissed.
EventMessage DecodeEvents(std::string_view payload);

}  // namespace qamserve
