// The contract of every metadata store on PostgreSQL, and how its queue is read there.
#include "server/store/postgres_metadata_store.h"

#include <atomic>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "tests/server/store/metadata_store_contract.h"
#include "tests/server/store/postgres_environment.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

struct PostgresFactory {
  static constexpr bool kShared = true;
  static SqlSchema Schema() { return PostgresSchema(); }
  // A database for each path, made when it is first asked for.
  static std::string UriOf(const std::string& path) {
    std::string& uri = uris_[path];
    if (uri.empty()) uri = NewDatabase();
    return uri;
  }
  static std::unique_ptr<MetadataStore> Open(const std::string& path) {
    auto store = OpenPostgresMetadataStore(UriOf(path));
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  static std::unique_ptr<SqlDatabase> Database(const std::string& path) { return OpenDatabase(UriOf(path)); }

 private:
  static inline std::map<std::string, std::string> uris_;
};
INSTANTIATE_METADATA_STORE_CONTRACT(Postgres, PostgresFactory);

class PostgresQueueTest : public testing::Test {
 protected:
  void SetUp() override {
    uri_ = NewDatabase();
    store_ = Open();
    ASSERT_NE(store_, nullptr);
  }
  std::unique_ptr<MetadataStore> Open() const {
    auto store = OpenPostgresMetadataStore(uri_);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  std::string Psql(const std::string& sql) const {
    const auto text = PostgresEnvironment::server().Psql(DatabaseOf(uri_), sql);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.value_or("");
  }
  // Jobs of `tasks` tasks in three stages: the first, the last and those between.
  void Insert(int jobs, int tasks) const {
    for (int j = 0; j < jobs; ++j) {
      JobRecord job = SomeJob("job " + std::to_string(j), j % 3);
      job.project = "project " + std::to_string(j % 5);
      std::vector<TaskRecord> all;
      all.reserve(static_cast<size_t>(tasks));
      for (int t = 0; t < tasks; ++t) {
        all.push_back(SomeTask(job.id, t,
                               t == 0           ? TaskStage::kCalibrate
                               : t == tasks - 1 ? TaskStage::kAssemble
                                                : TaskStage::kQuantize));
      }
      const absl::Status status = store_->InsertJob(job, all);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  std::optional<TaskRecord> LeaseAndFinish(MetadataStore& store) const {
    auto task = store.LeaseTask("w", {.pools = {"cpu"}}, store.NowMs(), 60'000);
    EXPECT_TRUE(task.ok()) << task.status();
    if (!task.ok() || !*task) return std::nullopt;
    TaskRecord done = **task;
    done.state = TaskState::kDone;
    done.outcome_json = "{}";
    const absl::Status status = store.Apply({.jobs = {}, .tasks = {done}, .artifact = {}});
    EXPECT_TRUE(status.ok()) << status;
    return **task;
  }

  std::string uri_;
  std::unique_ptr<MetadataStore> store_;
};

// What the engine did, not what it would do: sequential scans and rows read are counted by the server.
TEST_F(PostgresQueueTest, ReadsALongQueueByItsIndexes) {
  constexpr int kJobs = 1000;
  constexpr int kTasks = 60;
  Insert(kJobs, kTasks);
  Psql("ANALYZE");
  constexpr const char* kCounts =
      "SELECT coalesce(seq_scan, 0) || ' ' || coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)"
      " FROM pg_stat_user_tables WHERE relname = 'tasks'";
  // A session tells its counts when it ends, a moment after its client has.
  const auto counts = [&] {
    store_.reset();
    for (int i = 0; i < 1000 && Psql("SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()"
                                     " AND backend_type = 'client backend' AND pid <> pg_backend_pid()") != "0";
         ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    std::istringstream text(Psql(kCounts));
    std::pair<int64_t, int64_t> found{-1, -1};
    text >> found.first >> found.second;
    return found;
  };
  const auto before = counts();
  store_ = Open();
  ASSERT_NE(store_, nullptr);
  constexpr int kClaims = 40;
  for (int i = 0; i < kClaims; ++i) {
    const auto task = LeaseAndFinish(*store_);
    ASSERT_TRUE(task.has_value());
    ASSERT_TRUE(store_
                    ->RenewLease({.job = task->job, .index = task->index, .worker = "w", .lease_id = task->lease_id},
                                 store_->NowMs() + 1000, 0.5)
                    .code() == absl::StatusCode::kAborted);
    ASSERT_TRUE(store_->ListExpiredTasks(0).ok());
    ASSERT_TRUE(store_->NextDeadline(store_->NowMs()).ok());
  }
  const auto after = counts();
  EXPECT_EQ(after.first, before.first) << "all tasks were read from first to last";
  EXPECT_LT(after.second - before.second, kClaims * 20 * kTasks) << "far more rows were read than a few jobs have";
}

TEST_F(PostgresQueueTest, ManyWorkersShareTheQueueWithoutWaitingForOneAnother) {
  constexpr int kJobs = 12;
  constexpr int kTasks = 20;
  Insert(kJobs, kTasks);
  const auto other = Open();
  std::atomic<int> done{0};
  absl::Mutex mutex;
  std::set<std::string> seen;
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      while (done < kJobs * kTasks) {
        const auto task = LeaseAndFinish(t % 2 == 0 ? *store_ : *other);
        if (!task) continue;
        ++done;
        absl::MutexLock lock(&mutex);
        EXPECT_TRUE(seen.insert(task->job + "/" + std::to_string(task->index)).second) << "leased twice";
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(seen.size(), static_cast<size_t>(kJobs * kTasks));
}

TEST_F(PostgresQueueTest, AStoreThatMayOnlyBeReadSaysSo) {
  store_.reset();
  Psql("ALTER DATABASE " + DatabaseOf(uri_) + " SET default_transaction_read_only = on");
  const auto store = Open();
  ASSERT_NE(store, nullptr) << "there is nothing to migrate, so it opens";
  EXPECT_TRUE(store->ListJobs({}, {}).ok());
  EXPECT_EQ(ReasonOf(store->PutSetting("a", "b")), "STORE_READ_ONLY");
}

TEST_F(PostgresQueueTest, AUserWithoutRightsIsTold) {
  Psql("CREATE ROLE visitor LOGIN PASSWORD 'v'");
  const absl::Status status =
      OpenPostgresMetadataStore(PostgresEnvironment::server().Uri(DatabaseOf(uri_), "visitor", "v")).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(ReasonOf(status), "STORE_CREDENTIALS");
  EXPECT_THAT(MessageOf(status), HasSubstr("permission denied"));
  Psql("DROP ROLE visitor");
}

TEST_F(PostgresQueueTest, TellsItsEngine) {
  const auto schema = store_->Schema();
  ASSERT_TRUE(schema.ok()) << schema.status();
  EXPECT_THAT(schema->engine, HasSubstr("postgresql 1"));
  EXPECT_EQ(schema->version, schema->program_version);
  EXPECT_TRUE(store_->shared());
}

}  // namespace
}  // namespace qamserve
