#include "server/store/postgres_transaction.h"

#include <absl/strings/match.h>

namespace qamserve {

std::string BeginStatement(const PostgresOptions& options, bool write) {
  return fmt::format(
      "BEGIN ISOLATION LEVEL {}; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {};"
      " SET LOCAL idle_in_transaction_session_timeout = {}",
      write ? "READ COMMITTED" : "REPEATABLE READ READ ONLY",
      write ? options.statement_timeout_ms : options.read_timeout_ms, options.lock_timeout_ms,
      options.idle_in_transaction_timeout_ms);
}

absl::Status PostgresTransaction::Begin(bool write) {
  error_ = connection_.Execute(BeginStatement(connection_.options(), write));
  return error_;
}

absl::StatusOr<int64_t> PostgresTransaction::Send(const char* sql, std::initializer_list<SqlValue> values,
                                                  absl::FunctionRef<void(SqlRow&)> on_row) {
  // The server would refuse all that follows an error with another one.
  if (!error_.ok()) return error_;
  auto changed = connection_.Query(sql, values, on_row, streaming_);
  if (!changed.ok()) error_ = changed.status();
  return changed;
}

absl::StatusOr<int64_t> PostgresTransaction::Run(const char* sql, std::initializer_list<SqlValue> values) {
  wrote_ = true;
  return Send(sql, values, [](SqlRow&) {});
}

absl::Status PostgresTransaction::Query(const char* sql, std::initializer_list<SqlValue> values,
                                        absl::FunctionRef<void(SqlRow&)> on_row) {
  // INSERT ... RETURNING and the like; a SELECT may lock rows, which is nothing to be asked after.
  if (!absl::StartsWithIgnoreCase(sql, "SELECT")) wrote_ = true;
  return Send(sql, values, on_row).status();
}

absl::StatusOr<int64_t> PostgresTransaction::Id() {
  int64_t id = 0;
  if (!wrote_) return id;
  RETURN_IF_ERROR(
      Send("SELECT coalesce(txid_current_if_assigned(), 0)", {}, [&](SqlRow& row) { id = row.Int(); }).status());
  return id;
}

void PostgresTransaction::Rollback() {
  // A connection on which even this fails is lost, and the server rolls back by itself.
  if (!connection_.lost()) connection_.Execute("ROLLBACK").IgnoreError();
}

}  // namespace qamserve
