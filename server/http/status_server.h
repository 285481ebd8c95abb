// The HTTP port for machines that watch the server: /metrics, /livez, /readyz, /startupz. Served by CivetWeb.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/base/status.h"

namespace qamserve {

// Called from the server's threads; must be callable until StatusServer is destroyed.
struct StatusSources {
  std::function<std::string()> metrics_text;  // Prometheus text format
  // Empty = fine (200); else why not (503).
  std::function<std::string()> not_ready;
  std::function<std::string()> not_started;
};

class StatusServer {
 public:
  // `listen` is HOST:PORT; port 0 = any free one. UNAVAILABLE (METRICS_LISTEN) if it cannot be bound.
  static absl::StatusOr<std::unique_ptr<StatusServer>> Start(const std::string& listen, StatusSources sources);
  // Ends running answers; takes up to a few seconds.
  virtual ~StatusServer() = default;
  virtual int port() const = 0;
};

}  // namespace qamserve
