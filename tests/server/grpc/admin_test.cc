// AdminService over a real connection, and the commands that the program itself has for its store.
#include <fstream>
#include <thread>

#include "client/client.h"
#include "core/base/file.h"
#include "qamserve/v1/admin.grpc.pb.h"
#include "server/store/postgres_metadata_store.h"
#include "server/store/sqlite_metadata_store.h"
#include "server/store_commands.h"
#include "tests/server/grpc/server_fixture.h"
#include "tests/support/postgres_server.h"
#include "tests/support/prerequisite.h"

namespace qamserve {
namespace {

class AdminTest : public ServerFixture {
 protected:
  Client MakeClient() {
    ClientOptions options;
    options.address = server_->address();
    return Client(options);
  }
  // A job that is RUNNING, its only task under way.
  std::string RunningJob() {
    v1::CreateQuantizeJobRequest request;
    request.set_checkpoint(MakeCheckpoint());
    v1::Job job;
    grpc::ClientContext context;
    const grpc::Status status = jobs_->CreateQuantizeJob(&context, request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    Client client = MakeClient();
    for (int i = 0; i < 500; ++i) {
      const auto running = client.GetJob(job.name());
      if (running.ok() && running->state() == v1::JOB_STATE_RUNNING) return job.name();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "no task was leased";
    return job.name();
  }
};

TEST_F(AdminTest, TellsLeasesAndQueue) {
  const std::string job = RunningJob();
  Client client = MakeClient();
  const auto leases = client.ListLeases();
  ASSERT_TRUE(leases.ok()) << leases.status();
  ASSERT_EQ(leases->leases_size(), 1);
  EXPECT_EQ(leases->leases(0).job(), job);
  EXPECT_EQ(leases->leases(0).task_name(), "wait");
  EXPECT_EQ(leases->leases(0).attempt(), 1);

  const auto queue = client.GetQueue();
  ASSERT_TRUE(queue.ok()) << queue.status();
  ASSERT_EQ(queue->pools_size(), 1);
  EXPECT_EQ(queue->pools(0).pool(), "cpu");
  EXPECT_EQ(queue->pools(0).jobs_running(), 1);
  EXPECT_EQ(queue->pools(0).tasks_leased(), 1);
  ASSERT_EQ(queue->jobs_size(), 1);
  EXPECT_EQ(queue->jobs(0).name(), job);
  EXPECT_EQ(queue->jobs(0).state(), v1::JOB_STATE_RUNNING);
}

TEST_F(AdminTest, ReleasesATaskWhichIsTakenUpAgain) {
  const std::string job = RunningJob();
  Client client = MakeClient();
  ASSERT_TRUE(client.ReleaseLease(job, 0).ok());
  for (int i = 0; i < 500; ++i) {
    const auto leases = client.ListLeases();
    ASSERT_TRUE(leases.ok()) << leases.status();
    // Its attempt did not count.
    if (leases->leases_size() == 1) {
      EXPECT_EQ(leases->leases(0).attempt(), 1);
      break;
    }
    ASSERT_LT(i, 499) << "nobody took the task";
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(ReasonOf(client.ReleaseLease(job, 7)), "TASK_NOT_FOUND");
  EXPECT_EQ(ReasonOf(client.ReleaseLease("jobs/nobody", 0)), "JOB_NOT_FOUND");
  ASSERT_TRUE(client.CancelJob(job).ok());
  EXPECT_EQ(ReasonOf(client.ReleaseLease(job, 0)), "TASK_STATE");
}

TEST_F(AdminTest, AServerAloneHasNoInstanceToDrain) {
  Client client = MakeClient();
  EXPECT_EQ(ReasonOf(client.DrainInstance("instances/nobody", false).status()), "INSTANCE_NOT_FOUND");
  EXPECT_EQ(ReasonOf(client.DrainInstance("nobody", false).status()), "RESOURCE_NAME");
}

TEST_F(AdminTest, ADryRunDeletesNothing) {
  Client client = MakeClient();
  const std::string checkpoint = MakeCheckpoint();
  ASSERT_TRUE(client.CollectGarbage(true).ok());
  const auto collected = client.CollectGarbage(false);
  ASSERT_TRUE(collected.ok()) << collected.status();
  EXPECT_FALSE(collected->dry_run());
  EXPECT_EQ(collected->blobs(), 0);
  EXPECT_TRUE(client.GetCheckpoint(checkpoint).ok());
}

TEST_F(AdminTest, TellsTheSchema) {
  const auto schema = MakeClient().GetSchema();
  ASSERT_TRUE(schema.ok()) << schema.status();
  EXPECT_TRUE(schema->engine().starts_with("sqlite")) << schema->engine();
  EXPECT_EQ(schema->version(), schema->program_version());
}

// --- Backup and restore ---

ServerOptions InFolder(const std::string& folder) {
  ServerOptions options;
  options.data_dir = folder;
  return options;
}
StoreCommand BackupTo(const std::string& file) { return {.kind = StoreCommand::Kind::kBackup, .file = file}; }
StoreCommand RestoreFrom(const std::string& file) { return {.kind = StoreCommand::Kind::kRestore, .file = file}; }

std::string Content(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}
// Without the first line, which tells the time, and the last, which sums it up.
std::string Rows(const std::string& path) {
  const std::string content = Content(path);
  const size_t begin = content.find('\n') + 1, end = content.rfind('\n', content.size() - 2) + 1;
  return content.substr(begin, end - begin);
}

TEST_F(AdminTest, ABackupOfARunningServerIsRestoredElsewhere) {
  const std::string checkpoint = MakeCheckpoint();
  const auto rows = MakeClient().BackupMetadata(dir_ / "backup");
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_GT(*rows, 0);
  EXPECT_EQ(ReasonOf(RunStoreCommand(BackupTo(dir_ / "other"), Options()).status()), "DATA_DIR_LOCKED");

  const ServerOptions elsewhere = InFolder(dir_ / "elsewhere");
  const auto restored = RunStoreCommand(RestoreFrom(dir_ / "backup"), elsewhere);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(ReasonOf(RunStoreCommand(RestoreFrom(dir_ / "backup"), elsewhere).status()), "STORE_NOT_EMPTY");
  // The same rows give the same lines.
  ASSERT_TRUE(RunStoreCommand(BackupTo(dir_ / "again"), elsewhere).ok());
  EXPECT_EQ(Rows(dir_ / "again"), Rows(dir_ / "backup"));
}

TEST_F(AdminTest, ADamagedBackupLeavesNothing) {
  MakeCheckpoint();
  ASSERT_TRUE(MakeClient().BackupMetadata(dir_ / "backup").ok());
  std::string content = Content(dir_ / "backup");
  const size_t at = content.find("model.gguf");
  ASSERT_NE(at, std::string::npos);
  content[at] = 'M';
  ASSERT_TRUE(WriteFileAtomically(dir_ / "altered", content).ok());
  ASSERT_TRUE(WriteFileAtomically(dir_ / "short", content.substr(0, content.size() / 2)).ok());
  const ServerOptions elsewhere = InFolder(dir_ / "elsewhere");
  EXPECT_EQ(ReasonOf(RunStoreCommand(RestoreFrom(dir_ / "altered"), elsewhere).status()), "BACKUP_CORRUPT");
  EXPECT_EQ(ReasonOf(RunStoreCommand(RestoreFrom(dir_ / "short"), elsewhere).status()), "BACKUP_CORRUPT");
  EXPECT_FALSE(RunStoreCommand(RestoreFrom(dir_ / "nowhere"), elsewhere).ok());
  EXPECT_TRUE(RunStoreCommand(RestoreFrom(dir_ / "backup"), elsewhere).ok());
}

TEST_F(AdminTest, MovesFromSqliteToPostgresqlAndBack) {
  SKIP_WITHOUT(PostgresServer::Missing());
  MakeCheckpoint();
  ASSERT_TRUE(MakeClient().BackupMetadata(dir_ / "backup").ok());
  const auto postgres = PostgresServer::Start();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  ServerOptions shared;
  const auto uri = (*postgres)->NewDatabase();
  ASSERT_TRUE(uri.ok()) << uri.status();
  shared.metadata_store = *uri;
  const auto migrated = RunStoreCommand({}, shared);
  ASSERT_TRUE(migrated.ok()) << migrated.status();
  EXPECT_TRUE(migrated->starts_with("postgresql")) << *migrated;
  const auto restored = RunStoreCommand(RestoreFrom(dir_ / "backup"), shared);
  ASSERT_TRUE(restored.ok()) << restored.status();
  ASSERT_TRUE(RunStoreCommand(BackupTo(dir_ / "shared"), shared).ok());
  const ServerOptions back = InFolder(dir_ / "back");
  ASSERT_TRUE(RunStoreCommand(RestoreFrom(dir_ / "shared"), back).ok());
  ASSERT_TRUE(RunStoreCommand(BackupTo(dir_ / "again"), back).ok());
  EXPECT_EQ(Rows(dir_ / "again"), Rows(dir_ / "backup"));
}

TEST(StoreCommandTest, TakesTheCommandOffTheArguments) {
  std::vector<std::string> serve = {"qamserve", "--data-dir", "d"};
  EXPECT_FALSE(TakeStoreCommand(serve)->has_value());
  EXPECT_EQ(serve.size(), 3u);
  std::vector<std::string> backup = {"qamserve", "backup", "file", "--data-dir", "d"};
  const auto command = TakeStoreCommand(backup);
  ASSERT_TRUE(command.ok() && command->has_value());
  EXPECT_EQ((*command)->file, "file");
  EXPECT_EQ(backup, (std::vector<std::string>{"qamserve", "--data-dir", "d"}));
  std::vector<std::string> no_file = {"qamserve", "restore", "--data-dir", "d"};
  EXPECT_EQ(ReasonOf(TakeStoreCommand(no_file).status()), "OPTION");
}

}  // namespace
}  // namespace qamserve
