#include "server/store/metadata_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <sstream>

#include "core/base/file.h"
#include "server/store/request_ids.h"
#include "server/store/sql_backup.h"
#include "server/store/sqlite_database.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/store/metadata_store_contract.h"

namespace qamserve {
namespace {

struct SqliteFactory {
  static constexpr bool kShared = false;
  static SqlSchema Schema() { return SqliteSchema(); }
  static std::unique_ptr<SqlDatabase> Database(const std::string& path) {
    auto database = SqliteDatabase::Open(path);
    EXPECT_TRUE(database.ok()) << database.status();
    return database.ok() ? *std::move(database) : nullptr;
  }
  static std::unique_ptr<MetadataStore> Open(const std::string& path) {
    auto store = OpenSqliteMetadataStore(path);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
};
INSTANTIATE_METADATA_STORE_CONTRACT(Sqlite, SqliteFactory);

// Runs statements one after the other, in one transaction.
absl::Status RunAll(SqlDatabase& database, const std::vector<const char*>& statements) {
  return database.Transact([&](SqlTransaction& transaction) -> absl::Status {
    for (const char* sql : statements) RETURN_IF_ERROR(transaction.Run(sql).status());
    return absl::OkStatus();
  });
}

TEST(SqliteMetadataStoreTest, RefusesAFileOfANewerProgramThatPromisesNothing) {
  TempDir dir;
  ASSERT_TRUE(OpenSqliteMetadataStore(dir / "meta").ok());
  {
    const auto database = SqliteFactory::Database(dir / "meta");
    ASSERT_TRUE(RunAll(*database, {"INSERT INTO schema_migrations (version, applied_ms) VALUES (999, 0)"}).ok());
  }
  EXPECT_EQ(ReasonOf(OpenSqliteMetadataStore(dir / "meta").status()), "STORE_VERSION");
}

// Files of every version that was ever published are brought up to date with their rows.
TEST(SqliteMetadataStoreTest, BringsOlderFilesUpToDate) {
  const SqlSchema full = SqliteSchema();
  for (size_t version = 1; version < full.steps.size(); ++version) {
    SCOPED_TRACE(version);
    TempDir dir;
    {
      SqlSchema older = full;
      older.steps = full.steps.first(version);
      const auto database = SqliteFactory::Database(dir / "meta");
      ASSERT_TRUE(PrepareSchema(*database, older, SchemaPolicy::kMigrate).ok());
      ASSERT_TRUE(
          RunAll(*database,
                 {"INSERT INTO served_models (name, source, context_tokens, created_ms) VALUES ('m', 's', 1, 2)",
                  "INSERT INTO jobs (id, kind, state, key, display_name, checkpoint, artifact, spec_json,"
                  " estimate_json, quality_json, load_as, pool, priority, error_reason, error_message, error_code,"
                  " created_ms, started_ms, ended_ms, version) VALUES ('j', 1, 1, 'k', '', 'c', '', '{}', '{}', '',"
                  " '', 'cpu', 0, '', '', 0, 1, 0, 0, 1)",
                  "INSERT INTO tasks (job, position, stage, state, name, spec_json, cost, weights, attempts,"
                  " not_before_ms, worker, lease_id, lease_expires_ms, outcome_json, done_sequence, seconds,"
                  " error_reason, error_message, error_code, version) VALUES ('j', 0, 1, 1, 't', '{}', 1, 0, 0, 0,"
                  " '', 0, 0, '', 0, 0, '', '', 0, 1)"})
              .ok());
      EXPECT_EQ(ReadSchema(*database, full)->version, static_cast<int32_t>(version));
    }
    SqliteOptions refuse;
    refuse.schema = SchemaPolicy::kRefuse;
    EXPECT_EQ(ReasonOf(OpenSqliteMetadataStore(dir / "meta", refuse).status()), "STORE_NEEDS_MIGRATION");
    const auto store = OpenSqliteMetadataStore(dir / "meta");
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->ListServedModels()->at(0).replicas, 1);
    EXPECT_EQ((*store)->GetJob("j")->codec_version, "");
    const auto task = (*store)->LeaseTask("w", {.pools = {"cpu"}, .codec_version = "any"}, 0, 50);
    ASSERT_TRUE(task.ok()) << task.status();
    ASSERT_TRUE(task->has_value());
    EXPECT_EQ((*task)->lapses, 0);
    EXPECT_TRUE((*store)->PutAlias({.name = "p", .targets = {{"m", 1}}}).ok());
    EXPECT_TRUE((*store)->InsertKey({.id = "k", .digest = "d"}).ok());
    EXPECT_TRUE((*store)->PutInstance(SomeInstance("i")).ok());
    EXPECT_EQ((*store)->Schema()->version, full.program_version());
  }
}

TEST(SqliteMetadataStoreTest, RefusesAFileThatIsNoDatabase) {
  TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir / "meta", std::string(5000, 'x')).ok());
  EXPECT_EQ(ReasonOf(OpenSqliteMetadataStore(dir / "meta").status()), "STORE_CORRUPT");
}

// A backup has every column of every table but those of processes and of the schema itself.
TEST(SqliteMetadataStoreTest, ABackupHasEveryColumn) {
  TempDir dir;
  ASSERT_TRUE(OpenSqliteMetadataStore(dir / "meta").ok());
  std::vector<std::string> stored;
  const auto database = SqliteFactory::Database(dir / "meta");
  ASSERT_TRUE(database
                  ->Read([&](SqlTransaction& transaction) {
                    return transaction.Query(
                        "SELECT t.name || '.' || c.name FROM sqlite_master t, pragma_table_info(t.name) c"
                        " WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
                        " AND t.name NOT IN ('schema_migrations', 'instances', 'replicas')",
                        {}, [&](SqlRow& row) { stored.push_back(row.Text()); });
                  })
                  .ok());
  std::vector<std::string> in_backup;
  for (const BackupTable& table : BackupTables()) {
    std::istringstream columns(std::string(table.texts) + " " + table.integers + " " + table.reals);
    for (std::string column; columns >> column;) in_backup.push_back(std::string(table.name) + "." + column);
  }
  EXPECT_THAT(in_backup, testing::UnorderedElementsAreArray(stored));
}

// A file that may not be written, by a user who is not root.
TEST(SqliteMetadataStoreTest, RefusesAFileThatMayNotBeWritten) {
  TempDir dir;
  ASSERT_TRUE(OpenSqliteMetadataStore(dir / "meta").ok());
  ASSERT_EQ(::chmod((dir / "meta").c_str(), 0444), 0);
  ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
  const auto open = [&] {
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(2);
    const absl::Status status = OpenSqliteMetadataStore(dir / "meta").status();
    ::_exit(ReasonOf(status) == "STORE_READ_ONLY" && absl::IsFailedPrecondition(status) ? 0 : 1);
  };
  EXPECT_EXIT(open(), testing::ExitedWithCode(0), "");
}

TEST(SqliteDatabaseTest, SaysWhatIsWrong) {
  TempDir dir;
  const auto database = SqliteFactory::Database(dir / "meta");
  ASSERT_TRUE(RunAll(*database, {"CREATE TABLE t (a TEXT PRIMARY KEY, b BIGINT)"}).ok());
  const auto run = [&](const char* sql, std::initializer_list<SqlValue> values) {
    return database->Transact([&](SqlTransaction& transaction) { return transaction.Run(sql, values).status(); });
  };
  ASSERT_TRUE(run("INSERT INTO t (b, a) VALUES ($2, $1)", {"x", 7}).ok()) << "parameters go by their numbers";
  EXPECT_EQ(ReasonOf(run("INSERT INTO t (a, b) VALUES ($1, $1)", {"x"})), "STORE_CONSTRAINT");
  EXPECT_EQ(ReasonOf(run("INSERT INTO t (a, b) VALUES ($1, $2)", {"y"})), "STORE_STATEMENT");
  EXPECT_EQ(ReasonOf(run("INSERT INTO t (a) VALUES ($1)", {"y", 1})), "STORE_STATEMENT");
  EXPECT_EQ(ReasonOf(run("DELETE FROM t; DELETE FROM t", {})), "STORE_STATEMENT");
  EXPECT_EQ(ReasonOf(run("DELETE FROM u", {})), "STORE_UNAVAILABLE");
  // Reading connections cannot write, by mistake or otherwise.
  const absl::Status status =
      database->Read([&](SqlTransaction& transaction) { return transaction.Run("DELETE FROM t").status(); });
  EXPECT_EQ(ReasonOf(status), "STORE_READ_ONLY");
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  int64_t rows = 0;
  ASSERT_TRUE(database
                  ->Read([&](SqlTransaction& transaction) {
                    return transaction.Query("SELECT b FROM t WHERE a = $1 AND $1 = a", {"x"},
                                             [&](SqlRow& row) { rows += row.Int(); });
                  })
                  .ok());
  EXPECT_EQ(rows, 7);
}

TEST(SqliteDatabaseTest, ReadsOneSnapshotWhileOthersWrite) {
  TempDir dir;
  const auto database = SqliteFactory::Database(dir / "meta");
  ASSERT_TRUE(RunAll(*database, {"CREATE TABLE t (a INTEGER)", "INSERT INTO t (a) VALUES (1)"}).ok());
  const auto count = [](SqlTransaction& transaction) {
    int64_t rows = 0;
    EXPECT_TRUE(transaction.Query("SELECT COUNT(*) FROM t", {}, [&](SqlRow& row) { rows = row.Int(); }).ok());
    return rows;
  };
  ASSERT_TRUE(database
                  ->Read([&](SqlTransaction& transaction) {
                    EXPECT_EQ(count(transaction), 1);
                    EXPECT_TRUE(RunAll(*database, {"INSERT INTO t (a) VALUES (2)"}).ok()) << "a read holds up nobody";
                    EXPECT_EQ(count(transaction), 1);
                    return absl::OkStatus();
                  })
                  .ok());
  ASSERT_TRUE(database
                  ->Read([&](SqlTransaction& transaction) {
                    EXPECT_EQ(count(transaction), 2);
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST(SqliteDatabaseTest, TellsAnObserverOfItsTransactions) {
  struct Observer : StoreObserver {
    void OnTransaction(const Transaction& transaction) override {
      absl::MutexLock lock(&mutex);
      seen.push_back(transaction);
    }
    absl::Mutex mutex;
    std::vector<Transaction> seen;
  };
  using Kind = StoreObserver::Transaction::Kind;
  TempDir dir;
  const auto observer = std::make_shared<Observer>();
  const auto database = SqliteDatabase::Open(dir / "meta", observer);
  ASSERT_TRUE(database.ok()) << database.status();
  ASSERT_TRUE(RunAll(**database, {"CREATE TABLE t (a INTEGER)"}).ok());
  EXPECT_FALSE(RunAll(**database, {"CREATE TABLE t (a INTEGER)"}).ok());
  ASSERT_TRUE((*database)->Read([](SqlTransaction&) { return absl::OkStatus(); }).ok());
  ASSERT_TRUE((*database)->Exclusive("a", [] { return absl::OkStatus(); }).ok());
  // What a body refuses is no error of the store's.
  const absl::Status refused = (*database)->Exclusive("a", [] { return absl::FailedPreconditionError("not now"); });
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  absl::MutexLock lock(&observer->mutex);
  ASSERT_EQ(observer->seen.size(), 5u);
  EXPECT_EQ(observer->seen[0].kind, Kind::kWrite);
  EXPECT_EQ(observer->seen[0].code, absl::StatusCode::kOk);
  EXPECT_GT(observer->seen[0].seconds, 0);
  EXPECT_EQ(observer->seen[1].code, absl::StatusCode::kUnavailable);
  EXPECT_EQ(observer->seen[2].kind, Kind::kRead);
  EXPECT_EQ(observer->seen[3].kind, Kind::kExclusive);
  EXPECT_EQ(observer->seen[4].kind, Kind::kExclusive);
  EXPECT_EQ(observer->seen[4].code, absl::StatusCode::kOk);
}

// 1,000 queued jobs of 60 tasks: a lease looks at few of them.
TEST(SqliteMetadataStoreTest, LeasesQuicklyFromALongQueue) {
  TempDir dir;
  auto store = OpenSqliteMetadataStore(dir / "meta");
  ASSERT_TRUE(store.ok()) << store.status();
  {
    const auto database = SqliteFactory::Database(dir / "meta");
    ASSERT_TRUE(
        RunAll(*database,
               {"WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999)"
                " INSERT INTO jobs (id, kind, state, key, display_name, checkpoint, artifact, spec_json,"
                " estimate_json, quality_json, load_as, pool, priority, error_reason, error_message, error_code,"
                " created_ms, started_ms, ended_ms, version) SELECT 'job' || i, 1, 1, 'key' || i, '', 'c', '',"
                " hex(zeroblob(2000)), '{}', '', '', 'cpu', 0, '', '', 0, i, 0, 0, 1 FROM n",
                "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 59)"
                " INSERT INTO tasks (job, position, stage, state, name, spec_json, cost, weights, attempts,"
                " not_before_ms, worker, lease_id, lease_expires_ms, outcome_json, done_sequence, seconds,"
                " error_reason, error_message, error_code, version) SELECT j.id, n.i, MIN(n.i, 1), 1, 't', '{}', 1, 0,"
                " 0, 0, '', 0, 0, '', 0, 0, '', '', 0, 1 FROM jobs j, n"})
            .ok());
  }
  // Processor time of this thread, which the load of the machine does not change.
  const auto now_ms = [] {
    timespec time{};
    EXPECT_EQ(::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), 0);
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
  };
  const double begin = now_ms();
  constexpr int kLeases = 100;
  for (int i = 0; i < kLeases; ++i) {
    const auto task = (*store)->LeaseTask("w", {.pools = {"cpu"}}, 1, 50);
    ASSERT_TRUE(task.ok()) << task.status();
    ASSERT_TRUE(task->has_value());
    // Every job's first task has to be done before its others.
    EXPECT_EQ((*task)->index, 0);
  }
  const double lease_ms = (now_ms() - begin) / kLeases;
  RecordProperty("lease_ms", std::to_string(lease_ms));
  // Reading the tasks of all jobs would take 40 ms.
  EXPECT_LT(lease_ms, 20);
}

TEST(RunOnceTest, RunsOnceAndRefusesReuse) {
  TempDir dir;
  auto store = OpenSqliteMetadataStore(dir / "meta");
  int runs = 0;
  auto action = [&]() -> absl::StatusOr<std::string> { return "jobs/" + std::to_string(++runs); };
  auto failing = []() -> absl::StatusOr<std::string> { return Unavailable("NOT_NOW", "later"); };
  EXPECT_EQ(ReasonOf(RunOnce(**store, "id-1", "Create", "payload", 0, failing).status()), "NOT_NOW");
  EXPECT_EQ(*RunOnce(**store, "id-1", "Create", "payload", 0, action), "jobs/1");
  EXPECT_EQ(*RunOnce(**store, "id-1", "Create", "payload", 0, action), "jobs/1");
  EXPECT_EQ(ReasonOf(RunOnce(**store, "id-1", "Create", "other", 0, action).status()), "REQUEST_ID_REUSED");
  EXPECT_EQ(ReasonOf(RunOnce(**store, "id-1", "Delete", "payload", 0, action).status()), "REQUEST_ID_REUSED");
  EXPECT_EQ(*RunOnce(**store, "", "Create", "payload", 0, action), "jobs/2");
  EXPECT_EQ(ReasonOf(RunOnce(**store, std::string(65, 'a'), "Create", "p", 0, action).status()), "REQUEST_ID");
  EXPECT_EQ(ReasonOf(RunOnce(**store, "a b", "Create", "p", 0, action).status()), "REQUEST_ID");
  EXPECT_EQ(runs, 2);
}

TEST(ResourceNameTest, ParsesOnlyItsOwnForm) {
  EXPECT_EQ(*ParseResourceName("jobs", "jobs/ab-1"), "ab-1");
  for (const char* bad : {"", "jobs", "jobs/", "job/ab", "jobs/a/b", "artifacts/ab", "jobs/a b", "jobs/../x"}) {
    EXPECT_EQ(ReasonOf(ParseResourceName("jobs", bad).status()), "RESOURCE_NAME") << bad;
  }
}

}  // namespace
}  // namespace qamserve
