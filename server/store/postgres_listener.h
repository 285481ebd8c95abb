// Hears what other processes told by NOTIFY, over a connection of its own that is made again whenever it is lost, and
// keeps the server's clock and deletes old commit marks. Where nothing can be heard (no right to, or a pooler in
// between that hands connections around), it says so once and tells kMissed at intervals, so that listeners poll.
// Internal to server/store.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "server/store/postgres_teller.h"
#include "server/store/store_event_dispatcher.h"

namespace qamserve {

class PostgresListener {
 public:
  // All must outlive the listener.
  PostgresListener(PostgresContext& context, StoreEventDispatcher& dispatcher, PostgresTeller& teller,
                   std::string sender);
  // PostgresContext::Stop must have been called: it ends the thread's waits.
  ~PostgresListener();

 private:
  void Loop();
  absl::StatusOr<std::unique_ptr<PostgresConnection>> Connect();
  // Until the connection is lost, or too deaf to be kept.
  absl::Status Serve(PostgresConnection& connection);
  // Returns whether a ping of our own was among what has arrived.
  bool TakeNotifications(PostgresConnection& connection);
  void TellMissed();
  void SetDeaf(bool deaf, const std::string& why);
  bool Stopping() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_; }
  // False if the listener is stopping.
  bool Pause(int64_t ms);

  PostgresContext& context_;
  StoreEventDispatcher& dispatcher_;
  PostgresTeller& teller_;
  const std::string sender_;
  // Of the thread alone.
  bool deaf_ = false;
  SteadyTime next_warning_{};
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace qamserve
