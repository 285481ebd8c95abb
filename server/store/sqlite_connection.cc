#include "server/store/sqlite_connection.h"

#include <utility>
#include <variant>

namespace qamserve {
namespace {

class SqliteRow : public SqlRow {
 public:
  explicit SqliteRow(sqlite3_stmt* statement) : statement_(statement) {}
  int64_t Int() override { return sqlite3_column_int64(statement_, next_++); }
  double Real() override { return sqlite3_column_double(statement_, next_++); }
  std::string Text() override {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, next_));
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, next_++));
    return text == nullptr ? std::string() : std::string(text, size);
  }
  bool IsNull() const override { return sqlite3_column_type(statement_, next_) == SQLITE_NULL; }

 private:
  sqlite3_stmt* statement_;
  int next_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteConnection::Open(const std::string& path, Access access) {
  sqlite3* raw = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<SqliteConnection> db(new SqliteConnection(raw, path));
  if (code != SQLITE_OK) return db->Error(code);
  sqlite3_extended_result_codes(raw, 1);
  // Another process (a tool that looks into the file) may hold the write lock for one transaction; 10 s is far beyond
  // any of ours.
  sqlite3_busy_timeout(raw, 10'000);
  if (sqlite3_db_readonly(raw, "main") == 1) {
    return FailedPrecondition("STORE_READ_ONLY", "metadata store {}: the file may not be written", path);
  }
  for (const char* pragma : {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"}) {
    RETURN_IF_ERROR(db->Run(pragma, {}).status());
  }
  if (access == Access::kRead) RETURN_IF_ERROR(db->Run("PRAGMA query_only=ON", {}).status());
  return db;
}

SqliteConnection::~SqliteConnection() {
  for (auto& [sql, statement] : statements_) sqlite3_finalize(statement.handle);
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
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return MakeError(absl::StatusCode::kFailedPrecondition, "STORE_READ_ONLY", message);
    default:
      return MakeError(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", message);
  }
}

absl::StatusOr<SqliteConnection::Statement*> SqliteConnection::Prepare(const char* sql) {
  if (auto it = statements_.find(std::string_view(sql)); it != statements_.end()) return &it->second;
  Statement statement;
  const char* rest = nullptr;
  const int code = sqlite3_prepare_v3(db_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement.handle, &rest);
  if (code != SQLITE_OK) return Error(code);
  if (statement.handle == nullptr || *rest != '\0') {
    sqlite3_finalize(statement.handle);
    return Internal("STORE_STATEMENT", "not one statement: {}", sql);
  }
  const int count = sqlite3_bind_parameter_count(statement.handle);
  statement.parameters.reserve(static_cast<size_t>(count));
  for (int i = 1; i <= count; ++i) {
    statement.parameters.push_back(sqlite3_bind_parameter_index(statement.handle, fmt::format("${}", i).c_str()));
  }
  return &statements_.emplace(sql, std::move(statement)).first->second;
}

absl::Status SqliteConnection::Bind(const Statement& statement, std::initializer_list<SqlValue> values) {
  if (values.size() != statement.parameters.size()) {
    return Internal("STORE_STATEMENT", "{} values for the {} parameters of: {}", values.size(),
                    statement.parameters.size(), sqlite3_sql(statement.handle));
  }
  auto index = statement.parameters.begin();
  for (const SqlValue& value : values) {
    int code = SQLITE_OK;
    if (const auto* integer = std::get_if<int64_t>(&value.get())) {
      code = sqlite3_bind_int64(statement.handle, *index, *integer);
    } else if (const auto* real = std::get_if<double>(&value.get())) {
      code = sqlite3_bind_double(statement.handle, *index, *real);
    } else {
      const auto& text = std::get<std::string_view>(value.get());
      code = sqlite3_bind_text64(statement.handle, *index, text.data() != nullptr ? text.data() : "", text.size(),
                                 SQLITE_STATIC, SQLITE_UTF8);
    }
    if (code != SQLITE_OK) return Error(code);
    ++index;
  }
  return absl::OkStatus();
}

absl::Status SqliteConnection::Query(const char* sql, std::initializer_list<SqlValue> values,
                                     absl::FunctionRef<void(SqlRow&)> on_row) {
  ASSIGN_OR_RETURN(const Statement* statement, Prepare(sql));
  absl::Status status = Bind(*statement, values);
  while (status.ok()) {
    const int code = sqlite3_step(statement->handle);
    if (code == SQLITE_DONE) break;
    if (code == SQLITE_ROW) {
      SqliteRow row(statement->handle);
      on_row(row);
    } else {
      // Before Reset, which would replace the message.
      status = Error(code);
    }
  }
  sqlite3_reset(statement->handle);
  sqlite3_clear_bindings(statement->handle);
  return status;
}

absl::StatusOr<int64_t> SqliteConnection::Run(const char* sql, std::initializer_list<SqlValue> values) {
  RETURN_IF_ERROR(Query(sql, values, [](SqlRow&) {}));
  return sqlite3_changes64(db_);
}

}  // namespace qamserve
