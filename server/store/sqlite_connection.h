// One SQLite connection with absl::Status: its prepared statements. Internal to server/store, for SqliteDatabase.
// Not thread-safe. Errors: those of SqlTransaction.
#pragma once

#include <absl/functional/function_ref.h>
#include <sqlite3.h>

#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/store/sql_database.h"

namespace qamserve {

class SqliteConnection {
 public:
  enum class Access { kReadWrite, kRead };
  static absl::StatusOr<std::unique_ptr<SqliteConnection>> Open(const std::string& path, Access access);
  ~SqliteConnection();
  SqliteConnection(const SqliteConnection&) = delete;
  SqliteConnection& operator=(const SqliteConnection&) = delete;

  // One statement; `sql` is prepared once and kept. `on_row` must not call this object.
  absl::Status Query(const char* sql, std::initializer_list<SqlValue> values, absl::FunctionRef<void(SqlRow&)> on_row);
  // The same without rows; returns the number of rows that were changed.
  absl::StatusOr<int64_t> Run(const char* sql, std::initializer_list<SqlValue> values);
  bool in_transaction() const { return sqlite3_get_autocommit(db_) == 0; }

 private:
  struct Statement {
    sqlite3_stmt* handle = nullptr;
    std::vector<int> parameters;  // SQLite's number of $1, $2, ...
  };

  SqliteConnection(sqlite3* db, std::string path) : db_(db), path_(std::move(path)) {}
  absl::Status Error(int code) const;
  absl::StatusOr<Statement*> Prepare(const char* sql);
  absl::Status Bind(const Statement& statement, std::initializer_list<SqlValue> values);

  sqlite3* db_;
  std::string path_;
  std::map<std::string, Statement, std::less<>> statements_;
};

}  // namespace qamserve
