// One connection to a PostgreSQL server, with absl::Status and limits of time in place of libpq's blocking calls.
// Not thread-safe. Internal to server/store.
// Errors: as SqlTransaction's; besides INVALID_ARGUMENT (STORE_VALUE: a value that PostgreSQL cannot hold) and, from
// Open, FAILED_PRECONDITION (STORE_MISSING: no such database; STORE_ENCODING; STORE_VERSION).
#pragma once

#include <absl/functional/function_ref.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "server/store/postgres_address.h"
#include "server/store/postgres_clock.h"
#include "server/store/postgres_options.h"
#include "server/store/sql_database.h"

// libpq's PGconn and PGresult.
struct pg_conn;
struct pg_result;

namespace qamserve {

using SteadyTime = std::chrono::steady_clock::time_point;
inline SteadyTime AfterMs(int64_t ms) { return std::chrono::steady_clock::now() + std::chrono::milliseconds(ms); }

// What all connections of a store share. Thread-safe.
struct PostgresContext {
  PostgresContext(PostgresAddress where, PostgresOptions how);
  ~PostgresContext();
  PostgresContext(const PostgresContext&) = delete;
  PostgresContext& operator=(const PostgresContext&) = delete;

  // Ends whatever waits for the server, now and later: those calls fail with UNAVAILABLE.
  void Stop();
  // An error whose message begins with where the server is.
  absl::Status Error(absl::StatusCode code, std::string_view reason, std::string_view message) const;

  const PostgresAddress address;
  const PostgresOptions options;
  PostgresClock clock;
  std::atomic<size_t> preferred_host{0};  // the last one that could be written to
  // Cleared when the server forgot a prepared statement, as one does behind a pooler that hands connections around
  // between transactions: from then on statements are sent whole.
  std::atomic<bool> prepare{true};
  int stop_fd = -1;  // readable after Stop
};

class PostgresConnection {
 public:
  // Connects to the first host, from the preferred one on, whose server can be written to.
  static absl::StatusOr<std::unique_ptr<PostgresConnection>> Open(PostgresContext& context);
  ~PostgresConnection();
  PostgresConnection(const PostgresConnection&) = delete;
  PostgresConnection& operator=(const PostgresConnection&) = delete;

  // One or several statements without parameters; rows are passed over.
  absl::Status Execute(const std::string& sql);
  // One statement with parameters, prepared once; returns the number of rows that were changed or read. `streaming`:
  // `on_row` gets rows as they come; otherwise all have arrived before.
  absl::StatusOr<int64_t> Query(const char* sql, std::initializer_list<SqlValue> values,
                                absl::FunctionRef<void(SqlRow&)> on_row, bool streaming = false);
  // The same for statements of which the last one is COMMIT; an error if the server rolled back instead.
  absl::Status Commit(const std::string& sql);

  // Waits until the server says something unasked, at most until `until`. An error means that the connection is lost.
  absl::Status Wait(SteadyTime until);
  // The next notification that has arrived; false if there is none.
  bool TakeNotification(std::string& payload);
  // Asks for the server's time, for the context's clock.
  absl::Status SampleClock();

  // The connection is of no use any more: the server or the network is gone, or the session was ended.
  bool lost() const { return lost_; }
  // The server has refused to write in this session. It may refuse so for as long as the session lasts: settings of a
  // database or a role are those of its beginning, and another host may have taken over.
  bool read_only() const { return read_only_; }
  const PostgresOptions& options() const { return context_.options; }
  const std::string& server_version() const { return server_version_; }  // "15.18"

 private:
  explicit PostgresConnection(PostgresContext& context) : context_(context) {}
  absl::Status Connect(const PostgresAddress::Parameters& parameters);
  absl::Status ConnectError() const;
  // Asks who the server is, and whether the store can use it.
  absl::Status Greet();

  absl::StatusOr<int64_t> Send(const char* sql, std::initializer_list<SqlValue> values,
                               absl::FunctionRef<void(SqlRow&)> on_row, bool prepare, bool streaming);
  // The name of the prepared statement; empty if it is to be sent whole. Sets `known` if it was prepared before.
  absl::StatusOr<std::string> Prepare(const char* sql, const std::vector<unsigned>& types, bool& known);
  // Sends what is buffered, then takes all results of a statement.
  absl::Status Results(absl::FunctionRef<void(const pg_result*)> on_result, bool prepared = false, bool known = false);
  absl::Status Flush(SteadyTime deadline);
  // Waits for the socket: the events (poll's) that came; 0 = `deadline` has passed; -1 = stopped.
  int Poll(int events, SteadyTime deadline);
  absl::Status StatementError(const pg_result* result, bool prepared, bool known);
  absl::Status Lost(std::string_view message);

  PostgresContext& context_;
  pg_conn* connection_ = nullptr;
  bool lost_ = false;
  bool read_only_ = false;
  std::string server_version_;
  int64_t server_start_us_ = 0;
  std::map<std::string, std::string, std::less<>> prepared_;  // statement -> its name in the session
};

// Whether to connect again cannot help: the error is not of the moment.
bool IsLasting(const absl::Status& connect_error);

}  // namespace qamserve
