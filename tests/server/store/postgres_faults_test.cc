// Commits whose answer is lost, killed and paused servers, failover.
#include <atomic>
#include <thread>

#include "core/base/rng.h"
#include "tests/server/store/postgres_environment.h"
#include "tests/support/postgres_proxy.h"
#include "tests/support/temp_folder.h"

namespace qamserve {
namespace {

// A counter behind a proxy, on the program's server.
class PostgresCommitTest : public testing::Test {
 protected:
  void SetUp() override {
    PostgresServer& server = PostgresEnvironment::server();
    direct_uri_ = NewDatabase();
    proxy_ = std::make_unique<PostgresProxy>(folder_.path(), server.folder());
    options_.observer = observer_;
    // What is asked for here is that it ends well, not when.
    options_.connect_timeout_ms = 30'000;
    options_.retry_ms = 120'000;
    direct_ = OpenDatabase(direct_uri_, options_);
    database_ = OpenDatabase(ThroughProxy(), options_);
    ASSERT_NE(direct_, nullptr);
    ASSERT_NE(database_, nullptr);
    ASSERT_TRUE(MakeCommitMarks(*direct_).ok());
    ASSERT_TRUE(RunOne(*direct_, "CREATE TABLE counter (value BIGINT NOT NULL)").ok());
    ASSERT_TRUE(RunOne(*direct_, "INSERT INTO counter (value) VALUES (0)").ok());
  }
  void TearDown() override {
    // Its connections end before the proxy.
    database_.reset();
  }
  std::string ThroughProxy() const { return direct_uri_.substr(0, direct_uri_.find('?')) + "?host=" + folder_.path(); }
  absl::Status Increment(SqlDatabase& database) {
    return database.Transact([&](SqlTransaction& transaction) -> absl::Status {
      ++runs_;
      transaction.Tell({.kind = StoreEvent::Kind::kJob, .id = "counted"});
      return transaction.Run("UPDATE counter SET value = value + 1").status();
    });
  }
  int64_t Value() { return ReadInt(*direct_, "SELECT value FROM counter"); }

  TempFolder folder_;
  std::string direct_uri_;
  PostgresOptions options_;
  std::shared_ptr<RecordingObserver> observer_ = std::make_shared<RecordingObserver>();
  std::unique_ptr<PostgresDatabase> direct_;
  std::unique_ptr<PostgresProxy> proxy_;
  std::unique_ptr<PostgresDatabase> database_;
  int runs_ = 0;
};

TEST_F(PostgresCommitTest, IsRunAgainWhenTheServerNeverSawIt) {
  proxy_->CutNext(PostgresProxy::Cut::kBeforeCommit);
  const absl::Status status = Increment(*database_);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(proxy_->cuts(), 1);
  EXPECT_EQ(runs_, 2);
  EXPECT_EQ(Value(), 1);
}

TEST_F(PostgresCommitTest, IsNotRunAgainWhenOnlyTheAnswerWasLost) {
  Collector<StoreEvent> events;
  const auto hold = database_->Listen([&](const StoreEvent& event) { events.Add(event); });
  proxy_->CutNext(PostgresProxy::Cut::kBeforeTheAnswer);
  const absl::Status status = Increment(*database_);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(proxy_->cuts(), 1);
  EXPECT_EQ(runs_, 1);
  EXPECT_EQ(Value(), 1);
  EXPECT_TRUE(Await(events, StoreEvent::Kind::kJob, "counted")) << "what was committed is told";
}

TEST_F(PostgresCommitTest, IsCountedOnceHoweverOftenItBreaks) {
  Rng random(11);
  for (int i = 0; i < 60; ++i) {
    constexpr PostgresProxy::Cut kCuts[] = {PostgresProxy::Cut::kBeforeCommit, PostgresProxy::Cut::kWithCommit,
                                            PostgresProxy::Cut::kBeforeTheAnswer};
    proxy_->CutNext(kCuts[random.NextU64() % 3]);
    const absl::Status status = Increment(*database_);
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_GE(proxy_->cuts(), 60);
  EXPECT_EQ(Value(), 60);
}

TEST_F(PostgresCommitTest, IsWaitedForWhileTheServerIsStillAtIt) {
  PostgresServer& server = PostgresEnvironment::server();
  const auto set = [&](const std::string& standbys) {
    ASSERT_TRUE(server.Psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '" + standbys + "'").ok());
    ASSERT_TRUE(server.Psql("postgres", "SELECT pg_reload_conf()").ok());
  };
  // Nobody of this name ever confirms, so commits hang.
  set("nobody");
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  proxy_->CutNext(PostgresProxy::Cut::kWithCommit);
  std::atomic<bool> done{false};
  std::thread thread([&] {
    const absl::Status status = Increment(*database_);
    EXPECT_TRUE(status.ok()) << status;
    done = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  EXPECT_FALSE(done) << "a commit that hangs was taken for done or undone";
  set("");
  thread.join();
  EXPECT_EQ(proxy_->cuts(), 1);
  EXPECT_EQ(runs_, 1);
  EXPECT_EQ(Value(), 1);
}

TEST_F(PostgresCommitTest, ReadsAreSimplyReadAgain) {
  proxy_->CutNext(PostgresProxy::Cut::kBeforeCommit);
  EXPECT_EQ(ReadInt(*database_, "SELECT value FROM counter"), 0);
  EXPECT_EQ(proxy_->cuts(), 1);
}

// --- Servers that go away ---

// Threads that take numbered tasks and note who did which, by compare-and-set as the store does.
class Claimers {
 public:
  Claimers(SqlDatabase& database, int tasks) : database_(database), tasks_(tasks) {}

  void Prepare() {
    ASSERT_TRUE(MakeCommitMarks(database_).ok());
    ASSERT_TRUE(
        RunOne(database_, "CREATE TABLE work (id BIGINT PRIMARY KEY, state BIGINT NOT NULL, runs BIGINT NOT NULL)")
            .ok());
    ASSERT_TRUE(RunOne(database_, "CREATE INDEX work_ready ON work (id) WHERE state = 1").ok());
    ASSERT_TRUE(RunOne(database_, "INSERT INTO work (id, state, runs) SELECT n, 1, 0 FROM generate_series(1, $1) AS n",
                       {tasks_})
                    .ok());
  }
  void Start(int threads) {
    for (int t = 0; t < threads; ++t) threads_.emplace_back([this] { Loop(); });
  }
  void Join() {
    for (std::thread& thread : threads_) thread.join();
  }
  int64_t claimed() const { return claimed_; }
  int64_t uncertain() const { return uncertain_; }

 private:
  void Loop() {
    while (true) {
      int64_t id = 0;
      absl::Status status = database_.Transact([&](SqlTransaction& transaction) {
        id = 0;
        return transaction.Query(
            "UPDATE work SET state = 2 WHERE state = 1 AND id = (SELECT id FROM work WHERE state = 1 ORDER BY id"
            " LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id",
            {}, [&](SqlRow& row) { id = row.Int(); });
      });
      if (Uncertain(status)) continue;
      ASSERT_TRUE(status.ok()) << status;
      if (id == 0) return;
      ++claimed_;
      status = database_.Transact([&](SqlTransaction& transaction) -> absl::Status {
        ASSIGN_OR_RETURN(const int64_t changed, transaction.Run("UPDATE work SET state = 3, runs = runs + 1"
                                                                " WHERE id = $1 AND state = 2",
                                                                {id}));
        return changed == 1 ? absl::OkStatus() : Aborted("LEASE_LOST", "task {} is somebody else's", id);
      });
      if (Uncertain(status)) continue;
      EXPECT_TRUE(status.ok()) << status;
    }
  }
  // Whether nobody can tell what became of a commit; counts those.
  bool Uncertain(const absl::Status& status) {
    const bool uncertain = MessageOf(status).find("cannot be told") != std::string::npos;
    if (uncertain) ++uncertain_;
    return uncertain;
  }

  SqlDatabase& database_;
  const int tasks_;
  std::atomic<int64_t> claimed_{0};
  std::atomic<int64_t> uncertain_{0};
  std::vector<std::thread> threads_;
};

class PostgresServerFaultTest : public testing::Test {
 protected:
  void SetUp() override {
    auto server = PostgresServer::Start();
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto uri = server_->NewDatabase();
    ASSERT_TRUE(uri.ok()) << uri.status();
    uri_ = *uri;
    options_.observer = observer_;
    options_.poll_ms = 100;
    options_.retry_ms = 120'000;
  }

  std::unique_ptr<PostgresServer> server_;
  std::string uri_;
  PostgresOptions options_;
  std::shared_ptr<RecordingObserver> observer_ = std::make_shared<RecordingObserver>();
};

TEST_F(PostgresServerFaultTest, NothingIsLostOrDoneTwiceWhenTheServerIsKilled) {
  constexpr int kTasks = 3000;
  const auto database = OpenDatabase(uri_, options_);
  Claimers claimers(*database, kTasks);
  claimers.Prepare();
  claimers.Start(8);
  int kills = 0;
  while (kills < 4 && claimers.claimed() < kTasks - 200) {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    server_->Kill();
    ASSERT_TRUE(server_->Restart().ok());
    ++kills;
  }
  claimers.Join();
  EXPECT_GE(kills, 2) << "it was over too soon to say anything";
  EXPECT_GE(observer_->retries(), 1);
  EXPECT_EQ(claimers.uncertain(), 0) << "a server that comes back knows";
  EXPECT_EQ(claimers.claimed(), kTasks) << "a claim was lost or made twice";
  EXPECT_EQ(ReadInt(*database, "SELECT COUNT(*) FROM work WHERE state = 3 AND runs = 1"), kTasks);
}

TEST_F(PostgresServerFaultTest, SaysSoWhenTheServerStaysAway) {
  options_.retry_ms = 1'000;
  const auto database = OpenDatabase(uri_, options_);
  server_->Stop();
  const absl::Status status = RunOne(*database, "SELECT 1");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ReasonOf(status), "STORE_UNAVAILABLE");
  ASSERT_TRUE(server_->Restart().ok());
  EXPECT_TRUE(RunOne(*database, "SELECT 1").ok());
}

TEST_F(PostgresServerFaultTest, AServerThatStopsToAnswerIsLeft) {
  options_.statement_timeout_ms = 200;
  const auto database = OpenDatabase(uri_, options_);
  ASSERT_TRUE(RunOne(*database, "SELECT 1").ok());
  server_->Pause(true);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::seconds(6));
    server_->Pause(false);
  });
  // The first attempt hangs for 5.2 s, the next ones meet a server that is back.
  const absl::Status status = RunOne(*database, "SELECT 1");
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_GE(observer_->retries(), 1);
  later.join();
}

TEST_F(PostgresServerFaultTest, GoesOnWithTheStandbyThatTookOver) {
  const auto standby = server_->StartStandby();
  ASSERT_TRUE(standby.ok()) << standby.status();
  // Confirmed by the standby, so that it has all that was committed.
  ASSERT_TRUE(server_->Psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'").ok());
  ASSERT_TRUE(server_->Psql("postgres", "SELECT pg_reload_conf()").ok());
  // The standby first: it cannot be written to yet.
  std::string uri = uri_;
  uri.replace(uri.find("host=") + 5, std::string::npos, (*standby)->folder() + "," + server_->folder());
  const auto database = OpenDatabase(uri, options_);
  ASSERT_NE(database, nullptr);
  Collector<StoreEvent> events;
  const auto hold = database->Listen([&](const StoreEvent& event) { events.Add(event); });
  constexpr int kTasks = 1500;
  Claimers claimers(*database, kTasks);
  claimers.Prepare();
  claimers.Start(4);
  while (claimers.claimed() < 200) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  server_->Kill();
  EXPECT_LT(claimers.claimed(), kTasks) << "it was over too soon to say anything";
  const absl::Status promoted = (*standby)->Promote();
  ASSERT_TRUE(promoted.ok()) << promoted;
  claimers.Join();
  EXPECT_TRUE(Await(events, StoreEvent::Kind::kMissed)) << "it listens to the new server";
  // The standby confirmed each commit, so it knows of those whose answer was lost as well.
  EXPECT_EQ(claimers.uncertain(), 0);
  EXPECT_EQ(claimers.claimed(), kTasks) << "a claim was lost or made twice";
  EXPECT_EQ(ReadInt(*database, "SELECT COUNT(*) FROM work WHERE state = 3 AND runs = 1"), kTasks);
}

TEST_F(PostgresServerFaultTest, AStandbyAloneIsReadOnly) {
  const auto standby = server_->StartStandby();
  ASSERT_TRUE(standby.ok()) << standby.status();
  std::string uri = uri_;
  uri.replace(uri.find("host=") + 5, std::string::npos, (*standby)->folder());
  options_.retry_ms = 500;
  const absl::Status status = PostgresDatabase::Open(uri, options_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(ReasonOf(status), "STORE_READ_ONLY");
}

}  // namespace
}  // namespace qamserve
