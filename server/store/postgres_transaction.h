// Statements of one transaction on a connection. Internal to server/store.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "server/store/postgres_connection.h"

namespace qamserve {

class PostgresTransaction : public SqlTransaction {
 public:
  // `streaming`: rows are handed on as they come.
  PostgresTransaction(PostgresConnection& connection, bool streaming)
      : connection_(connection), streaming_(streaming) {}

  absl::Status Begin(bool write);
  absl::StatusOr<int64_t> Run(const char* sql, std::initializer_list<SqlValue> values = {}) override;
  absl::Status Query(const char* sql, std::initializer_list<SqlValue> values,
                     absl::FunctionRef<void(SqlRow&)> on_row) override;
  void Tell(StoreEvent event) override { events_.push_back(std::move(event)); }
  void Rollback();
  // Of a transaction that wrote something: its id, by which its outcome can be asked for; else 0.
  absl::StatusOr<int64_t> Id();

  PostgresConnection& connection() { return connection_; }
  // The first error of a statement, whatever the caller made of it.
  const absl::Status& error() const { return error_; }
  const std::vector<StoreEvent>& events() const { return events_; }

 private:
  absl::StatusOr<int64_t> Send(const char* sql, std::initializer_list<SqlValue> values,
                               absl::FunctionRef<void(SqlRow&)> on_row);

  PostgresConnection& connection_;
  const bool streaming_;
  bool wrote_ = false;
  absl::Status error_;
  std::vector<StoreEvent> events_;
};

// The statements that begin a transaction: isolation and limits of time, which hold for it alone, so that they work
// behind a pooler, too.
std::string BeginStatement(const PostgresOptions& options, bool write);

}  // namespace qamserve
