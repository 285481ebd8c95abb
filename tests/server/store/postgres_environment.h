// One PostgreSQL server for all tests of a program, and what they look at. Without PostgreSQL each of them skips, or
// fails (prerequisite.h).
#pragma once

#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/store/metadata_store.h"
#include "server/store/postgres_database.h"
#include "tests/support/postgres_server.h"
#include "tests/support/prerequisite.h"

namespace qamserve {

class PostgresEnvironment : public testing::Environment {
 public:
  void SetUp() override {
    if (const std::string missing = PostgresServer::Missing(); !missing.empty() && !PrerequisitesMustBeThere()) {
      // Were this to skip, gtest would run no test, and count none as skipped.
      testing::UnitTest::GetInstance()->listeners().Append(new SkipAll(missing));
      return;
    }
    SKIP_WITHOUT(PostgresServer::Missing());
    // Deadlocks are looked for soon.
    auto server = PostgresServer::Start({"deadlock_timeout = '50ms'"});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    testing::UnitTest::GetInstance()->listeners().Append(new DropDatabases);
  }
  void TearDown() override { server_.reset(); }

  static PostgresServer& server() { return *server_; }
  static std::string NewDatabase() {
    const auto uri = server_->NewDatabase();
    EXPECT_TRUE(uri.ok()) << uri.status();
    if (uri.ok()) databases_.push_back(DatabaseOf(*uri));
    return uri.value_or("");
  }
  static std::string DatabaseOf(const std::string& uri) {
    const size_t begin = uri.rfind('/') + 1;
    return uri.substr(begin, uri.find('?') - begin);
  }

 private:
  // After each test: an empty database takes 8 MB.
  class DropDatabases : public testing::EmptyTestEventListener {
    void OnTestEnd(const testing::TestInfo&) override {
      for (const std::string& name : std::exchange(databases_, {})) {
        server_->Psql("postgres", "DROP DATABASE " + name + " WITH (FORCE)").IgnoreError();
      }
    }
  };

  // gtest does not run the body of a test that was skipped before it began.
  class SkipAll : public testing::EmptyTestEventListener {
   public:
    explicit SkipAll(std::string missing) : missing_(std::move(missing)) {}
    void OnTestStart(const testing::TestInfo&) override { GTEST_SKIP() << missing_; }

   private:
    const std::string missing_;
  };

  static inline std::unique_ptr<PostgresServer> server_;
  static inline std::vector<std::string> databases_;
};

inline const auto* const kPostgresEnvironment = testing::AddGlobalTestEnvironment(new PostgresEnvironment);

// The URI of a new database, which is dropped after the test; empty after a failure.
inline std::string NewDatabase() { return PostgresEnvironment::NewDatabase(); }
// Its name.
inline std::string DatabaseOf(const std::string& uri) { return PostgresEnvironment::DatabaseOf(uri); }

inline std::unique_ptr<PostgresDatabase> OpenDatabase(const std::string& uri, const PostgresOptions& options = {}) {
  auto database = PostgresDatabase::Open(uri, options);
  EXPECT_TRUE(database.ok()) << database.status();
  return database.ok() ? *std::move(database) : nullptr;
}

// The one table that the database itself needs; otherwise part of the store's schema.
inline absl::Status MakeCommitMarks(SqlDatabase& database) {
  return database.Transact([](SqlTransaction& transaction) {
    return transaction
        .Run(
            "CREATE TABLE commit_marks (made_ms BIGINT NOT NULL, id BIGINT NOT NULL, committed INTEGER NOT NULL,"
            " PRIMARY KEY (made_ms, id))")
        .status();
  });
}

// One statement as a transaction of its own.
inline absl::Status RunOne(SqlDatabase& database, const char* sql, std::initializer_list<SqlValue> values = {}) {
  return database.Transact([&](SqlTransaction& transaction) { return transaction.Run(sql, values).status(); });
}

// The integer that a query gives.
inline int64_t ReadInt(SqlDatabase& database, const char* sql, std::initializer_list<SqlValue> values = {}) {
  int64_t found = -1;
  const absl::Status status = database.Read([&](SqlTransaction& transaction) {
    return transaction.Query(sql, values, [&](SqlRow& row) { found = row.Int(); });
  });
  EXPECT_TRUE(status.ok()) << status;
  return found;
}

// Something that other threads add to and a test waits for.
template <typename T>
class Collector {
 public:
  void Add(T item) {
    absl::MutexLock lock(&mutex_);
    items_.push_back(std::move(item));
  }
  std::vector<T> items() const {
    absl::MutexLock lock(&mutex_);
    return items_;
  }
  // False if none is `wanted` before `patience` ends. Forgets all up to the one that was found.
  bool WaitFor(const std::function<bool(const T&)>& wanted, absl::Duration patience = absl::Seconds(30)) {
    absl::MutexLock lock(&mutex_);
    auto found = items_.end();
    const auto there = [&] {
      found = std::find_if(items_.begin(), items_.end(), wanted);
      return found != items_.end();
    };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&there), patience)) return false;
    items_.erase(items_.begin(), found + 1);
    return true;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<T> items_;
};

inline bool Await(Collector<StoreEvent>& events, StoreEvent::Kind kind, const std::string& id = "",
                  absl::Duration patience = absl::Seconds(30)) {
  return events.WaitFor([&](const StoreEvent& event) { return event.kind == kind && event.id == id; }, patience);
}

// Notes what a database tells its observer.
class RecordingObserver : public StoreObserver {
 public:
  void OnTransaction(const Transaction& transaction) override { transactions.Add(transaction); }
  void OnReconnect() override { reconnects.Add(1); }
  int32_t retries() const {
    int32_t sum = 0;
    for (const Transaction& transaction : transactions.items()) sum += transaction.retries;
    return sum;
  }

  Collector<Transaction> transactions;
  Collector<int> reconnects;
};

}  // namespace qamserve
