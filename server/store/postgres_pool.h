// Connections to a PostgreSQL server that are used by one caller at a time each, made when they are needed.
// Thread-safe. Internal to server/store.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <deque>
#include <memory>
#include <utility>

#include "server/store/postgres_connection.h"

namespace qamserve {

class PostgresPool {
 public:
  // A connection of this holder alone. It goes back when the handle is destroyed, unless it is lost or could not write:
  // then all that lie idle are closed with it, since what broke one has broken them as well.
  class Handle {
   public:
    Handle(PostgresPool* pool, std::unique_ptr<PostgresConnection> connection)
        : pool_(pool), connection_(std::move(connection)) {}
    Handle(Handle&&) noexcept = default;
    Handle& operator=(Handle&&) = delete;
    ~Handle() {
      if (connection_ != nullptr) pool_->Return(std::move(connection_));
    }
    PostgresConnection& operator*() const { return *connection_; }
    PostgresConnection* operator->() const { return connection_.get(); }

   private:
    PostgresPool* pool_;
    std::unique_ptr<PostgresConnection> connection_;
  };

  // `limit` > 0: of connections, idle ones included. `context` must outlive the pool.
  PostgresPool(PostgresContext& context, int limit) : context_(context), limit_(limit) {}
  PostgresPool(const PostgresPool&) = delete;
  PostgresPool& operator=(const PostgresPool&) = delete;

  // Waits for a free connection, at most until `deadline` (UNAVAILABLE), or makes one; tries that once.
  absl::StatusOr<Handle> Acquire(SteadyTime deadline);
  // Idle ones, when they have to be made anew.
  void CloseIdle();

 private:
  struct Idle {
    std::unique_ptr<PostgresConnection> connection;
    SteadyTime since;
  };

  bool CanServe() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !idle_.empty() || open_ < limit_; }
  void Return(std::unique_ptr<PostgresConnection> connection);

  PostgresContext& context_;
  const int limit_;
  absl::Mutex mutex_;
  int open_ ABSL_GUARDED_BY(mutex_) = 0;           // idle and in use
  std::deque<Idle> idle_ ABSL_GUARDED_BY(mutex_);  // the one used last is at the end
};

}  // namespace qamserve
