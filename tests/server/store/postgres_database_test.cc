#include "server/store/postgres_database.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include "tests/server/store/postgres_environment.h"
#include "tests/support/postgres_pooler.h"

namespace qamserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class PostgresDatabaseTest : public testing::Test {
 protected:
  void SetUp() override {
    uri_ = NewDatabase();
    options_.on_warning = [this](const std::string& text) { warnings_.Add(text); };
    options_.observer = observer_;
    options_.poll_ms = 200;
    database_ = OpenDatabase(uri_, options_);
    ASSERT_NE(database_, nullptr);
    ASSERT_TRUE(MakeCommitMarks(*database_).ok());
    ASSERT_TRUE(RunOne(*database_, "CREATE TABLE items (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)").ok());
  }
  absl::StatusOr<std::string> Psql(const std::string& sql) const {
    return PostgresEnvironment::server().Psql(DatabaseOf(uri_), sql);
  }
  absl::Status Put(SqlDatabase& database, int64_t id, int64_t value) const {
    return RunOne(database, "INSERT INTO items (id, value) VALUES ($1, $2)", {id, value});
  }
  // How the locks of Exclusive ended, as the observer was told.
  std::vector<absl::StatusCode> LockCodes() const {
    std::vector<absl::StatusCode> codes;
    for (const auto& seen : observer_->transactions.items()) {
      if (seen.kind == StoreObserver::Transaction::Kind::kExclusive) codes.push_back(seen.code);
    }
    return codes;
  }

  std::string uri_;
  PostgresOptions options_;
  std::shared_ptr<RecordingObserver> observer_ = std::make_shared<RecordingObserver>();
  Collector<std::string> warnings_;
  std::unique_ptr<PostgresDatabase> database_;
};

TEST_F(PostgresDatabaseTest, CarriesValuesThereAndBack) {
  constexpr int64_t kLowest = std::numeric_limits<int64_t>::min();
  const std::string text = "na\xc3\xafve 'quoted' \\x \n\t\"";
  int rows = 0;
  const absl::Status status = database_->Read([&](SqlTransaction& transaction) {
    return transaction.Query(
        "SELECT $1, $2, $3, $4, NULL::TEXT, $5, $6 = 1, $6 = 0, 1.5::NUMERIC, $7::BIGINT, 1e300::DOUBLE PRECISION",
        {kLowest, 0.1, text, "", -1e-300, true, uint64_t{1} << 62}, [&](SqlRow& row) {
          ++rows;
          EXPECT_EQ(row.Int(), kLowest);
          EXPECT_EQ(row.Real(), 0.1);
          EXPECT_EQ(row.Text(), text);
          EXPECT_FALSE(row.IsNull());
          EXPECT_EQ(row.Text(), "");
          EXPECT_TRUE(row.IsNull());
          EXPECT_EQ(row.Text(), "");
          EXPECT_EQ(row.Real(), -1e-300);
          EXPECT_EQ(row.Int(), 1);
          EXPECT_EQ(row.Int(), 0);
          EXPECT_EQ(row.Real(), 1.5);
          EXPECT_EQ(row.Int(), int64_t{1} << 62);
          EXPECT_EQ(row.Real(), 1e300);
        });
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(rows, 1);
  EXPECT_EQ(database_->Describe().rfind("postgresql 1", 0), 0u) << database_->Describe();
}

TEST_F(PostgresDatabaseTest, RefusesTextThatPostgresCannotHold) {
  using std::string_literals::operator""s;
  for (const std::string& text : {"a\0b"s, "\xff\xfe"s}) {
    EXPECT_EQ(ReasonOf(RunOne(*database_, "SELECT $1", {text})), "STORE_VALUE");
  }
  EXPECT_EQ(observer_->retries(), 0);
}

TEST_F(PostgresDatabaseTest, CountsChangedRows) {
  ASSERT_TRUE(Put(*database_, 1, 10).ok());
  ASSERT_TRUE(Put(*database_, 2, 20).ok());
  const absl::Status status = database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    EXPECT_EQ(*transaction.Run("UPDATE items SET value = value + $1", {1}), 2);
    EXPECT_EQ(*transaction.Run("UPDATE items SET value = 0 WHERE id = 77"), 0);
    EXPECT_EQ(*transaction.Run("INSERT INTO items (id, value) VALUES (1, 5) ON CONFLICT (id) DO NOTHING"), 0);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ReadInt(*database_, "SELECT SUM(value) FROM items"), 32);
}

TEST_F(PostgresDatabaseTest, MarksCommitsThatChangedSomethingForAWhile) {
  const auto marks = [&] { return ReadInt(*database_, "SELECT COUNT(*) FROM commit_marks"); };
  const int64_t before = marks();
  ASSERT_TRUE(RunOne(*database_, "UPDATE items SET value = 0 WHERE id = 77").ok());
  ASSERT_TRUE(RunOne(*database_, "SELECT 1").ok());
  EXPECT_EQ(marks(), before);
  ASSERT_TRUE(Put(*database_, 1, 10).ok());
  EXPECT_EQ(marks(), before + 1);
  // Two hours old, and one that may still be asked for.
  ASSERT_TRUE(Psql("INSERT INTO commit_marks SELECT made_ms - 7200000, id, 1 FROM commit_marks").ok());
  options_.clock_interval_ms = 50;
  const auto other = OpenDatabase(uri_, options_);
  for (int i = 0; i < 1000 && marks() != before + 1; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(marks(), before + 1);
}

TEST_F(PostgresDatabaseTest, RollsBackWhatABodyRefusesAndWhatFailed) {
  const absl::Status refused = database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    EXPECT_TRUE(transaction.Run("INSERT INTO items (id, value) VALUES (1, 1)").ok());
    return NotFound("JOB_NOT_FOUND", "no");
  });
  EXPECT_EQ(ReasonOf(refused), "JOB_NOT_FOUND");
  const absl::Status swallowed = database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    EXPECT_TRUE(transaction.Run("INSERT INTO items (id, value) VALUES (2, 1)").ok());
    EXPECT_FALSE(transaction.Run("INSERT INTO items (id, value) VALUES (2, 1)").ok());
    EXPECT_FALSE(transaction.Run("INSERT INTO items (id, value) VALUES (3, 1)").ok()) << "nothing works after an error";
    return absl::OkStatus();
  });
  EXPECT_EQ(ReasonOf(swallowed), "STORE_CONSTRAINT");
  EXPECT_THAT(MessageOf(swallowed), HasSubstr("items_pkey"));
  EXPECT_THAT(MessageOf(swallowed), HasSubstr("postgresql://qamserve_test@"));
  EXPECT_EQ(ReadInt(*database_, "SELECT COUNT(*) FROM items"), 0);
  EXPECT_EQ(observer_->retries(), 0);
}

TEST_F(PostgresDatabaseTest, TellsEnginesErrorsApart) {
  for (const auto& [sqlstate, reason] : std::map<std::string, std::string>{{"53100", "DISK_FULL"},
                                                                           {"XX001", "STORE_CORRUPT"},
                                                                           {"42501", "STORE_CREDENTIALS"},
                                                                           {"25006", "STORE_READ_ONLY"},
                                                                           {"58030", "STORE_UNAVAILABLE"}}) {
    const std::string sql = "DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '" + sqlstate + "'; END $$";
    const absl::Status status = RunOne(*database_, sql.c_str());
    EXPECT_EQ(ReasonOf(status), reason);
    EXPECT_THAT(MessageOf(status), HasSubstr("planted (SQLSTATE " + sqlstate + ")"));
  }
  EXPECT_EQ(observer_->retries(), 0) << "none of them goes away by itself";
}

TEST_F(PostgresDatabaseTest, TriesAgainAfterConflictsUntilItsTimeIsOver) {
  int runs = 0;
  const absl::Status status = database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ++runs;
    const char* sql = runs < 4 ? "DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '40001'; END $$" : "SELECT 1";
    return transaction.Run(sql).status();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(runs, 4);
  EXPECT_EQ(observer_->retries(), 3);

  PostgresOptions impatient = options_;
  impatient.retry_ms = 100;
  const auto other = OpenDatabase(uri_, impatient);
  EXPECT_EQ(ReasonOf(RunOne(*other, "DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '40001'; END $$")),
            "STORE_CONFLICT");
}

TEST_F(PostgresDatabaseTest, EndsDeadlocks) {
  ASSERT_TRUE(Put(*database_, 1, 0).ok());
  ASSERT_TRUE(Put(*database_, 2, 0).ok());
  std::atomic<int> holding{0};
  std::vector<std::thread> threads;
  for (const int64_t first : {1, 2}) {
    threads.emplace_back([&, first] {
      const absl::Status status = database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
        RETURN_IF_ERROR(transaction.Run("UPDATE items SET value = value + 1 WHERE id = $1", {first}).status());
        // Each has the row that the other one wants; the second time, one of them has had both.
        for (++holding; holding < 2;) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return transaction.Run("UPDATE items SET value = value + 1 WHERE id = $1", {3 - first}).status();
      });
      EXPECT_TRUE(status.ok()) << status;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ReadInt(*database_, "SELECT SUM(value) FROM items"), 4);
  EXPECT_GE(observer_->retries(), 1);
}

TEST_F(PostgresDatabaseTest, ReadsOneMoment) {
  ASSERT_TRUE(Put(*database_, 1, 10).ok());
  const absl::Status status = database_->Read([&](SqlTransaction& transaction) -> absl::Status {
    int64_t count = 0;
    const auto read = [&](SqlRow& row) { count = row.Int(); };
    RETURN_IF_ERROR(transaction.Query("SELECT COUNT(*) FROM items", {}, read));
    EXPECT_EQ(count, 1);
    EXPECT_TRUE(Put(*database_, 2, 20).ok());
    RETURN_IF_ERROR(transaction.Query("SELECT COUNT(*) FROM items", {}, read));
    EXPECT_EQ(count, 1) << "what was committed meanwhile is not seen";
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ReasonOf(database_->Read(
                [](SqlTransaction& transaction) { return transaction.Run("DELETE FROM items").status(); })),
            "STORE_READ_ONLY");
  EXPECT_EQ(ReadInt(*database_, "SELECT COUNT(*) FROM items"), 2);
}

TEST_F(PostgresDatabaseTest, HandsOnManyRowsInOrder) {
  int64_t expected = 0;
  const absl::Status status = database_->Read([&](SqlTransaction& transaction) {
    expected = 0;
    return transaction.Query("SELECT n FROM generate_series(0, 19999) AS n ORDER BY n", {},
                             [&](SqlRow& row) { EXPECT_EQ(row.Int(), expected++); });
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(expected, 20000);
}

TEST_F(PostgresDatabaseTest, PreparesAnewWhenTheSchemaChanges) {
  options_.max_connections = 1;  // so that it is the same session throughout
  const auto database = OpenDatabase(uri_, options_);
  ASSERT_TRUE(Put(*database, 1, 10).ok());
  // More often than it takes the server to settle on a plan.
  for (int i = 0; i < 10; ++i) EXPECT_EQ(ReadInt(*database, "SELECT * FROM items"), 1);
  ASSERT_TRUE(Psql("ALTER TABLE items ADD COLUMN later BIGINT NOT NULL DEFAULT 7").ok());
  EXPECT_EQ(ReadInt(*database, "SELECT * FROM items"), 1);
  EXPECT_GE(observer_->retries(), 1);
}

TEST_F(PostgresDatabaseTest, SharesFewConnectionsAmongManyThreads) {
  PostgresOptions small = options_;
  small.max_connections = 2;
  small.application_name = "few";
  const auto database = OpenDatabase(uri_, small);
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) EXPECT_TRUE(Put(*database, 100 * t + i, i).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ReadInt(*database_, "SELECT COUNT(*) FROM items"), 200);
  // Two for transactions and one that listens.
  const int64_t open = ReadInt(*database_, "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'few'");
  EXPECT_GE(open, 1);
  EXPECT_LE(open, 3);
}

TEST_F(PostgresDatabaseTest, SaysWhenAllConnectionsStayInUse) {
  PostgresOptions small = options_;
  small.max_connections = 1;
  small.retry_ms = 300;
  const auto database = OpenDatabase(uri_, small);
  const absl::Status outer = database->Transact([&](SqlTransaction&) { return Put(*database, 1, 1); });
  EXPECT_EQ(ReasonOf(outer), "STORE_UNAVAILABLE");
  EXPECT_THAT(MessageOf(outer), HasSubstr("all 1 connections"));
}

// --- What is wrong from the start ---

absl::Status OpenError(const std::string& uri, int64_t retry_ms = 20'000) {
  PostgresOptions options;
  options.retry_ms = retry_ms;
  return PostgresDatabase::Open(uri, options).status();
}

TEST_F(PostgresDatabaseTest, NamesWrongCredentialsAtOnceAndKeepsThePasswordToItself) {
  const PostgresServer& server = PostgresEnvironment::server();
  for (const std::string& uri : {server.Uri(DatabaseOf(uri_), PostgresServer::kUser, "open sesame"),
                                 server.Uri(DatabaseOf(uri_), PostgresServer::kUser, ""),
                                 server.Uri(DatabaseOf(uri_), "stranger", "open sesame")}) {
    const auto start = std::chrono::steady_clock::now();
    const absl::Status status = OpenError(uri);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_EQ(ReasonOf(status), "STORE_CREDENTIALS");
    EXPECT_THAT(MessageOf(status), Not(HasSubstr("sesame")));
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10)) << "it was not tried again";
  }
}

TEST_F(PostgresDatabaseTest, NamesAMissingDatabase) {
  const absl::Status status = OpenError(PostgresEnvironment::server().Uri("nowhere"));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(ReasonOf(status), "STORE_MISSING");
  EXPECT_THAT(MessageOf(status), HasSubstr("nowhere"));
}

TEST_F(PostgresDatabaseTest, RefusesAnotherEncoding) {
  ASSERT_TRUE(Psql("CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'").ok());
  const absl::Status status = OpenError(PostgresEnvironment::server().Uri("latin1"));
  EXPECT_EQ(ReasonOf(status), "STORE_ENCODING");
  EXPECT_THAT(MessageOf(status), HasSubstr("LATIN1"));
}

TEST_F(PostgresDatabaseTest, GivesUpOnAServerThatIsNotThere) {
  const absl::Status status = OpenError("postgresql:///db?host=/nonexistent", 200);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ReasonOf(status), "STORE_UNAVAILABLE");
}

TEST_F(PostgresDatabaseTest, GoesPastHostsThatAreNotThere) {
  std::string uri = uri_;
  uri.replace(uri.find("host=") + 5, 0, "/nonexistent,");
  const auto database = OpenDatabase(uri, options_);
  ASSERT_NE(database, nullptr);
  EXPECT_TRUE(Put(*database, 1, 1).ok());
}

TEST_F(PostgresDatabaseTest, NamesADatabaseThatMayOnlyBeRead) {
  ASSERT_TRUE(Put(*database_, 1, 1).ok());
  ASSERT_TRUE(Psql("ALTER DATABASE " + DatabaseOf(uri_) + " SET default_transaction_read_only = on").ok());
  const auto database = OpenDatabase(uri_, options_);
  ASSERT_NE(database, nullptr);
  EXPECT_EQ(ReadInt(*database, "SELECT COUNT(*) FROM items"), 1);
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = Put(*database, 2, 2);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(ReasonOf(status), "STORE_READ_ONLY");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST_F(PostgresDatabaseTest, WritesAgainOnceTheDatabaseMayBeWritten) {
  const PostgresServer& server = PostgresEnvironment::server();
  const std::string alter = "ALTER DATABASE " + DatabaseOf(uri_);
  // Two hours old.
  ASSERT_TRUE(RunOne(*database_,
                     "INSERT INTO commit_marks SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
                     " - 7200000, 1, 1")
                  .ok());
  database_.reset();
  ASSERT_TRUE(server.Psql("postgres", alter + " SET default_transaction_read_only = on").ok());
  // Its sessions keep the setting of their beginning.
  options_.clock_interval_ms = 50;
  database_ = OpenDatabase(uri_, options_);
  ASSERT_NE(database_, nullptr);
  ASSERT_EQ(ReasonOf(Put(*database_, 1, 1)), "STORE_READ_ONLY");
  ASSERT_TRUE(server.Psql("postgres", alter + " RESET default_transaction_read_only").ok());
  // Each session finds out for itself.
  absl::Status status = Put(*database_, 1, 1);
  for (int i = 0; i < options_.max_connections && !status.ok(); ++i) status = Put(*database_, 1, 1);
  EXPECT_TRUE(status.ok()) << status;
  const auto old_marks = [&] { return ReadInt(*database_, "SELECT COUNT(*) FROM commit_marks WHERE id = 1"); };
  for (int i = 0; i < 1000 && old_marks() > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(old_marks(), 0) << "the session that listens is still one that can only read";
}

// --- The clock ---

TEST_F(PostgresDatabaseTest, TellsTheServersTime) {
  int64_t server_ms = 0;
  const int64_t before_ms = database_->NowMs();
  server_ms = ReadInt(*database_, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT");
  const int64_t after_ms = database_->NowMs();
  // Known to half a round trip, taken here when the machine may have been busy.
  EXPECT_GE(server_ms, before_ms - 200);
  EXPECT_LE(server_ms, after_ms + 200);
}

// --- Events ---

TEST_F(PostgresDatabaseTest, TellsWhatWasCommittedToAllProcesses) {
  const auto other = OpenDatabase(uri_, options_);
  Collector<StoreEvent> here, there;
  const auto hold_here = database_->Listen([&](const StoreEvent& event) { here.Add(event); });
  const auto hold_there = other->Listen([&](const StoreEvent& event) { there.Add(event); });
  // Whoever has just connected may miss what was told before: until the first one arrives.
  const auto tell = [&](const std::string& id, bool commit) {
    return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
      transaction.Tell({.kind = StoreEvent::Kind::kJob, .id = id});
      return commit ? absl::OkStatus() : Cancelled("NO", "no");
    });
  };
  bool heard = false;
  for (int i = 0; i < 100 && !heard; ++i) {
    ASSERT_TRUE(tell("first", true).ok());
    heard = Await(there, StoreEvent::Kind::kJob, "first", absl::Milliseconds(200));
  }
  ASSERT_TRUE(heard);
  EXPECT_FALSE(tell("rolled back", false).ok());
  ASSERT_TRUE(tell("last", true).ok());
  EXPECT_TRUE(Await(here, StoreEvent::Kind::kJob, "last"));
  EXPECT_TRUE(Await(there, StoreEvent::Kind::kJob, "last"));
  for (const Collector<StoreEvent>* events : {&here, &there}) {
    for (const StoreEvent& event : events->items()) EXPECT_NE(event.id, "rolled back");
  }
}

TEST_F(PostgresDatabaseTest, TellsThatEventsMayBeLostWhenItsConnectionWas) {
  Collector<StoreEvent> events;
  const auto hold = database_->Listen([&](const StoreEvent& event) { events.Add(event); });
  // By what it says last, as no other connection does: that it listens, how late it is, or that old marks may go.
  const std::string kill =
      "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND"
      " pid <> pg_backend_pid() AND (query LIKE 'LISTEN%' OR query LIKE 'SELECT (extract(epoch FROM clock_timestamp%' "
      "OR"
      " query LIKE 'DELETE FROM commit_marks%')";
  // It may not have connected yet.
  for (int i = 0; i < 1000 && Psql(kill).value_or("0") != "1"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(Await(events, StoreEvent::Kind::kMissed));
  EXPECT_TRUE(observer_->reconnects.WaitFor([](int) { return true; }));
  // It hears again.
  const auto other = OpenDatabase(uri_, options_);
  bool heard = false;
  for (int i = 0; i < 100 && !heard; ++i) {
    ASSERT_TRUE(other
                    ->Transact([](SqlTransaction& transaction) -> absl::Status {
                      transaction.Tell({.kind = StoreEvent::Kind::kWork, .id = ""});
                      return absl::OkStatus();
                    })
                    .ok());
    heard = Await(events, StoreEvent::Kind::kWork, "", absl::Milliseconds(200));
  }
  EXPECT_TRUE(heard);
}

TEST_F(PostgresDatabaseTest, WorksThroughAPoolerAndLooksForChangesThere) {
  SKIP_WITHOUT(PostgresPooler::Missing());
  const auto pooler = PostgresPooler::Start(PostgresEnvironment::server());
  ASSERT_TRUE(pooler.ok()) << pooler.status();
  const std::string uri = (*pooler)->Through(uri_);
  const auto first = OpenDatabase(uri, options_);
  const auto second = OpenDatabase(uri, options_);
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        const absl::Status status = Put(t % 2 == 0 ? *first : *second, 100 * t + i, i);
        EXPECT_TRUE(status.ok()) << status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ReadInt(*second, "SELECT COUNT(*) FROM items"), 100);
  EXPECT_TRUE(
      warnings_.WaitFor([](const std::string& text) { return text.find("looked for every 200 ms") != text.npos; }));
  Collector<StoreEvent> events;
  const auto hold = first->Listen([&](const StoreEvent& event) { events.Add(event); });
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Await(events, StoreEvent::Kind::kMissed));
  // Its locks hold as well.
  int inside = 0;
  const auto body = [&]() -> absl::Status {
    EXPECT_EQ(++inside, 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    --inside;
    return absl::OkStatus();
  };
  std::thread thread([&] { EXPECT_TRUE(first->Exclusive("name", body).ok()); });
  EXPECT_TRUE(second->Exclusive("name", body).ok());
  thread.join();
}

TEST_F(PostgresDatabaseTest, AConnectionThatIsGivenUpSinceNothingIsHeardIsNotLost) {
  SKIP_WITHOUT(PostgresPooler::Missing());
  const auto pooler = PostgresPooler::Start(PostgresEnvironment::server());
  ASSERT_TRUE(pooler.ok()) << pooler.status();
  options_.listen_check_ms = 50;
  const auto deaf = OpenDatabase((*pooler)->Through(uri_), options_);
  ASSERT_NE(deaf, nullptr);
  EXPECT_TRUE(
      warnings_.WaitFor([](const std::string& text) { return text.find("looked for every 200 ms") != text.npos; }));
  // What connects from now on listens, but for the one that pings go over if that is late.
  const int enough = (*pooler)->Logins() + 3;
  for (int i = 0; i < 3000 && (*pooler)->Logins() < enough; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GE((*pooler)->Logins(), enough) << "it has not tried other connections";
  EXPECT_THAT(observer_->reconnects.items(), IsEmpty());
}

// --- Exclusive ---

TEST_F(PostgresDatabaseTest, RunsOneBodyOfANameAtATime) {
  const auto other = OpenDatabase(uri_, options_);
  std::atomic<int> inside{0};
  int runs = 0;
  std::vector<std::thread> threads;
  threads.reserve(6);
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) {
        const absl::Status status = (t % 2 == 0 ? *database_ : *other).Exclusive("name", [&]() -> absl::Status {
          EXPECT_EQ(++inside, 1);
          ++runs;
          std::this_thread::sleep_for(std::chrono::milliseconds(2));
          --inside;
          return absl::OkStatus();
        });
        EXPECT_TRUE(status.ok()) << status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(runs, 30);
}

TEST_F(PostgresDatabaseTest, OtherNamesGoOnAndErrorsComeBack) {
  const auto other = OpenDatabase(uri_, options_);
  const absl::Status status = database_->Exclusive("a", [&] {
    EXPECT_TRUE(other->Exclusive("b", [] { return absl::OkStatus(); }).ok());
    EXPECT_TRUE(Put(*database_, 1, 1).ok());
    return NotFound("JOB_NOT_FOUND", "no");
  });
  EXPECT_EQ(ReasonOf(status), "JOB_NOT_FOUND");
  EXPECT_THAT(LockCodes(), ElementsAre(absl::StatusCode::kOk, absl::StatusCode::kOk)) << "the body failed, no lock did";
}

TEST_F(PostgresDatabaseTest, WaitsForALockOnlySoLong) {
  PostgresOptions impatient = options_;
  impatient.exclusive_wait_ms = 300;
  impatient.lock_timeout_ms = 100;
  const auto other = OpenDatabase(uri_, impatient);
  EXPECT_TRUE(database_
                  ->Exclusive("name",
                              [&] {
                                const absl::Status status = other->Exclusive("name", [] {
                                  ADD_FAILURE() << "the lock is held";
                                  return absl::OkStatus();
                                });
                                EXPECT_TRUE(absl::IsUnavailable(status)) << status;
                                EXPECT_THAT(MessageOf(status), HasSubstr("'name'"));
                                return absl::OkStatus();
                              })
                  .ok());
  EXPECT_THAT(LockCodes(), ElementsAre(absl::StatusCode::kUnavailable, absl::StatusCode::kOk));
}

TEST_F(PostgresDatabaseTest, KeepsALockThroughSilence) {
  options_.idle_in_transaction_timeout_ms = 2'000;
  const auto database = OpenDatabase(uri_, options_);
  const absl::Status status = database->Exclusive("name", [] {
    std::this_thread::sleep_for(std::chrono::milliseconds(3'000));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(PostgresDatabaseTest, SaysWhenALockIsLost) {
  // Found by its lock, which is the only one of its kind here.
  const std::string kill =
      "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_locks JOIN pg_database ON oid = database"
      " WHERE locktype = 'advisory' AND datname = current_database()";
  const absl::Status status = database_->Exclusive("name", [&] {
    EXPECT_EQ(Psql(kill).value_or(""), "1");
    return absl::OkStatus();
  });
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_EQ(ReasonOf(status), "LOCK_LOST");
  const absl::Status own = database_->Exclusive("name", [&] {
    EXPECT_EQ(Psql(kill).value_or(""), "1");
    return NotFound("JOB_NOT_FOUND", "no");
  });
  EXPECT_EQ(ReasonOf(own), "JOB_NOT_FOUND") << "what went wrong in the body says more";
  EXPECT_THAT(LockCodes(), ElementsAre(absl::StatusCode::kAborted, absl::StatusCode::kAborted));
  EXPECT_TRUE(database_->Exclusive("name", [] { return absl::OkStatus(); }).ok());
}

}  // namespace
}  // namespace qamserve
