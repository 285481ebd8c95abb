// From SQLSTATE codes to Statuses. Internal to server/store. See sql_database.h for the reasons.
#pragma once

#include <string>
#include <string_view>

#include "core/base/status.h"

namespace qamserve {

struct PostgresErrorClass {
  absl::StatusCode code = absl::StatusCode::kUnavailable;
  std::string_view reason = "STORE_UNAVAILABLE";
  bool session_ends = false;  // the connection cannot be used again
};
// `sqlstate`: five characters (https://www.postgresql.org/docs/15/errcodes-appendix.html); any other text is an error
// that only the client noticed.
PostgresErrorClass ClassifySqlState(std::string_view sqlstate);

// The last SQLSTATE in libpq's account of attempts to connect ("FATAL:  28P01: ..."), whatever its language; empty if
// the server did not say one.
std::string SqlStateOfConnectError(std::string_view message);
// One line: libpq's account without its places in the server's source.
std::string OneLine(std::string_view message);

}  // namespace qamserve
