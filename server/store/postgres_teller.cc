#include "server/store/postgres_teller.h"

#include <absl/time/time.h>

#include <algorithm>
#include <utility>

#include "server/store/postgres_events.h"

namespace qamserve {
namespace {

// Beyond this, to look at everything once is less work than at each.
constexpr size_t kMaxQueued = 256;
constexpr int64_t kFirstPauseMs = 50;
constexpr int64_t kLongestPauseMs = 1'000;
// For a free connection; the thread has nothing better to do than to try again.
constexpr int64_t kAcquireMs = 1'000;
constexpr absl::Duration kLastRound = absl::Seconds(1);

// Puts `event` into `queue` unless it is there already. A queue that has grown too long becomes one kMissed.
void QueueEvent(std::vector<StoreEvent>& queue, const StoreEvent& event) {
  const auto same = [&](const StoreEvent& queued) { return queued.kind == event.kind && queued.id == event.id; };
  if (std::any_of(queue.begin(), queue.end(), same)) return;
  if (queue.size() >= kMaxQueued) queue.assign(1, StoreEvent{});
  queue.push_back(event);
}

}  // namespace

PostgresTeller::PostgresTeller(PostgresContext& context, PostgresPool& pool, StoreEventDispatcher& dispatcher,
                               std::string sender)
    : context_(context), pool_(pool), dispatcher_(dispatcher), sender_(std::move(sender)), thread_([this] {
        Loop();
      }) {}

PostgresTeller::~PostgresTeller() { Stop(); }

void PostgresTeller::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (!mutex_.AwaitWithTimeout(absl::Condition(&ended_), kLastRound)) context_.Stop();
  }
  if (thread_.joinable()) thread_.join();
}

void PostgresTeller::Tell(const std::vector<StoreEvent>& events) {
  if (events.empty()) return;
  dispatcher_.Post(events);
  absl::MutexLock lock(&mutex_);
  for (const StoreEvent& event : events) QueueEvent(queue_, event);
}

void PostgresTeller::Ping() {
  absl::MutexLock lock(&mutex_);
  ping_ = true;
}

void PostgresTeller::Loop() {
  int64_t pause_ms = 0;
  while (Round(pause_ms)) {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&stopping_),
                            absl::Milliseconds(std::max(pause_ms, context_.options.notify_interval_ms)));
  }
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

bool PostgresTeller::Round(int64_t& pause_ms) {
  EventMessage message{.sender = sender_};
  bool last = false;
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &PostgresTeller::HasWork));
    message.events.swap(queue_);
    message.ping = std::exchange(ping_, false);
    last = stopping_;
  }
  const absl::Status status = Send(EncodeEvents(message));
  if (!status.ok()) {
    // A ping that was not sent says nothing about hearing; the next one will.
    absl::MutexLock lock(&mutex_);
    for (const StoreEvent& event : std::exchange(queue_, std::move(message.events))) QueueEvent(queue_, event);
  }
  pause_ms = status.ok() ? 0 : std::clamp(2 * pause_ms, kFirstPauseMs, kLongestPauseMs);
  return !last;
}

absl::Status PostgresTeller::Send(const std::vector<std::string>& payloads) {
  if (payloads.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const PostgresPool::Handle connection, pool_.Acquire(AfterMs(kAcquireMs)));
  for (const std::string& payload : payloads) {
    RETURN_IF_ERROR(
        connection->Query("SELECT pg_notify($1, $2)", {kPostgresChannel, payload}, [](SqlRow&) {}).status());
  }
  return absl::OkStatus();
}

}  // namespace qamserve
