#include "server/store/sqlite_database.h"

#include <sqlite3.h>

#include <chrono>
#include <utility>

#include "server/store/sqlite_connection.h"

namespace qamserve {
namespace {

// Connections that are kept for the next reads; more are opened while more threads read at once.
constexpr size_t kIdleReaders = 4;

class SqliteTransaction : public SqlTransaction {
 public:
  explicit SqliteTransaction(SqliteConnection& db) : db_(db) {}
  absl::StatusOr<int64_t> Run(const char* sql, std::initializer_list<SqlValue> values) override {
    return db_.Run(sql, values);
  }
  absl::Status Query(const char* sql, std::initializer_list<SqlValue> values,
                     absl::FunctionRef<void(SqlRow&)> on_row) override {
    return db_.Query(sql, values, on_row);
  }
  void Tell(StoreEvent event) override { events_.push_back(std::move(event)); }
  const std::vector<StoreEvent>& events() const { return events_; }

 private:
  SqliteConnection& db_;
  std::vector<StoreEvent> events_;
};

// BEGIN, body, COMMIT or ROLLBACK.
absl::Status RunTransaction(SqliteConnection& db, const char* begin, SqlTransaction& transaction,
                            absl::FunctionRef<absl::Status(SqlTransaction&)> body) {
  RETURN_IF_ERROR(db.Run(begin, {}).status());
  absl::Status status = body(transaction);
  if (status.ok()) status = db.Run("COMMIT", {}).status();
  // Some errors (a full disk) make SQLite roll back by itself.
  if (db.in_transaction()) db.Run("ROLLBACK", {}).IgnoreError();
  return status;
}

// Tells an observer how long a call took and how it ended.
template <typename Call>
absl::Status Observed(StoreObserver& observer, StoreObserver::Transaction::Kind kind, Call&& call) {
  const auto begin = std::chrono::steady_clock::now();
  absl::Status status = call();
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
  observer.OnTransaction({.kind = kind, .seconds = passed.count(), .retries = 0, .code = status.code()});
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteDatabase>> SqliteDatabase::Open(const std::string& path,
                                                                     std::shared_ptr<StoreObserver> observer) {
  ASSIGN_OR_RETURN(auto writer, SqliteConnection::Open(path, SqliteConnection::Access::kReadWrite));
  return std::unique_ptr<SqliteDatabase>(new SqliteDatabase(path, std::move(observer), std::move(writer)));
}

SqliteDatabase::SqliteDatabase(std::string path, std::shared_ptr<StoreObserver> observer,
                               std::unique_ptr<SqliteConnection> writer)
    : path_(std::move(path)), observer_(std::move(observer)), writer_(std::move(writer)) {}

SqliteDatabase::~SqliteDatabase() = default;

absl::Status SqliteDatabase::Transact(absl::FunctionRef<absl::Status(SqlTransaction&)> body) {
  return Observed(*observer_, StoreObserver::Transaction::Kind::kWrite, [&] { return Write(body); });
}

absl::Status SqliteDatabase::Write(absl::FunctionRef<absl::Status(SqlTransaction&)> body) {
  std::vector<StoreEvent> events;
  {
    absl::MutexLock lock(&write_mutex_);
    SqliteTransaction transaction(*writer_);
    RETURN_IF_ERROR(RunTransaction(*writer_, "BEGIN IMMEDIATE", transaction, body));
    events = transaction.events();
  }
  if (!events.empty()) dispatcher_.Post(events);
  return absl::OkStatus();
}

absl::Status SqliteDatabase::Read(absl::FunctionRef<absl::Status(SqlTransaction&)> body) {
  return Observed(*observer_, StoreObserver::Transaction::Kind::kRead, [&] { return ReadOnce(body); });
}

absl::Status SqliteDatabase::ReadOnce(absl::FunctionRef<absl::Status(SqlTransaction&)> body) {
  ASSIGN_OR_RETURN(auto reader, TakeReader());
  SqliteTransaction transaction(*reader);
  // The snapshot is taken by the first statement, and sees all that was committed before.
  absl::Status status = RunTransaction(*reader, "BEGIN", transaction, body);
  if (!reader->in_transaction()) PutReader(std::move(reader));
  return status;
}

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteDatabase::TakeReader() {
  {
    absl::MutexLock lock(&mutex_);
    if (!readers_.empty()) {
      auto reader = std::move(readers_.back());
      readers_.pop_back();
      return reader;
    }
  }
  return SqliteConnection::Open(path_, SqliteConnection::Access::kRead);
}

void SqliteDatabase::PutReader(std::unique_ptr<SqliteConnection> reader) {
  absl::MutexLock lock(&mutex_);
  if (readers_.size() < kIdleReaders) readers_.push_back(std::move(reader));
}

int64_t SqliteDatabase::NowMs() { return SystemNowMs(); }

std::shared_ptr<void> SqliteDatabase::Listen(std::function<void(const StoreEvent&)> on_event) {
  return dispatcher_.Listen(std::move(on_event));
}

std::shared_ptr<absl::Mutex> SqliteDatabase::NamedMutex(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(named_, [&](const auto& entry) { return entry.first != name && entry.second.expired(); });
  std::weak_ptr<absl::Mutex>& known = named_[name];
  std::shared_ptr<absl::Mutex> mutex = known.lock();
  if (mutex == nullptr) known = mutex = std::make_shared<absl::Mutex>();
  return mutex;
}

absl::Status SqliteDatabase::Exclusive(const std::string& name, absl::FunctionRef<absl::Status()> body) {
  absl::Status result;
  // A mutex is always to be had in the end, so the lock itself cannot fail.
  Observed(*observer_, StoreObserver::Transaction::Kind::kExclusive, [&] {
    const std::shared_ptr<absl::Mutex> mutex = NamedMutex(name);
    absl::MutexLock lock(mutex.get());
    result = body();
    return absl::OkStatus();
  }).IgnoreError();
  return result;
}

std::string SqliteDatabase::Describe() { return fmt::format("sqlite {}", sqlite3_libversion()); }

}  // namespace qamserve
