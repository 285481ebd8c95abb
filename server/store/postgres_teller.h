// Tells the events of committed transactions: to the listeners of this process at once, to those of others by NOTIFY.
// Thread-safe. Internal to server/store.
//
// NOTIFY is a transaction of its own, sent by one thread for all that was committed meanwhile. Within the transaction
// that it tells of, it would be certain to come; but it makes its transaction hold a lock of the whole server while its
// commit is written to disk, so that commits follow one another instead of sharing a write: store_bench --notify, 16
// threads on two cores, gave 7300 small transactions a second without events, 1160 that told of themselves within, and
// 6080 this way. So an event is lost if the process dies between the two; listeners look by themselves now and then, as
// they must anyway.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "server/store/metadata_store.h"
#include "server/store/postgres_pool.h"
#include "server/store/store_event_dispatcher.h"

namespace qamserve {

class PostgresTeller {
 public:
  // All must outlive the teller. `sender`: names this store among those that listen.
  PostgresTeller(PostgresContext& context, PostgresPool& pool, StoreEventDispatcher& dispatcher, std::string sender);
  // As Stop.
  ~PostgresTeller();

  void Tell(const std::vector<StoreEvent>& events);
  // Sends something that this store's own listener hears if it hears anything.
  void Ping();
  // Tries once more to send what is left, then ends the thread; if that takes more than a second, by
  // PostgresContext::Stop. Idempotent.
  void Stop();

 private:
  void Loop();
  // False if it was the last round.
  bool Round(int64_t& pause_ms);
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || ping_ || !queue_.empty(); }
  absl::Status Send(const std::vector<std::string>& payloads);

  PostgresContext& context_;
  PostgresPool& pool_;
  StoreEventDispatcher& dispatcher_;
  const std::string sender_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool ping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<StoreEvent> queue_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace qamserve
