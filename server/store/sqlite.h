// SQLite with absl::Status: one connection, its prepared statements, transactions. Internal to server/store.
// Not thread-safe: the owner holds a mutex.
// Errors: RESOURCE_EXHAUSTED (DISK_FULL), DATA_LOSS (STORE_CORRUPT), ALREADY_EXISTS (STORE_CONSTRAINT), else
// UNAVAILABLE (STORE_UNAVAILABLE); each carries SQLite's message.
#pragma once

#include <absl/functional/function_ref.h>
#include <sqlite3.h>

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "core/base/status.h"

namespace qamserve {

// A parameter of a statement: made of a plain value where a list of them is written. Text must outlive the call.
// NOLINTBEGIN(google-explicit-constructor)
class SqlValue {
 public:
  SqlValue(int64_t value) : value_(value) {}
  SqlValue(int32_t value) : value_(int64_t{value}) {}
  // SQLite's integers are signed; sizes stay far below 2^63.
  SqlValue(uint64_t value) : value_(static_cast<int64_t>(value)) {}
  SqlValue(double value) : value_(value) {}
  SqlValue(const std::string& value) : value_(std::string_view(value)) {}
  SqlValue(std::string_view value) : value_(value) {}
  SqlValue(const char* value) : value_(std::string_view(value)) {}
  template <typename Enum>
  requires std::is_enum_v<Enum> SqlValue(Enum value) : value_(static_cast<int64_t>(value)) {}

  const std::variant<int64_t, double, std::string_view>& get() const { return value_; }

 private:
  std::variant<int64_t, double, std::string_view> value_;
};
// NOLINTEND(google-explicit-constructor)

// The current row of a statement that runs; columns are read from left to right.
class SqlRow {
 public:
  explicit SqlRow(sqlite3_stmt* statement) : statement_(statement) {}
  int64_t Int() { return sqlite3_column_int64(statement_, next_++); }
  double Real() { return sqlite3_column_double(statement_, next_++); }
  std::string Text() {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, next_));
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, next_++));
    return text == nullptr ? std::string() : std::string(text, size);
  }
  bool IsNull() const { return sqlite3_column_type(statement_, next_) == SQLITE_NULL; }

 private:
  sqlite3_stmt* statement_;
  int next_ = 0;
};

class SqliteConnection {
 public:
  static absl::StatusOr<std::unique_ptr<SqliteConnection>> Open(const std::string& path);
  ~SqliteConnection();

  // Several statements without parameters or rows.
  absl::Status Execute(const std::string& sql);
  // One statement with parameters; `sql` is prepared once and kept.
  absl::Status Run(const char* sql, std::initializer_list<SqlValue> values = {});
  // The same, with `on_row` called for each row; it must not call this object.
  absl::Status Query(const char* sql, std::initializer_list<SqlValue> values, absl::FunctionRef<void(SqlRow&)> on_row);
  // Rows that the last Run changed.
  int64_t changed_rows() const { return sqlite3_changes64(db_); }

 private:
  explicit SqliteConnection(sqlite3* db, std::string path) : db_(db), path_(std::move(path)) {}
  absl::Status Error(int code) const;
  absl::StatusOr<sqlite3_stmt*> Prepare(const char* sql);

  sqlite3* db_;
  std::string path_;
  std::map<std::string, sqlite3_stmt*, std::less<>> statements_;
};

// BEGIN IMMEDIATE; destroyed before Commit, it rolls back.
class SqliteTransaction {
 public:
  static absl::StatusOr<std::unique_ptr<SqliteTransaction>> Begin(SqliteConnection& db);
  ~SqliteTransaction();
  absl::Status Commit();

 private:
  explicit SqliteTransaction(SqliteConnection& db) : db_(db) {}
  SqliteConnection& db_;
  bool open_ = true;
};

// Brings the schema up to date, one transaction for each step; see sqlite_schema.cc.
absl::Status MigrateSchema(SqliteConnection& db, int64_t now_ms);

}  // namespace qamserve
