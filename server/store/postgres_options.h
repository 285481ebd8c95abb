// How a process uses a PostgreSQL server. The defaults suit a server in the same data centre.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "server/store/sql_schema.h"
#include "server/store/store_observer.h"

namespace qamserve {

struct PostgresOptions {
  SchemaPolicy schema = SchemaPolicy::kMigrate;  // of a store that an older program made
  // Shown in pg_stat_activity.
  std::string application_name = "qamserve";
  // Connections for transactions; made when they are needed, closed after a minute without use. One more listens, and
  // each body of Exclusive that runs or waits has one of its own, at most max_lock_connections.
  int max_connections = 8;
  int max_lock_connections = 32;

  int64_t connect_timeout_ms = 5'000;  // for each host of the URI
  // Of one statement; a server that says nothing for 5 s longer is taken for lost.
  int64_t statement_timeout_ms = 20'000;
  // Of a statement of Read, which may hand its rows on slowly (a backup does).
  int64_t read_timeout_ms = 600'000;
  int64_t lock_timeout_ms = 5'000;
  // A transaction that asks nothing for so long is ended by the server, and its locks with it: a paused process does
  // not hold up the others.
  int64_t idle_in_transaction_timeout_ms = 30'000;
  // How long a transaction is tried again after conflicts, lost connections, restarts and failovers of the server.
  int64_t retry_ms = 30'000;
  // How long Exclusive waits for a body of the same name elsewhere.
  int64_t exclusive_wait_ms = 600'000;

  // While the server's notifications cannot be heard, listeners are told kMissed as often as this.
  int64_t poll_ms = 2'000;
  // How often it is tried whether notifications are heard.
  int64_t listen_check_ms = 15'000;
  // Notifications are sent at most once in this time, many events in one. Each takes a lock of the whole server.
  int64_t notify_interval_ms = 10;
  // How often the server's clock is asked for.
  int64_t clock_interval_ms = 60'000;

  // For the log: what is wrong with the server and goes on, once for each time that it begins. From any thread.
  std::function<void(const std::string&)> on_warning = [](const std::string&) {};
  std::shared_ptr<StoreObserver> observer = std::make_shared<StoreObserver>();
};

}  // namespace qamserve
