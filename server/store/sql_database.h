// What SqlMetadataStore needs of an SQL engine, so that its statements are written once: transactions, statements with
// parameters, rows. sqlite_database.h and postgres_database.h implement it. Internal to server/store.
// Statements are in the dialect that both engines know: parameters $1, $2, ... (each may be used several times),
// INSERT ... ON CONFLICT, row values, RETURNING. 64-bit integers are BIGINT, times and enums are integers, text is
// TEXT.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include "core/base/status.h"
#include "server/store/metadata_store.h"

namespace qamserve {

// A parameter of a statement: made of a plain value where a list of them is written. Text must outlive the call.
// NOLINTBEGIN(google-explicit-constructor)
class SqlValue {
 public:
  SqlValue(int64_t value) : value_(value) {}
  SqlValue(int32_t value) : value_(int64_t{value}) {}
  SqlValue(bool value) : value_(int64_t{value ? 1 : 0}) {}
  // The engines' integers are signed; sizes stay far below 2^63.
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

// The current row of a statement; columns are read from left to right.
class SqlRow {
 public:
  virtual ~SqlRow() = default;
  virtual int64_t Int() = 0;
  virtual double Real() = 0;
  virtual std::string Text() = 0;
  virtual bool IsNull() const = 0;  // of the column that is read next
};

// Statements of one transaction. Errors: RESOURCE_EXHAUSTED (DISK_FULL), DATA_LOSS (STORE_CORRUPT), ALREADY_EXISTS
// (STORE_CONSTRAINT), FAILED_PRECONDITION (STORE_READ_ONLY, STORE_CREDENTIALS), ABORTED (STORE_CONFLICT: the engine
// wants the transaction again), else UNAVAILABLE (STORE_UNAVAILABLE); each carries the engine's message. After an error
// the transaction is of no use: it will be rolled back.
class SqlTransaction {
 public:
  virtual ~SqlTransaction() = default;
  // Returns the number of rows that were changed.
  virtual absl::StatusOr<int64_t> Run(const char* sql, std::initializer_list<SqlValue> values = {}) = 0;
  // `on_row` must not use the transaction.
  virtual absl::Status Query(const char* sql, std::initializer_list<SqlValue> values,
                             absl::FunctionRef<void(SqlRow&)> on_row) = 0;
  // Told to listeners of every process once the transaction has been committed.
  virtual void Tell(StoreEvent event) = 0;
};

// Thread-safe.
class SqlDatabase {
 public:
  virtual ~SqlDatabase() = default;
  // Runs `body` in a transaction that is committed if it returns OK and rolled back otherwise. Where the engine has a
  // conflict, or lost the connection before anything was committed, `body` runs again, a few times with pauses that
  // grow: it must be free of effects outside `transaction`, or reset them when it begins.
  virtual absl::Status Transact(absl::FunctionRef<absl::Status(SqlTransaction&)> body) = 0;
  // The same for statements that only read: one snapshot.
  virtual absl::Status Read(absl::FunctionRef<absl::Status(SqlTransaction&)> body) = 0;

  // See MetadataStore.
  virtual bool shared() const = 0;
  virtual int64_t NowMs() = 0;
  virtual std::shared_ptr<void> Listen(std::function<void(const StoreEvent&)> on_event) = 0;
  virtual absl::Status Exclusive(const std::string& name, absl::FunctionRef<absl::Status()> body) = 0;
  virtual std::string Describe() = 0;  // "sqlite 3.40.1"

  // What is written differently for the engines: "" for SQLite, "FOR UPDATE SKIP LOCKED" and "FOR UPDATE" for
  // PostgreSQL, at the end of a SELECT.
  virtual std::string_view skip_locked() const = 0;
  virtual std::string_view for_update() const = 0;
  // "" or "FOR SHARE": others may read and share the rows, and have to wait before they change them.
  std::string_view for_share() const { return for_update().empty() ? "" : "FOR SHARE"; }
};

}  // namespace qamserve
