// SqlDatabase on a PostgreSQL server. Internal to server/store; OpenPostgresMetadataStore makes a store of it.
//
// Transact runs at READ COMMITTED: what must not have changed is written by compare-and-set or read with for_update().
// Read runs in one snapshot. Both run again after serialization failures, deadlocks, lock timeouts and lost
// connections, with pauses that grow, for PostgresOptions::retry_ms. A commit whose answer was lost is asked after
// (postgres_transaction.h), through crashes and failovers of the server, and not run twice; where it cannot be found
// out in that time, the answer is UNAVAILABLE. Exclusive holds an advisory lock. ABORTED (LOCK_LOST): the connection
// with the lock broke while the body ran, which had ended well; another process may have run its own meanwhile.
// UNAVAILABLE after PostgresOptions::exclusive_wait_ms. The tables must be those of PostgresSchema, or be made by the
// first transaction.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "server/store/postgres_listener.h"
#include "server/store/postgres_pool.h"
#include "server/store/postgres_teller.h"
#include "server/store/postgres_transaction.h"
#include "server/store/sql_database.h"
#include "server/store/store_event_dispatcher.h"

namespace qamserve {

class PostgresDatabase : public SqlDatabase {
 public:
  // Connects; see postgres_metadata_store.h for `uri` and errors.
  static absl::StatusOr<std::unique_ptr<PostgresDatabase>> Open(const std::string& uri,
                                                                const PostgresOptions& options = {});
  // No call may be running.
  ~PostgresDatabase() override;

  absl::Status Transact(absl::FunctionRef<absl::Status(SqlTransaction&)> body) override;
  absl::Status Read(absl::FunctionRef<absl::Status(SqlTransaction&)> body) override;
  bool shared() const override { return true; }
  int64_t NowMs() override { return context_.clock.NowMs(); }
  std::shared_ptr<void> Listen(std::function<void(const StoreEvent&)> on_event) override {
    return dispatcher_.Listen(std::move(on_event));
  }
  absl::Status Exclusive(const std::string& name, absl::FunctionRef<absl::Status()> body) override;
  std::string Describe() override { return "postgresql " + version_; }
  std::string_view skip_locked() const override { return "FOR UPDATE SKIP LOCKED"; }
  std::string_view for_update() const override { return "FOR UPDATE"; }

 private:
  using Body = absl::FunctionRef<absl::Status(SqlTransaction&)>;
  enum class Mode { kRead, kWrite };
  // What came of one attempt.
  struct Attempt {
    absl::Status status;
    bool again = false;  // nothing was committed, and it may go better the next time
  };
  enum class Outcome { kCommitted, kRolledBack, kUnknown };
  class HeldLock;

  PostgresDatabase(PostgresAddress address, const PostgresOptions& options);
  absl::Status Run(Mode mode, Body body);
  Attempt Try(Mode mode, Body body, SteadyTime deadline);
  Attempt Commit(PostgresTransaction& transaction, SteadyTime deadline);
  // After a connection was lost during COMMIT: what became of the transaction with that mark.
  Outcome AskAfter(const PostgresMark& mark, SteadyTime deadline);
  absl::StatusOr<Outcome> AskOnce(PostgresConnection& connection, const PostgresMark& mark);
  // Waits for the advisory lock in slices.
  absl::StatusOr<PostgresPool::Handle> Lock(const std::string& name, SteadyTime deadline);
  std::shared_ptr<absl::Mutex> LocalMutex(const std::string& name);

  PostgresContext context_;
  const std::string sender_;
  StoreEventDispatcher dispatcher_;
  PostgresPool pool_;
  PostgresPool lock_pool_;
  std::string version_;
  absl::Mutex mutex_;
  // Bodies of one name in this process wait here, so that only one of them needs a connection.
  std::map<std::string, std::weak_ptr<absl::Mutex>> local_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<PostgresTeller> teller_;
  std::unique_ptr<PostgresListener> listener_;
};

}  // namespace qamserve
