// The test suite of every MetadataStore's backup. See metadata_store_fixture.h for how an engine plugs in.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/digest.h"
#include "tests/server/store/metadata_store_fixture.h"

namespace qamserve {

using BackupLines = std::vector<std::string>;

inline absl::StatusOr<BackupLines> BackupOf(MetadataStore& store) {
  BackupLines lines;
  RETURN_IF_ERROR(store.Backup([&](const std::string& line) {
    lines.push_back(line);
    return absl::OkStatus();
  }));
  return lines;
}

inline absl::Status RestoreInto(MetadataStore& store, const BackupLines& lines) {
  size_t next = 0;
  return store.Restore([&]() -> absl::StatusOr<std::optional<std::string>> {
    if (next == lines.size()) return std::nullopt;
    return lines[next++];
  });
}

// The last line made anew, for lines that were changed on purpose.
inline BackupLines Sealed(BackupLines lines) {
  lines.pop_back();
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  lines.push_back(nlohmann::json{{"rows", lines.size() - 1}, {"sha256", Sha256Hex(text)}}.dump());
  return lines;
}

// Rows without the lines that are of the store and of the moment.
inline BackupLines RowsOf(BackupLines lines) {
  if (lines.size() < 2) return {};
  return {lines.begin() + 1, lines.end() - 1};
}

template <typename Factory>
class BackupContract : public MetadataStoreFixture<Factory> {
 protected:
  // One row at least in each table.
  void Fill() {
    MetadataStore& store = *this->store_;
    const FileRecord file{
        .name = "\xc3\xa9\"\\\n.safetensors", .sha256 = "f1", .size_bytes = uint64_t{5} << 40, .external_path = "/x"};
    ASSERT_TRUE(store.PutUpload({.id = "u1", .content_key = "k", .files = {file, file}, .created_ms = 1}).ok());
    ASSERT_TRUE(store.PutCheckpoint({.digest = "gone"}).ok());
    ASSERT_TRUE(store.PutCheckpoint({.digest = "c1", .parameters = 7, .files = {file}}).ok());
    ASSERT_TRUE(store.DeleteCheckpoint("gone").ok());
    ASSERT_TRUE(store.PutText({.digest = "t1", .file = file}).ok());
    ASSERT_TRUE(store.PutArtifact({.digest = "a1", .bpw = 0.1, .files = {file}, .quality_json = "{}"}).ok());
    ASSERT_TRUE(store.PutServedModel({.name = "m", .source = "artifacts/a1", .drain_seconds = 1.5}).ok());
    ASSERT_TRUE(store.PutAlias({.name = "p", .targets = {{"m", 95}, {"l", 5}}, .etag = "e"}).ok());
    ASSERT_TRUE(store.PutRequest({.request_id = "r", .method = "M", .answer = "jobs/j1"}).ok());
    ASSERT_TRUE(store.PutSetting("k", "v").ok());
    ASSERT_TRUE(store.InsertKey({.id = "k1", .scopes = {Scope::kRead}, .digest = "d1"}).ok());
    ASSERT_TRUE(store.AppendAuditEvents({{.time_ms = 1, .key = "k1"}, {.time_ms = 2}, {.time_ms = 3}}, 2).ok());
    JobRecord job = SomeJob("j1");
    job.project = "p1";
    TaskRecord task = SomeTask("j1", 0, TaskStage::kQuantize);
    task.cost = 1.0 / 3;
    ASSERT_TRUE(store.InsertJob(job, {task, SomeTask("j1", 1, TaskStage::kQuantize)}).ok());
    const auto leased = this->Lease();
    ASSERT_TRUE(leased);
    this->Finish(*leased, {"blob1", "blob2"});
    ASSERT_TRUE(this->Lease());
    ASSERT_TRUE(store.PutInstance(SomeInstance("i")).ok());
    ASSERT_TRUE(store.ClaimReplica("m", "i").ok());
  }
  std::unique_ptr<MetadataStore> Empty() { return Factory::Open(this->dir_ / ("empty" + std::to_string(++empty_))); }
  int empty_ = 0;
};
TYPED_TEST_SUITE_P(BackupContract);

TYPED_TEST_P(BackupContract, BringsEverythingBack) {
  this->Fill();
  const auto lines = BackupOf(*this->store_);
  ASSERT_TRUE(lines.ok()) << lines.status();
  const auto restored = this->Empty();
  const absl::Status status = RestoreInto(*restored, *lines);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(RowsOf(*BackupOf(*restored)), RowsOf(*lines));
  EXPECT_EQ(restored->GetCheckpoint("c1")->files.at(0).name, "\xc3\xa9\"\\\n.safetensors");
  EXPECT_EQ(restored->GetArtifact("a1")->bpw, 0.1);
  EXPECT_EQ(restored->GetTask("j1", 0)->cost, 1.0 / 3);
  EXPECT_THAT(restored->GetTask("j1", 0)->blobs, testing::ElementsAre("blob1", "blob2"));
  EXPECT_TRUE(restored->ListInstances()->empty()) << "processes are not part of a backup";
  EXPECT_TRUE(restored->ListReplicas()->empty());
  // A lease goes on: its worker may still be there.
  const TaskRecord leased = *this->store_->GetTask("j1", 1);
  EXPECT_TRUE(
      restored->RenewLease({.job = "j1", .index = 1, .worker = "w", .lease_id = leased.lease_id}, 900, 0.5).ok());
}

TYPED_TEST_P(BackupContract, NumbersGoOnBehindThoseOfABackup) {
  this->Fill();
  const auto restored = this->Empty();
  ASSERT_TRUE(RestoreInto(*restored, *BackupOf(*this->store_)).ok());
  const auto last_sequence = this->store_->GetJob("j1")->sequence;
  ASSERT_TRUE(restored->InsertJob(SomeJob("j2"), {}).ok());
  EXPECT_GT(restored->GetJob("j2")->sequence, last_sequence);
  ASSERT_TRUE(restored->PutCheckpoint({.digest = "c2"}).ok());
  EXPECT_EQ(restored->ListCheckpoints({})->items.at(0).digest, "c2") << "newest first";
  ASSERT_TRUE(restored->PutArtifact({.digest = "a2"}).ok());
  EXPECT_EQ(restored->ListArtifacts({}, "")->items.at(0).digest, "a2");
  ASSERT_TRUE(restored->InsertKey({.id = "k2", .digest = "d2"}).ok());
  EXPECT_EQ(restored->ListKeys({})->items.at(0).id, "k2");
  ASSERT_TRUE(restored->AppendAuditEvents({{.time_ms = 4}}, 100).ok());
  EXPECT_EQ(restored->ListAuditEvents({}, "")->items.at(0).sequence, 4);
}

TYPED_TEST_P(BackupContract, RestoresOnlyIntoAnEmptyStore) {
  this->Fill();
  const auto lines = *BackupOf(*this->store_);
  EXPECT_EQ(ReasonOf(RestoreInto(*this->store_, lines)), "STORE_NOT_EMPTY");
  const auto restored = this->Empty();
  ASSERT_TRUE(restored->PutSetting("k", "v").ok());
  const absl::Status status = RestoreInto(*restored, lines);
  EXPECT_EQ(ReasonOf(status), "STORE_NOT_EMPTY");
  EXPECT_THAT(MessageOf(status), testing::HasSubstr("settings"));
}

TYPED_TEST_P(BackupContract, RefusesABackupThatWasChanged) {
  this->Fill();
  const BackupLines lines = *BackupOf(*this->store_);
  const auto store = this->Empty();
  const auto expect_refused = [&](const BackupLines& changed, const std::string& line, const char* what) {
    const absl::Status status = RestoreInto(*store, changed);
    EXPECT_EQ(ReasonOf(status), "BACKUP_CORRUPT") << what << ": " << status;
    EXPECT_THAT(MessageOf(status), testing::HasSubstr("line " + line + " ")) << what;
  };
  const auto changed = [&](size_t index, const std::string& from, const std::string& to) {
    BackupLines copy = lines;
    const size_t at = copy[index].find(from);
    EXPECT_NE(at, std::string::npos) << copy[index] << " has no " << from;
    if (at != std::string::npos) copy[index].replace(at, from.size(), to);
    return copy;
  };
  const auto index_of = [&](const std::string& table) {
    for (size_t i = 0; i < lines.size(); ++i) {
      if (lines[i].find("\"table\":\"" + table + "\"") != std::string::npos) return i;
    }
    ADD_FAILURE() << "no row of " << table;
    return size_t{1};
  };
  const size_t checkpoint = index_of("checkpoints");
  const std::string checkpoint_line = std::to_string(checkpoint + 1);
  const std::string last = std::to_string(lines.size());

  expect_refused({}, "1", "nothing");
  expect_refused({"what is this"}, "1", "no JSON");
  expect_refused({lines.begin() + 1, lines.end()}, "1", "no header");
  expect_refused({lines.begin(), lines.end() - 1}, last, "cut off");
  expect_refused(changed(checkpoint, "\"parameters\":7", "\"parameters\":8"), last, "another value");
  BackupLines shorter = lines;
  shorter.erase(shorter.begin() + static_cast<ptrdiff_t>(checkpoint));
  expect_refused(shorter, checkpoint_line, "files without the checkpoint that they belong to");
  BackupLines longer = lines;
  longer.push_back(lines.back());
  expect_refused(longer, std::to_string(lines.size() + 1), "a line behind the end");
  // With a last line that fits, so that the rows themselves are looked at.
  expect_refused(Sealed(changed(checkpoint, "checkpoints", "checkmates")), checkpoint_line,
                 "a table that is not known");
  expect_refused(Sealed(changed(checkpoint, "\"parameters\":7", "\"parameters\":\"7\"")), checkpoint_line, "a text");
  expect_refused(Sealed(changed(checkpoint, "\"parameters\":7", "\"parameters\":7.5")), checkpoint_line, "a fraction");
  expect_refused(Sealed(changed(checkpoint, "\"parameters\":7,", "")), checkpoint_line, "a column is missing");
  expect_refused(Sealed(changed(checkpoint, "\"parameters\":7", "\"parameters\":7,\"x\":1")), checkpoint_line,
                 "a column that is not known");
  BackupLines twice = lines;
  twice.insert(twice.begin() + static_cast<ptrdiff_t>(checkpoint), lines[checkpoint]);
  expect_refused(Sealed(twice), std::to_string(checkpoint + 2), "a row twice");
  // All or nothing: what was refused has left nothing behind.
  EXPECT_EQ(RowsOf(*BackupOf(*store)), BackupLines{});
  EXPECT_TRUE(RestoreInto(*store, lines).ok());
}

TYPED_TEST_P(BackupContract, RefusesABackupOfANewerSchemaAndTakesAnOlderOne) {
  this->Fill();
  BackupLines lines = *BackupOf(*this->store_);
  const auto with_schema = [&](int version) {
    BackupLines changed = lines;
    nlohmann::json header = nlohmann::json::parse(changed[0]);
    header["schema"] = version;
    changed[0] = header.dump();
    return Sealed(changed);
  };
  const int32_t version = this->store_->Schema()->program_version;
  const auto store = this->Empty();
  EXPECT_EQ(ReasonOf(RestoreInto(*store, with_schema(version + 1))), "STORE_VERSION");
  // A column that an older schema did not have takes its default.
  for (std::string& line : lines) {
    nlohmann::json row = nlohmann::json::parse(line);
    if (row.value("table", "") == "served_models") row["row"].erase("replicas");
    line = row.dump();
  }
  EXPECT_EQ(ReasonOf(RestoreInto(*store, with_schema(version))), "BACKUP_CORRUPT");
  const absl::Status status = RestoreInto(*store, with_schema(version - 1));
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(store->ListServedModels()->at(0).replicas, 1);
}

TYPED_TEST_P(BackupContract, ErrorsOfTheOtherSideEndIt) {
  this->Fill();
  int lines = 0;
  const absl::Status full = this->store_->Backup([&](const std::string&) -> absl::Status {
    if (++lines == 3) return ResourceExhausted("DISK_FULL", "no room");
    return absl::OkStatus();
  });
  EXPECT_EQ(ReasonOf(full), "DISK_FULL");
  EXPECT_EQ(lines, 3) << "nothing more is given away";
  const auto store = this->Empty();
  EXPECT_EQ(ReasonOf(store->Restore([]() -> absl::StatusOr<std::optional<std::string>> {
              return Unavailable("NOT_NOW", "the network is gone");
            })),
            "NOT_NOW");
}

REGISTER_TYPED_TEST_SUITE_P(BackupContract, BringsEverythingBack, NumbersGoOnBehindThoseOfABackup,
                            RestoresOnlyIntoAnEmptyStore, RefusesABackupThatWasChanged,
                            RefusesABackupOfANewerSchemaAndTakesAnOlderOne, ErrorsOfTheOtherSideEndIt);

}  // namespace qamserve
