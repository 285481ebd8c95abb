// Statements of one transaction on a connection. Internal to server/store.
//
// A transaction that changed something leaves a row in the table commit_marks, written together with its COMMIT: if the
// connection breaks before the answer comes, the row says what became of it. Whoever asks (PostgresMark) puts a row
// with the same key there itself: that waits for the transaction if it is still under way, finds its row if it was
// committed, and keeps it from ever being committed otherwise. The server's own ids of transactions would not do: after
// a crash they are given out again, and another transaction's success would be taken for this one's.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "server/store/postgres_connection.h"

namespace qamserve {

// The key of a transaction's row in commit_marks.
struct PostgresMark {
  int64_t made_ms = 0;  // by the server's clock
  int64_t id = 0;       // random
};

// Rows are of use while somebody may still ask, which is as long as a transaction is tried again; a process that was
// paused for longer is told that it is too late to know. They are deleted a good while after.
inline constexpr int64_t kMarkMs = 600'000;
inline constexpr const char* kDeleteMarksSql =
    "DELETE FROM commit_marks WHERE made_ms < (extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1200000";

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
  // Commits, with `mark` if there is something that could be asked after.
  absl::Status Commit(const std::optional<PostgresMark>& mark);
  void Rollback();

  PostgresConnection& connection() { return connection_; }
  // Something was changed.
  bool wrote() const { return wrote_; }
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
