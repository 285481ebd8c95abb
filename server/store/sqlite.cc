#include "server/store/sqlite.h"

namespace qamserve {

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteConnection::Open(const std::string& path) {
  sqlite3* raw = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<SqliteConnection> db(new SqliteConnection(raw, path));
  if (code != SQLITE_OK) return db->Error(code);
  sqlite3_extended_result_codes(raw, 1);
  // Another process may hold the write lock for one transaction; 10 s is far beyond any of ours.
  sqlite3_busy_timeout(raw, 10'000);
  RETURN_IF_ERROR(db->Execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"));
  return db;
}

SqliteConnection::~SqliteConnection() {
  for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(db_);
}

absl::Status SqliteConnection::Error(int code) const {
  const std::string message =
      fmt::format("metadata store {}: {}", path_, db_ != nullptr ? sqlite3_errmsg(db_) : sqlite3_errstr(code));
  switch (code & 0xff) {
    case SQLITE_FULL:
      return MakeError(absl::StatusCode::kResourceExhausted, "DISK_FULL", message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return MakeError(absl::StatusCode::kDataLoss, "STORE_CORRUPT", message);
    case SQLITE_CONSTRAINT:
      return MakeError(absl::StatusCode::kAlreadyExists, "STORE_CONSTRAINT", message);
    default:
      return MakeError(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", message);
  }
}

absl::Status SqliteConnection::Execute(const std::string& sql) {
  const int code = sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code);
}

absl::StatusOr<sqlite3_stmt*> SqliteConnection::Prepare(const char* sql) {
  if (auto it = statements_.find(std::string_view(sql)); it != statements_.end()) return it->second;
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v3(db_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK) return Error(code);
  statements_.emplace(sql, statement);
  return statement;
}

absl::Status SqliteConnection::Run(const char* sql, std::initializer_list<SqlValue> values) {
  return Query(sql, values, [](SqlRow&) {});
}

absl::Status SqliteConnection::Query(const char* sql, std::initializer_list<SqlValue> values,
                                     absl::FunctionRef<void(SqlRow&)> on_row) {
  ASSIGN_OR_RETURN(sqlite3_stmt * statement, Prepare(sql));
  int code = SQLITE_OK;
  int index = 0;
  for (const SqlValue& value : values) {
    ++index;
    if (const auto* integer = std::get_if<int64_t>(&value.get())) {
      code = sqlite3_bind_int64(statement, index, *integer);
    } else if (const auto* real = std::get_if<double>(&value.get())) {
      code = sqlite3_bind_double(statement, index, *real);
    } else {
      const auto& text = std::get<std::string_view>(value.get());
      code = sqlite3_bind_text64(statement, index, text.data() != nullptr ? text.data() : "", text.size(),
                                 SQLITE_STATIC, SQLITE_UTF8);
    }
    if (code != SQLITE_OK) break;
  }
  while (code == SQLITE_OK || code == SQLITE_ROW) {
    code = sqlite3_step(statement);
    if (code != SQLITE_ROW) break;
    SqlRow row(statement);
    on_row(row);
  }
  // Before Reset, which would replace the message.
  absl::Status status = code == SQLITE_DONE ? absl::OkStatus() : Error(code);
  sqlite3_reset(statement);
  sqlite3_clear_bindings(statement);
  return status;
}

absl::StatusOr<std::unique_ptr<SqliteTransaction>> SqliteTransaction::Begin(SqliteConnection& db) {
  RETURN_IF_ERROR(db.Run("BEGIN IMMEDIATE"));
  return std::unique_ptr<SqliteTransaction>(new SqliteTransaction(db));
}

SqliteTransaction::~SqliteTransaction() {
  if (open_) (void)db_.Run("ROLLBACK");
}

absl::Status SqliteTransaction::Commit() {
  RETURN_IF_ERROR(db_.Run("COMMIT"));
  open_ = false;
  return absl::OkStatus();
}

}  // namespace qamserve
