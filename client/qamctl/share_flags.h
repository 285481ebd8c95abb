// The flags that say whose workers do a job, and with whom it shares them.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace qamserve::qamctl {

struct ShareFlags {
  std::string pool;     // empty: cpu
  std::string project;  // empty: the key's
};

// `flags` must live as long as `app` parses.
inline void AddShareFlags(CLI::App& app, ShareFlags& flags) {
  app.add_option("--pool", flags.pool, "Workers of this pool do it (default cpu)")->type_name("NAME");
  app.add_option("--project", flags.project,
                 "Projects get workers in turn, at equal priority (default: the id of the key that asks)")
      ->type_name("NAME");
}

}  // namespace qamserve::qamctl
