#include "server/store/postgres_listener.h"

#include <absl/time/time.h>

#include <algorithm>
#include <utility>

#include "server/store/postgres_events.h"
#include "server/store/postgres_transaction.h"

namespace qamserve {
namespace {

// A ping comes back within a few milliseconds; a server that is slow may take this long.
constexpr int64_t kPingMs = 5'000;
// After so many intervals of deafness a new connection is tried.
constexpr int kDeafIntervals = 4;
// Where hearing comes and goes, that is said no more often.
constexpr std::chrono::minutes kWarningInterval{10};
// The best of a few counts.
constexpr int kClockSamples = 3;

}  // namespace

PostgresListener::PostgresListener(PostgresContext& context, StoreEventDispatcher& dispatcher, PostgresTeller& teller,
                                   std::string sender)
    : context_(context), dispatcher_(dispatcher), teller_(teller), sender_(std::move(sender)), thread_([this] {
        Loop();
      }) {}

PostgresListener::~PostgresListener() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

bool PostgresListener::Pause(int64_t ms) {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(this, &PostgresListener::Stopping), absl::Milliseconds(ms));
}

void PostgresListener::TellMissed() { dispatcher_.Post({{.kind = StoreEvent::Kind::kMissed, .id = ""}}); }

void PostgresListener::SetDeaf(bool deaf, const std::string& why) {
  const SteadyTime now = std::chrono::steady_clock::now();
  if (deaf && !deaf_ && now >= next_warning_) {
    next_warning_ = now + kWarningInterval;
    context_.options.on_warning(
        fmt::format("metadata store {}: changes by other processes are not heard of at once but "
                    "looked for every {} ms: {}",
                    context_.address.shown, context_.options.poll_ms, why));
  }
  deaf_ = deaf;
}

void PostgresListener::Loop() {
  bool first = true, lost = false;
  while (true) {
    auto connection = Connect();
    absl::Status status = connection.status();
    if (connection.ok()) {
      if (lost) context_.options.observer->OnReconnect();
      if (!first) TellMissed();
      first = false;
      status = Serve(**connection);
      // One that was given up was there until then: nothing is heard over it, or what is behind it forgets prepared
      // statements, which is told as a conflict.
      lost = (*connection)->lost() && !absl::IsAborted(status);
    }
    if (!Pause(0)) return;
    SetDeaf(true, MessageOf(status));
    TellMissed();
    // Half of the time at least, so that many processes do not come back in step.
    const int64_t pause_ms = std::max<int64_t>(context_.options.poll_ms / 2, 1);
    if (!Pause(pause_ms + BootTimeUs() % pause_ms)) return;
  }
}

absl::StatusOr<std::unique_ptr<PostgresConnection>> PostgresListener::Connect() {
  ASSIGN_OR_RETURN(auto connection, PostgresConnection::Open(context_));
  RETURN_IF_ERROR(connection->Execute(fmt::format("LISTEN {}", kPostgresChannel)));
  return connection;
}

bool PostgresListener::TakeNotifications(PostgresConnection& connection) {
  bool heard = false;
  std::string payload;
  while (connection.TakeNotification(payload)) {
    const EventMessage message = DecodeEvents(payload);
    const bool own = message.sender == sender_;
    heard = heard || (own && message.ping);
    // This process's listeners know of its own events.
    if (!own) dispatcher_.Post(message.events);
  }
  return heard;
}

absl::Status PostgresListener::Serve(PostgresConnection& connection) {
  const PostgresOptions& options = context_.options;
  SteadyTime next_clock = AfterMs(0), next_ping = AfterMs(0), answer_by = SteadyTime::max(), next_poll = AfterMs(0);
  int unheard = 0;
  while (true) {
    if (std::chrono::steady_clock::now() >= next_clock) {
      // A session that can only read may stay like that; another one is tried.
      if (connection.read_only()) return FailedPrecondition("STORE_READ_ONLY", "the session can only read");
      for (int i = 0; i < kClockSamples; ++i) RETURN_IF_ERROR(connection.SampleClock());
      // Where they cannot be deleted (not made yet, only to be read), there are none to speak of.
      const absl::Status deleted = connection.Execute(kDeleteMarksSql);
      if (connection.lost()) return deleted;
      next_clock = AfterMs(options.clock_interval_ms);
    }
    if (TakeNotifications(connection)) {
      if (deaf_) TellMissed();
      SetDeaf(false, "");
      unheard = 0;
      answer_by = SteadyTime::max();
    }
    const SteadyTime now = std::chrono::steady_clock::now();
    if (now >= answer_by) {
      SetDeaf(true, "notifications do not arrive over this connection");
      answer_by = SteadyTime::max();
      if (++unheard >= kDeafIntervals) return Unavailable("STORE_UNAVAILABLE", "notifications still do not arrive");
    }
    if (now >= next_ping) {
      teller_.Ping();
      next_ping = AfterMs(options.listen_check_ms);
      answer_by = std::min(AfterMs(kPingMs), next_ping);
    }
    if (deaf_ && now >= next_poll) {
      TellMissed();
      next_poll = AfterMs(options.poll_ms);
    }
    const SteadyTime until = std::min({next_clock, next_ping, answer_by});
    RETURN_IF_ERROR(connection.Wait(deaf_ ? std::min(until, next_poll) : until));
  }
}

}  // namespace qamserve
