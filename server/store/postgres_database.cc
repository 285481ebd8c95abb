#include "server/store/postgres_database.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "core/base/digest.h"
#include "core/base/rng.h"
#include "server/store/postgres_transaction.h"
#include "server/store/records.h"

namespace qamserve {
namespace {

using std::chrono::steady_clock;

constexpr int64_t kFirstPauseMs = 4;
constexpr int64_t kLongestPauseMs = 1'000;

// Pauses between attempts: each up to twice as long as the one before, by chance between half of that and all of it.
class Pauses {
 public:
  explicit Pauses(SteadyTime deadline)
      : deadline_(deadline), random_(static_cast<uint64_t>(steady_clock::now().time_since_epoch().count())) {}

  // False, at once, if the deadline would pass.
  bool Pause() {
    const auto pause = std::chrono::microseconds(
        static_cast<int64_t>(static_cast<double>(longest_ms_) * 1000 * (0.5 + 0.5 * random_.NextUniform())));
    longest_ms_ = std::min(2 * longest_ms_, kLongestPauseMs);
    if (steady_clock::now() + pause >= deadline_) return false;
    std::this_thread::sleep_for(pause);
    return true;
  }

 private:
  const SteadyTime deadline_;
  Rng random_;
  int64_t longest_ms_ = kFirstPauseMs;
};

double SecondsSince(SteadyTime start) { return std::chrono::duration<double>(steady_clock::now() - start).count(); }

bool IsConflict(const absl::Status& status) { return ReasonOf(status) == "STORE_CONFLICT"; }

bool IsMissingTable(const absl::Status& status) {
  return MessageOf(status).find("(SQLSTATE 42P01)") != std::string::npos;
}

// 60 bits.
int64_t RandomInteger() { return static_cast<int64_t>(std::stoull(RandomId().substr(0, 15), nullptr, 16)); }

}  // namespace

PostgresDatabase::PostgresDatabase(PostgresAddress address, const PostgresOptions& options)
    : context_(std::move(address), options),
      sender_(RandomId()),
      pool_(context_, std::max(options.max_connections, 1)),
      lock_pool_(context_, std::max(options.max_lock_connections, 1)) {}

absl::StatusOr<std::unique_ptr<PostgresDatabase>> PostgresDatabase::Open(const std::string& uri,
                                                                         const PostgresOptions& options) {
  ASSIGN_OR_RETURN(PostgresAddress address, ParsePostgresUri(uri, options));
  std::unique_ptr<PostgresDatabase> database(new PostgresDatabase(std::move(address), options));
  // The first transaction connects, for as long as any may try. From then on there is a clock.
  RETURN_IF_ERROR(database->Run(Mode::kRead, [&](SqlTransaction& transaction) {
    database->version_ = static_cast<PostgresTransaction&>(transaction).connection().server_version();
    return absl::OkStatus();
  }));
  PostgresContext& context = database->context_;
  database->teller_ =
      std::make_unique<PostgresTeller>(context, database->pool_, database->dispatcher_, database->sender_);
  database->listener_ =
      std::make_unique<PostgresListener>(context, database->dispatcher_, *database->teller_, database->sender_);
  return database;
}

PostgresDatabase::~PostgresDatabase() {
  // What was told last still goes out.
  if (teller_ != nullptr) teller_->Stop();
  context_.Stop();
}

absl::Status PostgresDatabase::Transact(Body body) { return Run(Mode::kWrite, body); }
absl::Status PostgresDatabase::Read(Body body) { return Run(Mode::kRead, body); }

absl::Status PostgresDatabase::Run(Mode mode, Body body) {
  const SteadyTime start = steady_clock::now();
  const SteadyTime deadline = AfterMs(context_.options.retry_ms);
  StoreObserver::Transaction seen{.kind = mode == Mode::kWrite ? StoreObserver::Transaction::Kind::kWrite
                                                               : StoreObserver::Transaction::Kind::kRead};
  Pauses backoff(deadline);
  Attempt attempt = Try(mode, body, deadline);
  while (attempt.again && backoff.Pause()) {
    ++seen.retries;
    attempt = Try(mode, body, deadline);
  }
  seen.seconds = SecondsSince(start);
  seen.code = attempt.status.code();
  context_.options.observer->OnTransaction(seen);
  return attempt.status;
}

PostgresDatabase::Attempt PostgresDatabase::Try(Mode mode, Body body, SteadyTime deadline) {
  const auto connection = pool_.Acquire(deadline);
  if (!connection.ok()) return {connection.status(), !IsLasting(connection.status())};
  PostgresTransaction transaction(**connection, mode == Mode::kRead);
  absl::Status status = transaction.Begin(mode == Mode::kWrite);
  if (status.ok()) status = body(transaction);
  const absl::Status& error = transaction.error();
  if (!error.ok() && ((*connection)->lost() || IsConflict(error))) {
    transaction.Rollback();
    return {error, true};
  }
  // A body that makes nothing of an error does not make the transaction succeed.
  if (status.ok()) status = error;
  if (!status.ok()) {
    transaction.Rollback();
    return {std::move(status)};
  }
  return Commit(transaction, deadline);
}

PostgresDatabase::Attempt PostgresDatabase::Commit(PostgresTransaction& transaction, SteadyTime deadline) {
  const PostgresConnection& connection = transaction.connection();
  std::optional<PostgresMark> mark;
  if (transaction.wrote()) mark = {.made_ms = NowMs(), .id = RandomInteger()};
  absl::Status status = transaction.Commit(mark);
  if (!status.ok() && !connection.lost()) {
    transaction.Rollback();
    return {status, IsConflict(status)};
  }
  if (!status.ok()) {
    if (!mark) return {status, true};
    switch (AskAfter(*mark, deadline)) {
      case Outcome::kRolledBack:
        return {status, true};
      case Outcome::kCommitted:
        status = absl::OkStatus();
        break;
      case Outcome::kUnknown:
        status = Annotate(status, "whether the last change was committed cannot be told");
        break;
    }
  }
  // One too many does no harm.
  if (teller_ != nullptr) teller_->Tell(transaction.events());
  return {std::move(status)};
}

PostgresDatabase::Outcome PostgresDatabase::AskAfter(const PostgresMark& mark, SteadyTime deadline) {
  Pauses backoff(deadline);
  do {
    // The connection that broke is not back in the pool yet, and those that are there may have broken with it.
    const auto connection = PostgresConnection::Open(context_);
    if (!connection.ok()) {
      if (IsLasting(connection.status())) return Outcome::kUnknown;
      continue;
    }
    const auto outcome = AskOnce(**connection, mark);
    if (outcome.ok()) return *outcome;
    // Still under way, or the server went away again.
    if (!(*connection)->lost() && !IsConflict(outcome.status())) return Outcome::kUnknown;
  } while (backoff.Pause());
  return Outcome::kUnknown;
}

absl::StatusOr<PostgresDatabase::Outcome> PostgresDatabase::AskOnce(PostgresConnection& connection,
                                                                    const PostgresMark& mark) {
  PostgresTransaction transaction(connection, false);
  RETURN_IF_ERROR(transaction.Begin(true));
  const auto put = transaction.Run(
      "INSERT INTO commit_marks (made_ms, id, committed) SELECT $1, $2, 0"
      " WHERE $1 > (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $3 ON CONFLICT (made_ms, id) DO NOTHING",
      {mark.made_ms, mark.id, kMarkMs});
  // The table was to come with the transaction.
  if (IsMissingTable(put.status())) return Outcome::kRolledBack;
  RETURN_IF_ERROR(put.status());
  Outcome outcome = Outcome::kUnknown;
  RETURN_IF_ERROR(
      transaction.Query("SELECT committed FROM commit_marks WHERE made_ms = $1 AND id = $2", {mark.made_ms, mark.id},
                        [&](SqlRow& row) { outcome = row.Int() == 1 ? Outcome::kCommitted : Outcome::kRolledBack; }));
  RETURN_IF_ERROR(transaction.Commit(std::nullopt));
  return outcome;
}

// Asks something over the connection with the lock now and then: the server ends a session that is silent, so that the
// lock of a process that was paused does not outlast it for long.
class PostgresDatabase::HeldLock {
 public:
  HeldLock(PostgresContext& context, PostgresConnection& connection)
      : interval_(absl::Milliseconds(std::max<int64_t>(context.options.idle_in_transaction_timeout_ms / 6, 1))),
        connection_(connection),
        thread_([this] { Loop(); }) {}
  ~HeldLock() { Join(); }
  HeldLock(const HeldLock&) = delete;
  HeldLock& operator=(const HeldLock&) = delete;

  // Whether the lock was held up to now; gives it back.
  bool Release() {
    Join();
    return !connection_.lost() && connection_.Commit("COMMIT").ok();
  }

 private:
  void Join() {
    {
      absl::MutexLock lock(&mutex_);
      released_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }
  void Loop() {
    while (true) {
      {
        absl::MutexLock lock(&mutex_);
        if (mutex_.AwaitWithTimeout(absl::Condition(&released_), interval_)) return;
      }
      if (!connection_.Execute("SELECT 1").ok()) return;
    }
  }

  const absl::Duration interval_;
  PostgresConnection& connection_;  // of the thread's alone until it has ended
  absl::Mutex mutex_;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

std::shared_ptr<absl::Mutex> PostgresDatabase::LocalMutex(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(local_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<absl::Mutex>& known = local_[name];
  auto found = known.lock();
  if (found == nullptr) known = found = std::make_shared<absl::Mutex>();
  return found;
}

absl::StatusOr<PostgresPool::Handle> PostgresDatabase::Lock(const std::string& name, SteadyTime deadline) {
  // The first 16 hex digits of the name's digest: names that share them would only wait for each other.
  const auto key = static_cast<int64_t>(std::stoull(Sha256Hex("qamserve " + name).substr(0, 16), nullptr, 16));
  Pauses backoff(deadline);
  absl::Status error;
  do {
    auto connection = lock_pool_.Acquire(deadline);
    error = connection.status();
    if (!error.ok() && IsLasting(error)) return error;
    if (!error.ok()) continue;
    error = (*connection)->Execute(BeginStatement(context_.options, true));
    if (error.ok()) {
      error = (*connection)->Query("SELECT pg_advisory_xact_lock($1)", {key}, [](SqlRow&) {}).status();
    }
    if (error.ok()) return connection;
    if (!(*connection)->lost()) {
      (*connection)->Execute("ROLLBACK").IgnoreError();
      if (!IsConflict(error)) return error;
    }
  } while (backoff.Pause());
  return context_.Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE",
                        fmt::format("the lock '{}' was not to be had within {} ms: {}", name,
                                    context_.options.exclusive_wait_ms, MessageOf(error)));
}

absl::Status PostgresDatabase::Exclusive(const std::string& name, absl::FunctionRef<absl::Status()> body) {
  const SteadyTime start = steady_clock::now();
  const auto local = LocalMutex(name);
  absl::MutexLock lock(local.get());
  absl::Status result;  // of the body
  const auto run = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const PostgresPool::Handle connection, Lock(name, AfterMs(context_.options.exclusive_wait_ms)));
    HeldLock held(context_, *connection);
    result = body();
    if (held.Release()) return absl::OkStatus();
    return context_.Error(absl::StatusCode::kAborted, "LOCK_LOST",
                          fmt::format("the connection with the lock '{}' broke while it was needed", name));
  };
  const absl::Status own = run();
  context_.options.observer->OnTransaction({.kind = StoreObserver::Transaction::Kind::kExclusive,
                                            .seconds = SecondsSince(start),
                                            .retries = 0,
                                            .code = own.code()});
  return result.ok() ? own : result;
}

}  // namespace qamserve
