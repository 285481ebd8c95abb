// PgBouncer before a test's PostgreSQL server, handing connections around between transactions.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "tests/support/postgres_server.h"

namespace qamserve {

class PostgresPooler {
 public:
  static std::string Missing();
  // `server` must outlive it.
  static absl::StatusOr<std::unique_ptr<PostgresPooler>> Start(const PostgresServer& server);
  ~PostgresPooler();
  PostgresPooler(const PostgresPooler&) = delete;
  PostgresPooler& operator=(const PostgresPooler&) = delete;

  // `uri`: of the server; returns the way to the same database through the pooler.
  std::string Through(const std::string& uri) const;
  // How many connections clients have made so far, as its log tells.
  int Logins() const;

 private:
  explicit PostgresPooler(const PostgresServer& server) : server_(server) {}

  const PostgresServer& server_;
  std::string folder_;
  pid_t pid_ = -1;
};

}  // namespace qamserve
