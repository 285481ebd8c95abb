#include "server/store/metadata_store.h"

#include "core/base/file.h"
#include "server/store/request_ids.h"
#include "server/store/sqlite.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/store/metadata_store_contract.h"

namespace qamserve {
namespace {

struct SqliteFactory {
  static std::unique_ptr<MetadataStore> Open(const std::string& path) {
    auto store = OpenSqliteMetadataStore(path);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Sqlite, MetadataStoreContract, SqliteFactory);

TEST(SqliteMetadataStoreTest, RefusesAFileOfANewerProgram) {
  TempDir dir;
  ASSERT_TRUE(OpenSqliteMetadataStore(dir / "meta").ok());
  {
    auto db = SqliteConnection::Open(dir / "meta");
    ASSERT_TRUE((*db)->Execute("INSERT INTO schema_migrations VALUES (999, 0)").ok());
  }
  EXPECT_EQ(ReasonOf(OpenSqliteMetadataStore(dir / "meta").status()), "STORE_VERSION");
}

TEST(SqliteMetadataStoreTest, BringsAnOlderFileUpToDate) {
  TempDir dir;
  {
    auto store = OpenSqliteMetadataStore(dir / "meta");
    ASSERT_TRUE((*store)->PutServedModel({.name = "m", .source = "artifacts/a1"}).ok());
  }
  {
    // As the first schema left it: aliases came with the second, rounds with the third, keys with the fourth.
    auto db = SqliteConnection::Open(dir / "meta");
    ASSERT_TRUE((*db)
                    ->Execute("DROP TABLE api_keys; DROP TABLE audit_events;"
                              "DROP TABLE alias_targets; DROP TABLE aliases;"
                              "DROP INDEX tasks_open; ALTER TABLE tasks DROP COLUMN round;"
                              "CREATE INDEX tasks_open ON tasks (job, stage, position) WHERE state <> 3;"
                              "DELETE FROM schema_migrations WHERE version > 1")
                    .ok());
  }
  auto store = OpenSqliteMetadataStore(dir / "meta");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->ListServedModels()->size(), 1u);
  EXPECT_TRUE((*store)->PutAlias({.name = "p", .targets = {{"m", 1}}}).ok());
  EXPECT_EQ((*store)->ListAliases()->size(), 1u);
  EXPECT_TRUE((*store)->InsertKey({.id = "k", .digest = "d"}).ok());
  EXPECT_EQ((*store)->ListAllKeys()->size(), 1u);
}

TEST(SqliteMetadataStoreTest, RefusesAFileThatIsNoDatabase) {
  TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir / "meta", std::string(5000, 'x')).ok());
  EXPECT_EQ(ReasonOf(OpenSqliteMetadataStore(dir / "meta").status()), "STORE_CORRUPT");
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
