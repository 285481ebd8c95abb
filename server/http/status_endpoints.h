// What machines that watch the server ask for: /metrics, /livez, /readyz, /startupz. GET and HEAD; text/plain.
#pragma once

#include <functional>
#include <string>

#include "server/http/exchange.h"

namespace qamserve {

// Called from several threads; must be callable as long as the server that has the part.
struct StatusSources {
  std::function<std::string()> metrics_text;  // Prometheus text format
  // Empty = fine (200); else why not (503).
  std::function<std::string()> not_ready;
  std::function<std::string()> not_started;
  // Runs what takes milliseconds (metrics_text) off the I/O thread; null = on it.
  std::function<void(std::function<void()>)> run;
};

HttpPart StatusPart(StatusSources sources);

}  // namespace qamserve
