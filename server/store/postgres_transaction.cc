#include "server/store/postgres_transaction.h"

#include <absl/strings/match.h>

#include <string_view>

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

namespace {

// Whether a statement that says of itself that it changed `rows` rows changed something: of others than those that
// change rows, which make tables and the like, one cannot tell.
bool Changes(std::string_view sql, int64_t rows) {
  const absl::string_view text(sql.data(), sql.size());
  if (absl::StartsWithIgnoreCase(text, "SELECT")) return false;
  for (const char* verb : {"INSERT", "UPDATE", "DELETE"}) {
    if (absl::StartsWithIgnoreCase(text, verb)) return rows > 0;
  }
  return true;
}

}  // namespace

absl::StatusOr<int64_t> PostgresTransaction::Send(const char* sql, std::initializer_list<SqlValue> values,
                                                  absl::FunctionRef<void(SqlRow&)> on_row) {
  // The server would refuse all that follows an error with another one.
  if (!error_.ok()) return error_;
  auto changed = connection_.Query(sql, values, on_row, streaming_);
  if (!changed.ok()) {
    error_ = changed.status();
  } else if (Changes(sql, *changed)) {
    wrote_ = true;
  }
  return changed;
}

absl::StatusOr<int64_t> PostgresTransaction::Run(const char* sql, std::initializer_list<SqlValue> values) {
  return Send(sql, values, [](SqlRow&) {});
}

absl::Status PostgresTransaction::Query(const char* sql, std::initializer_list<SqlValue> values,
                                        absl::FunctionRef<void(SqlRow&)> on_row) {
  return Send(sql, values, on_row).status();
}

absl::Status PostgresTransaction::Commit(const std::optional<PostgresMark>& mark) {
  if (!mark) return connection_.Commit("COMMIT");
  // One message and so one round trip; if the first statement fails, the second is not run.
  return connection_.Commit(fmt::format("INSERT INTO commit_marks (made_ms, id, committed) VALUES ({}, {}, 1); COMMIT",
                                        mark->made_ms, mark->id));
}

void PostgresTransaction::Rollback() {
  // A connection on which even this fails is lost, and the server rolls back by itself.
  if (!connection_.lost()) connection_.Execute("ROLLBACK").IgnoreError();
}

}  // namespace qamserve
