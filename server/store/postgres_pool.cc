#include "server/store/postgres_pool.h"

#include <absl/time/time.h>

#include <chrono>

namespace qamserve {
namespace {

constexpr std::chrono::seconds kIdleTime{60};

}  // namespace

absl::StatusOr<PostgresPool::Handle> PostgresPool::Acquire(SteadyTime deadline) {
  {
    absl::MutexLock lock(&mutex_);
    const auto left = deadline - std::chrono::steady_clock::now();
    if (!mutex_.AwaitWithTimeout(absl::Condition(this, &PostgresPool::CanServe), absl::FromChrono(left))) {
      return context_.Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE",
                            fmt::format("all {} connections of this process stayed in use", limit_));
    }
    if (!idle_.empty()) {
      Handle handle(this, std::move(idle_.back().connection));
      idle_.pop_back();
      return handle;
    }
    ++open_;
  }
  auto connection = PostgresConnection::Open(context_);
  if (connection.ok()) return Handle(this, *std::move(connection));
  absl::MutexLock lock(&mutex_);
  --open_;
  return connection.status();
}

void PostgresPool::CloseIdle() {
  std::deque<Idle> closed;
  absl::MutexLock lock(&mutex_);
  open_ -= static_cast<int>(idle_.size());
  closed.swap(idle_);
}

void PostgresPool::Return(std::unique_ptr<PostgresConnection> connection) {
  // What a session that once listened was sent behind a pooler, nobody here waits for.
  std::string unheard;
  while (connection->TakeNotification(unheard)) {
  }
  // Closed after the lock is released.
  std::deque<Idle> closed;
  const SteadyTime now = std::chrono::steady_clock::now();
  absl::MutexLock lock(&mutex_);
  if (connection->lost() || connection->read_only()) {
    open_ -= 1 + static_cast<int>(idle_.size());
    closed.swap(idle_);
    closed.push_back({std::move(connection), now});
    return;
  }
  idle_.push_back({std::move(connection), now});
  while (idle_.front().since + kIdleTime < now) {
    closed.push_back(std::move(idle_.front()));
    idle_.pop_front();
    --open_;
  }
}

}  // namespace qamserve
