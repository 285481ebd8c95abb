// Where a PostgreSQL server is, out of a URI. Internal to server/store.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "server/store/postgres_options.h"

namespace qamserve {

struct PostgresAddress {
  // libpq's connection parameters, one list for each host that may have the database, in the order of the URI.
  using Parameters = std::vector<std::pair<std::string, std::string>>;
  std::vector<Parameters> hosts;
  // postgresql://USER@HOST:PORT/DATABASE, for messages: without the password.
  std::string shown;
};

// INVALID_ARGUMENT (STORE_URI); the message repeats nothing of the URI but the names of its options.
absl::StatusOr<PostgresAddress> ParsePostgresUri(const std::string& uri, const PostgresOptions& options);

}  // namespace qamserve
