// The test suite of every engine's schema: how it comes to be, and how programs of two versions use one store. See
// metadata_store_fixture.h for how an engine plugs in.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "server/store/sql_metadata_store.h"
#include "tests/server/store/metadata_store_fixture.h"

namespace qamserve {

template <typename Factory>
class SchemaContract : public testing::Test {
 protected:
  std::unique_ptr<SqlDatabase> Database() {
    auto database = Factory::Database(dir_ / "meta");
    EXPECT_NE(database, nullptr);
    return database;
  }
  // The schema of a program that knows one step more.
  SqlSchema NewerSchema(int32_t oldest_program, const char* sql) {
    SqlSchema schema = Factory::Schema();
    steps_.assign(schema.steps.begin(), schema.steps.end());
    steps_.push_back({.version = schema.program_version() + 1, .oldest_program = oldest_program, .sql = sql});
    schema.steps = steps_;
    return schema;
  }
  absl::StatusOr<std::unique_ptr<MetadataStore>> Open(SchemaPolicy policy) {
    return SqlMetadataStore::Open(Database(), Factory::Schema(), policy);
  }

  const int32_t version_ = Factory::Schema().program_version();
  TempDir dir_;
  std::vector<SchemaStep> steps_;
};
TYPED_TEST_SUITE_P(SchemaContract);

TYPED_TEST_P(SchemaContract, TellsItsVersion) {
  const auto store = this->Open(SchemaPolicy::kMigrate);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto schema = (*store)->Schema();
  ASSERT_TRUE(schema.ok()) << schema.status();
  EXPECT_EQ(schema->version, this->version_);
  EXPECT_EQ(schema->program_version, this->version_);
  EXPECT_EQ(schema->oldest_program, this->version_);
  EXPECT_THAT(schema->engine, testing::MatchesRegex("[a-z]+ [0-9.]+"));
}

TYPED_TEST_P(SchemaContract, DoesNotMigrateUnlessItMay) {
  const absl::Status status = this->Open(SchemaPolicy::kRefuse).status();
  EXPECT_EQ(ReasonOf(status), "STORE_NEEDS_MIGRATION");
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(MessageOf(status), testing::HasSubstr(std::to_string(this->version_)));
  EXPECT_EQ(ReadSchema(*this->Database(), TypeParam::Schema())->version, 0) << "nothing was written";
  ASSERT_TRUE(this->Open(SchemaPolicy::kMigrate).ok());
  EXPECT_TRUE(this->Open(SchemaPolicy::kRefuse).ok()) << "it is up to date now";
}

TYPED_TEST_P(SchemaContract, IsMadeOnceByProgramsThatStartTogether) {
  // Where only one program can be, its threads.
  std::vector<std::unique_ptr<SqlDatabase>> databases;
  databases.reserve(4);
  databases.push_back(this->Database());
  for (int i = 1; i < 4 && TypeParam::kShared; ++i) databases.push_back(this->Database());
  std::vector<std::thread> programs;
  programs.reserve(4);
  for (size_t i = 0; i < 4; ++i) {
    programs.emplace_back([&, i] {
      const absl::Status status =
          PrepareSchema(*databases[i % databases.size()], TypeParam::Schema(), SchemaPolicy::kMigrate);
      EXPECT_TRUE(status.ok()) << status;
    });
  }
  for (std::thread& program : programs) program.join();
  EXPECT_EQ(ReadSchema(*databases[0], TypeParam::Schema())->version, this->version_);
}

TYPED_TEST_P(SchemaContract, GoesOnBesideANewerProgramThatOnlyAdded) {
  auto store = this->Open(SchemaPolicy::kMigrate);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE((*store)->InsertJob(SomeJob("before"), {SomeTask("before", 0, TaskStage::kPrepare)}).ok());
  const auto use = [&](const std::string& id) {
    ASSERT_TRUE((*store)->InsertJob(SomeJob(id), {SomeTask(id, 0, TaskStage::kPrepare)}).ok());
    ASSERT_TRUE((*store)->PutServedModel({.name = id, .source = "artifacts/a"}).ok());
    const auto task = (*store)->LeaseTask("w", {.pools = {"cpu"}}, 0, 50);
    ASSERT_TRUE(task.ok()) << task.status();
    ASSERT_TRUE(task->has_value());
    TaskRecord done = **task;
    done.state = TaskState::kDone;
    JobRecord job = *(*store)->GetJob(done.job);
    job.state = JobState::kSucceeded;
    ASSERT_TRUE((*store)->Apply({.jobs = {job}, .tasks = {done}, .artifact = {}}).ok());
  };
  use("a");  // statements are prepared by now
  {
    // The newer program: one that is open beside this one, where that can be.
    const auto database = this->Database();
    const SqlSchema newer = this->NewerSchema(this->version_,
                                              "ALTER TABLE jobs ADD COLUMN color TEXT NOT NULL DEFAULT 'red';"
                                              "ALTER TABLE tasks ADD COLUMN color TEXT NOT NULL DEFAULT 'red';"
                                              "CREATE INDEX jobs_by_color ON jobs (color);"
                                              "CREATE TABLE colors (name TEXT PRIMARY KEY);");
    const absl::Status status = PrepareSchema(*database, newer, SchemaPolicy::kMigrate);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(ReadSchema(*database, newer)->version, this->version_ + 1);
    EXPECT_EQ(ReadSchema(*database, newer)->oldest_program, this->version_);
  }
  use("b");
  EXPECT_EQ((*store)->Schema()->version, this->version_ + 1);
  EXPECT_EQ((*store)->ListJobs({}, {})->items.size(), 3u);
  // It cannot back up what it does not know.
  EXPECT_EQ(ReasonOf((*store)->Backup([](const std::string&) { return absl::OkStatus(); })), "STORE_VERSION");
  // Nor does a program of the older version that starts now have to be left out.
  store->reset();
  store = this->Open(SchemaPolicy::kRefuse);
  ASSERT_TRUE(store.ok()) << store.status();
  use("c");
  EXPECT_EQ((*store)->ListJobs({}, {})->items.size(), 4u);
}

TYPED_TEST_P(SchemaContract, RefusesWhatANewerProgramChanged) {
  ASSERT_TRUE(this->Open(SchemaPolicy::kMigrate).ok());
  const SqlSchema newer = this->NewerSchema(this->version_ + 1, "ALTER TABLE jobs RENAME COLUMN load_as TO load_name;");
  ASSERT_TRUE(PrepareSchema(*this->Database(), newer, SchemaPolicy::kMigrate).ok());
  for (const SchemaPolicy policy : {SchemaPolicy::kMigrate, SchemaPolicy::kRefuse}) {
    const absl::Status status = this->Open(policy).status();
    EXPECT_EQ(ReasonOf(status), "STORE_VERSION");
    EXPECT_TRUE(absl::IsFailedPrecondition(status));
    EXPECT_THAT(MessageOf(status), testing::HasSubstr(std::to_string(this->version_ + 1)));
  }
}

TYPED_TEST_P(SchemaContract, AStepThatFailsLeavesNothing) {
  const SqlSchema broken =
      this->NewerSchema(this->version_, "CREATE TABLE colors (name TEXT PRIMARY KEY); CREATE TABLE colors (x TEXT);");
  EXPECT_FALSE(PrepareSchema(*this->Database(), broken, SchemaPolicy::kMigrate).ok());
  EXPECT_EQ(ReadSchema(*this->Database(), broken)->version, 0);
  EXPECT_TRUE(this->Open(SchemaPolicy::kMigrate).ok());
}

REGISTER_TYPED_TEST_SUITE_P(SchemaContract, TellsItsVersion, DoesNotMigrateUnlessItMay,
                            IsMadeOnceByProgramsThatStartTogether, GoesOnBesideANewerProgramThatOnlyAdded,
                            RefusesWhatANewerProgramChanged, AStepThatFailsLeavesNothing);

}  // namespace qamserve
