// The test suite of every MetadataStore: rows, and by way of other files the queue, the fleet, backups and schemas. See
// metadata_store_fixture.h for how an engine plugs in.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "tests/server/store/backup_contract.h"
#include "tests/server/store/fleet_contract.h"
#include "tests/server/store/metadata_store_fixture.h"
#include "tests/server/store/queue_contract.h"
#include "tests/server/store/schema_contract.h"

namespace qamserve {

// "model=weight ..." in the order of the record.
inline std::string TargetsOf(const AliasRecord& alias) {
  std::string text;
  for (const AliasTarget& target : alias.targets) {
    text += (text.empty() ? "" : " ") + target.model + "=" + std::to_string(target.weight);
  }
  return text;
}

template <typename Factory>
class MetadataStoreContract : public MetadataStoreFixture<Factory> {};
TYPED_TEST_SUITE_P(MetadataStoreContract);

TYPED_TEST_P(MetadataStoreContract, KeepsRecordsOverARestart) {
  const FileRecord file{.name = "model.safetensors", .sha256 = "f1", .size_bytes = uint64_t{5} << 40};
  ASSERT_TRUE(this->store_
                  ->PutCheckpoint({.digest = "c1",
                                   .display_name = "tiny \xc3\xa9",
                                   .architecture = "llama",
                                   .parameters = 7,
                                   .size_bytes = 9,
                                   .files = {file},
                                   .created_ms = 5})
                  .ok());
  ASSERT_TRUE(this->store_->PutText({.digest = "t1", .display_name = "wiki", .file = file, .created_ms = 6}).ok());
  ArtifactRecord artifact{.digest = "a1",
                          .display_name = "",
                          .checkpoint = "c1",
                          .architecture = "llama",
                          .codec = "joint",
                          .bpw = 5.52,
                          .size_bytes = 3,
                          .files = {file, file},
                          .job = "j1",
                          .quality_json = "{}",
                          .tensors_json = "[]",
                          .created_ms = 7};
  ASSERT_TRUE(this->store_->PutArtifact(artifact).ok());
  ASSERT_TRUE(this->store_->PutServedModel({.name = "m", .source = "artifacts/a1", .context_tokens = 4}).ok());
  ASSERT_TRUE(
      this->store_->PutAlias({.name = "p", .targets = {{"m", 95}, {"l", 5}}, .etag = "e", .updated_ms = 8}).ok());
  ASSERT_TRUE(this->store_->PutSetting("k", "1").ok());
  ASSERT_TRUE(this->store_->PutSetting("k", "2").ok());
  this->Reopen();
  const auto checkpoint = this->store_->GetCheckpoint("c1");
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_EQ(checkpoint->display_name, "tiny \xc3\xa9");
  EXPECT_EQ(checkpoint->parameters, 7);
  ASSERT_EQ(checkpoint->files.size(), 1u);
  EXPECT_EQ(checkpoint->files[0].size_bytes, uint64_t{5} << 40);
  EXPECT_EQ(this->store_->GetText("t1")->file.name, "model.safetensors");
  EXPECT_EQ(this->store_->GetArtifact("a1")->bpw, 5.52);
  EXPECT_EQ(this->store_->GetArtifact("a1")->files.size(), 2u);
  EXPECT_EQ(this->store_->ListServedModels()->front().source, "artifacts/a1");
  const auto aliases = this->store_->ListAliases();
  ASSERT_TRUE(aliases.ok()) << aliases.status();
  ASSERT_EQ(aliases->size(), 1u);
  EXPECT_EQ(aliases->front().name, "p");
  EXPECT_EQ(aliases->front().etag, "e");
  EXPECT_EQ(aliases->front().updated_ms, 8);
  EXPECT_EQ(TargetsOf(aliases->front()), "m=95 l=5");
  EXPECT_EQ(this->store_->ListSettings()->at("k"), "2");
}

TYPED_TEST_P(MetadataStoreContract, PutReplacesAnAliasWithAllItsTargets) {
  ASSERT_TRUE(this->store_->PutAlias({.name = "b", .targets = {{"m", 1}, {"l", 2}}, .etag = "1"}).ok());
  ASSERT_TRUE(this->store_->PutAlias({.name = "a", .targets = {{"m", 3}}, .etag = "2"}).ok());
  ASSERT_TRUE(this->store_->PutAlias({.name = "b", .targets = {{"n", 1'000'000}}, .etag = "3"}).ok());
  auto aliases = *this->store_->ListAliases();
  ASSERT_EQ(aliases.size(), 2u);
  EXPECT_EQ(aliases[0].name, "a") << "aliases are listed by name";
  EXPECT_EQ(TargetsOf(aliases[0]), "m=3");
  EXPECT_EQ(aliases[1].etag, "3");
  EXPECT_EQ(TargetsOf(aliases[1]), "n=1000000");
  // Targets go with their alias: one of the same name that comes later begins anew.
  ASSERT_TRUE(this->store_->DeleteAlias("b").ok());
  ASSERT_EQ(this->store_->ListAliases()->size(), 1u);
  ASSERT_TRUE(this->store_->PutAlias({.name = "b", .targets = {{"l", 7}}}).ok());
  EXPECT_EQ(TargetsOf(this->store_->ListAliases()->back()), "l=7");
}

TYPED_TEST_P(MetadataStoreContract, NamesWhatIsMissing) {
  EXPECT_EQ(ReasonOf(this->store_->GetCheckpoint("x").status()), "CHECKPOINT_NOT_FOUND");
  EXPECT_EQ(ReasonOf(this->store_->DeleteCheckpoint("x")), "CHECKPOINT_NOT_FOUND");
  EXPECT_EQ(ReasonOf(this->store_->GetText("x").status()), "TEXT_NOT_FOUND");
  EXPECT_EQ(ReasonOf(this->store_->GetArtifact("x").status()), "ARTIFACT_NOT_FOUND");
  EXPECT_EQ(ReasonOf(this->store_->DeleteArtifact("x")), "ARTIFACT_NOT_FOUND");
  EXPECT_EQ(ReasonOf(this->store_->GetUpload("x").status()), "UPLOAD_NOT_FOUND");
  EXPECT_EQ(ReasonOf(this->store_->GetJob("x").status()), "JOB_NOT_FOUND");
  EXPECT_EQ(ReasonOf(this->store_->GetTask("x", 0).status()), "TASK_NOT_FOUND");
  EXPECT_FALSE(this->store_->FindJobByKey("x")->has_value());
  EXPECT_FALSE(this->store_->FindRequest("x")->has_value());
  EXPECT_TRUE(this->store_->DeleteServedModel("x").ok());
  EXPECT_TRUE(this->store_->DeleteAlias("x").ok());
}

TYPED_TEST_P(MetadataStoreContract, ListsInPagesNewestFirst) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(this->store_->PutCheckpoint({.digest = "c" + std::to_string(i)}).ok());
  }
  // The same digest again changes nothing, not even the order.
  ASSERT_TRUE(this->store_->PutCheckpoint({.digest = "c0", .display_name = "other"}).ok());
  std::vector<std::string> seen;
  PageRequest request{.page_size = 2, .page_token = ""};
  for (int pages = 0; pages < 10; ++pages) {
    const auto page = this->store_->ListCheckpoints(request);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const auto& item : page->items) seen.push_back(item.digest);
    request.page_token = page->next_page_token;
    if (request.page_token.empty()) break;
  }
  EXPECT_THAT(seen, testing::ElementsAre("c4", "c3", "c2", "c1", "c0"));
  EXPECT_EQ(this->store_->GetCheckpoint("c0")->display_name, "");
  EXPECT_EQ(ReasonOf(this->store_->ListCheckpoints({.page_size = 1001, .page_token = ""}).status()), "PAGE_SIZE");
  EXPECT_EQ(ReasonOf(this->store_->ListCheckpoints({.page_size = -1, .page_token = ""}).status()), "PAGE_SIZE");
  EXPECT_EQ(ReasonOf(this->store_->ListJobs({.page_size = 1, .page_token = "1 OR 1"}, {}).status()), "PAGE_TOKEN");
}

TYPED_TEST_P(MetadataStoreContract, FindsOpenUploadsByContent) {
  UploadRecord upload{.id = "u1",
                      .kind = UploadKind::kText,
                      .display_name = "d",
                      .content_key = "k",
                      .result = "",
                      .files = {{.name = "a", .sha256 = "s", .size_bytes = 1}},
                      .created_ms = 10};
  ASSERT_TRUE(this->store_->PutUpload(upload).ok());
  EXPECT_EQ((*this->store_->FindOpenUpload("k"))->id, "u1");
  EXPECT_EQ(this->store_->GetUpload("u1")->files.size(), 1u);
  upload.result = "texts/s";
  ASSERT_TRUE(this->store_->PutUpload(upload).ok());
  EXPECT_FALSE(this->store_->FindOpenUpload("k")->has_value());
  EXPECT_EQ(this->store_->GetUpload("u1")->files.size(), 1u);
  ASSERT_TRUE(this->store_->DeleteUploadsBefore(10).ok());
  EXPECT_TRUE(this->store_->GetUpload("u1").ok());
  ASSERT_TRUE(this->store_->DeleteUploadsBefore(11).ok());
  EXPECT_FALSE(this->store_->GetUpload("u1").ok());
}

TYPED_TEST_P(MetadataStoreContract, RemembersRequests) {
  const RequestRecord request{
      .request_id = "r", .method = "M", .payload_digest = "p", .answer = "jobs/1", .created_ms = 3};
  ASSERT_TRUE(this->store_->PutRequest(request).ok());
  EXPECT_EQ((*this->store_->FindRequest("r"))->answer, "jobs/1");
  EXPECT_EQ(ReasonOf(this->store_->PutRequest(request)), "REQUEST_ID_REUSED");
  ASSERT_TRUE(this->store_->DeleteRequestsBefore(4).ok());
  EXPECT_FALSE(this->store_->FindRequest("r")->has_value());
}

TYPED_TEST_P(MetadataStoreContract, HasOneUnfinishedJobPerKey) {
  JobRecord job = SomeJob("j1");
  ASSERT_TRUE(this->store_->InsertJob(job, {SomeTask("j1", 0, TaskStage::kPrepare)}).ok());
  JobRecord twin = SomeJob("j2");
  twin.key = job.key;
  EXPECT_EQ(ReasonOf(this->store_->InsertJob(twin, {SomeTask("j2", 0, TaskStage::kPrepare)})), "JOB_EXISTS");
  EXPECT_FALSE(this->store_->GetTask("j2", 0).ok()) << "a refused insert left a task";
  job = *this->store_->GetJob("j1");
  job.state = JobState::kFailed;
  ASSERT_TRUE(this->store_->Apply({.jobs = {job}, .tasks = {}, .artifact = {}}).ok());
  EXPECT_TRUE(this->store_->InsertJob(twin, {}).ok());
  EXPECT_EQ((*this->store_->FindJobByKey(job.key))->id, "j2");
  // Retrying the first would make two.
  job = *this->store_->GetJob("j1");
  job.state = JobState::kQueued;
  EXPECT_EQ(ReasonOf(this->store_->Apply({.jobs = {job}, .tasks = {}, .artifact = {}})), "JOB_EXISTS");
  EXPECT_EQ(this->store_->ListUnfinishedJobs()->size(), 1u);
  EXPECT_EQ(this->store_->ListJobs({}, {.state = JobState::kFailed, .checkpoint = ""})->items.size(), 1u);
}

TYPED_TEST_P(MetadataStoreContract, AppliesAllOrNothing) {
  ASSERT_TRUE(this->store_->InsertJob(SomeJob("j1"), {SomeTask("j1", 0, TaskStage::kPrepare)}).ok());
  JobRecord job = *this->store_->GetJob("j1");
  TaskRecord task = *this->store_->GetTask("j1", 0);
  job.state = JobState::kRunning;
  task.version += 1;  // as if read from the future
  ArtifactRecord artifact;
  artifact.digest = "a1";
  EXPECT_EQ(ReasonOf(this->store_->Apply({.jobs = {job}, .tasks = {task}, .artifact = artifact})), "VERSION_CONFLICT");
  EXPECT_EQ(this->store_->GetJob("j1")->state, JobState::kQueued);
  EXPECT_FALSE(this->store_->GetArtifact("a1").ok());
  task.version -= 1;
  ASSERT_TRUE(this->store_->Apply({.jobs = {job}, .tasks = {task}, .artifact = artifact}).ok());
  EXPECT_EQ(this->store_->GetJob("j1")->state, JobState::kRunning);
  EXPECT_TRUE(this->store_->GetArtifact("a1").ok());
  EXPECT_EQ(ReasonOf(this->store_->Apply({.jobs = {job}, .tasks = {}, .artifact = {}})), "VERSION_CONFLICT");
}

TYPED_TEST_P(MetadataStoreContract, KnowsWhichBlobsAreNeeded) {
  auto file = [](const std::string& sha) { return FileRecord{.name = "n", .sha256 = sha, .size_bytes = 1}; };
  UploadRecord upload;
  upload.id = "u";
  upload.files = {file("upload")};
  ASSERT_TRUE(this->store_->PutUpload(upload).ok());
  FileRecord external = file("external");
  external.external_path = "/elsewhere";
  ASSERT_TRUE(this->store_->PutCheckpoint({.digest = "c", .files = {file("checkpoint"), external}}).ok());
  ASSERT_TRUE(this->store_->PutText({.digest = "text", .file = file("text")}).ok());
  ArtifactRecord artifact;
  artifact.digest = "a";
  artifact.files = {file("artifact")};
  ASSERT_TRUE(this->store_->PutArtifact(artifact).ok());
  ASSERT_TRUE(this->store_->InsertJob(SomeJob("j1"), {SomeTask("j1", 0, TaskStage::kPrepare)}).ok());
  const auto task = *this->store_->LeaseTask("w", {.pools = {"cpu"}}, 0, 50);
  this->Finish(*task, {"packed", "packed2"});
  EXPECT_THAT(this->store_->GetTask("j1", 0)->blobs, testing::ElementsAre("packed", "packed2"));
  EXPECT_THAT(*this->store_->ReferencedBlobs(0),
              testing::UnorderedElementsAre("upload", "checkpoint", "text", "artifact", "packed", "packed2"));
  JobRecord job = *this->store_->GetJob("j1");
  job.state = JobState::kFailed;
  job.ended_ms = 1000;
  ASSERT_TRUE(this->store_->Apply({.jobs = {job}, .tasks = {}, .artifact = {}}).ok());
  EXPECT_TRUE(this->store_->ReferencedBlobs(1000)->contains("packed"));
  EXPECT_FALSE(this->store_->ReferencedBlobs(1001)->contains("packed"));
  job = *this->store_->GetJob("j1");
  job.state = JobState::kSucceeded;
  ASSERT_TRUE(this->store_->Apply({.jobs = {job}, .tasks = {}, .artifact = {}}).ok());
  EXPECT_FALSE(this->store_->ReferencedBlobs(0)->contains("packed"));
  ASSERT_TRUE(this->store_->DeleteJob("j1").ok());
  EXPECT_FALSE(this->store_->GetTask("j1", 0).ok());
}

TYPED_TEST_P(MetadataStoreContract, KeepsKeysWithWhatTheyMayAndWhenTheyWereUsed) {
  KeyRecord key{.id = "k1",
                .display_name = "pipeline",
                .scopes = {Scope::kRead, Scope::kAdmin},
                .limits = {1, 2, 3, int64_t{5} << 40},
                .hint = "qsk-abcd",
                .digest = "d1",
                .created_ms = 7,
                .expires_ms = 9};
  ASSERT_TRUE(this->store_->InsertKey(key).ok());
  EXPECT_EQ(ReasonOf(this->store_->InsertKey(key)), "KEY_EXISTS");
  EXPECT_EQ(ReasonOf(this->store_->InsertKey({.id = "k2", .digest = "d1"})), "KEY_EXISTS") << "two with one secret";
  ASSERT_TRUE(this->store_->InsertKey({.id = "k2", .digest = "d2"}).ok());
  ASSERT_TRUE(this->store_->SetKeyUse("k1", {.last_used_ms = 11, .upload_day = 12, .upload_bytes = 13}).ok());
  EXPECT_TRUE(this->store_->SetKeyUse("gone", {}).ok());
  key.previous_digest = "d1";
  key.digest = "d3";
  key.previous_expires_ms = 21;
  key.revoked_ms = 22;
  ASSERT_TRUE(this->store_->UpdateKey(key).ok());
  EXPECT_EQ(ReasonOf(this->store_->UpdateKey({.id = "gone"})), "KEY_NOT_FOUND");
  this->Reopen();
  const auto keys = this->store_->ListAllKeys();
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 2u);
  const KeyRecord& kept = keys->front();
  EXPECT_EQ(kept.id, "k1");
  EXPECT_EQ(kept.display_name, "pipeline");
  EXPECT_EQ(kept.scopes.bits(), (ScopeSet{Scope::kRead, Scope::kAdmin}).bits());
  EXPECT_EQ(kept.limits.requests_per_minute, 1);
  EXPECT_EQ(kept.limits.tokens_per_minute, 2);
  EXPECT_EQ(kept.limits.concurrent_requests, 3);
  EXPECT_EQ(kept.limits.upload_bytes_per_day, int64_t{5} << 40);
  EXPECT_EQ(kept.hint, "qsk-abcd");
  EXPECT_EQ(kept.digest, "d3");
  EXPECT_EQ(kept.previous_digest, "d1");
  EXPECT_EQ(kept.previous_expires_ms, 21);
  EXPECT_EQ(kept.created_ms, 7);
  EXPECT_EQ(kept.expires_ms, 9);
  EXPECT_EQ(kept.revoked_ms, 22);
  EXPECT_EQ(kept.use.last_used_ms, 11) << "an update leaves the use alone";
  EXPECT_EQ(kept.use.upload_day, 12);
  EXPECT_EQ(kept.use.upload_bytes, 13);
  const auto page = *this->store_->ListKeys({.page_size = 1, .page_token = ""});
  ASSERT_EQ(page.items.size(), 1u);
  EXPECT_EQ(page.items[0].id, "k2");
  EXPECT_EQ(this->store_->ListKeys({.page_size = 1, .page_token = page.next_page_token})->items[0].id, "k1");
  EXPECT_EQ(ReasonOf(this->store_->ListKeys({.page_size = 1001, .page_token = ""}).status()), "PAGE_SIZE");
  ASSERT_TRUE(this->store_->DeleteKey("k2").ok());
  EXPECT_EQ(ReasonOf(this->store_->DeleteKey("k2")), "KEY_NOT_FOUND");
  EXPECT_EQ(this->store_->ListAllKeys()->size(), 1u);
}

TYPED_TEST_P(MetadataStoreContract, KeepsTheNewestAuditEvents) {
  std::vector<AuditRecord> events(3);
  for (size_t i = 0; i < events.size(); ++i) {
    events[i] = {.sequence = 0,
                 .time_ms = static_cast<int64_t>(i),
                 .key = i == 1 ? "k1" : "",
                 .method = "JobService.DeleteJob",
                 .resource = "jobs/1",
                 .code = "OK",
                 .reason = "R",
                 .peer = "127.0.0.1:1"};
  }
  ASSERT_TRUE(this->store_->AppendAuditEvents(events, 4).ok());
  ASSERT_TRUE(this->store_->AppendAuditEvents(events, 4).ok());
  this->Reopen();
  auto page = *this->store_->ListAuditEvents({}, "");
  ASSERT_EQ(page.items.size(), 4u);
  EXPECT_EQ(page.items[0].sequence, 6);
  EXPECT_EQ(page.items[3].sequence, 3);
  EXPECT_EQ(page.items[0].time_ms, 2);
  EXPECT_EQ(page.items[0].method, "JobService.DeleteJob");
  EXPECT_EQ(page.items[0].resource, "jobs/1");
  EXPECT_EQ(page.items[0].code, "OK");
  EXPECT_EQ(page.items[0].reason, "R");
  EXPECT_EQ(page.items[0].peer, "127.0.0.1:1");
  page = *this->store_->ListAuditEvents({}, "k1");
  ASSERT_EQ(page.items.size(), 1u);
  EXPECT_EQ(page.items[0].sequence, 5);
  page = *this->store_->ListAuditEvents({.page_size = 3, .page_token = ""}, "");
  EXPECT_EQ(page.items.size(), 3u);
  EXPECT_EQ(this->store_->ListAuditEvents({.page_size = 3, .page_token = page.next_page_token}, "")->items.size(), 1u);
  // Numbers go on: one that was given out does not come again, whatever was dropped.
  ASSERT_TRUE(this->store_->AppendAuditEvents({events[0]}, 1).ok());
  page = *this->store_->ListAuditEvents({}, "");
  ASSERT_EQ(page.items.size(), 1u);
  EXPECT_EQ(page.items[0].sequence, 7);
}

TYPED_TEST_P(MetadataStoreContract, AWishToLoadIsAnsweredOnceWithTheModelsRow) {
  for (const auto& [id, state, load_as] :
       {std::tuple("done", JobState::kSucceeded, "+m"), std::tuple("earlier program", JobState::kSucceeded, "n"),
        std::tuple("rejected", JobState::kRejected, "o"), std::tuple("running", JobState::kRunning, "p")}) {
    JobRecord job = SomeJob(id);
    job.state = state;
    job.load_as = load_as;
    ASSERT_TRUE(this->store_->InsertJob(job, {}).ok());
  }
  const auto wishes = this->store_->ListLoadWishes();
  ASSERT_TRUE(wishes.ok()) << wishes.status();
  ASSERT_EQ(wishes->size(), 1u);
  const JobRecord& job = wishes->front();
  EXPECT_EQ(job.id, "done");
  EXPECT_TRUE(HasLoadWish(job));
  const ServedModelRecord model{.name = "m", .source = "artifacts/a"};
  const auto answered = this->store_->AnswerLoadWish(job, model);
  ASSERT_TRUE(answered.ok()) << answered.status();
  EXPECT_TRUE(*answered);
  EXPECT_EQ(this->store_->GetJob("done")->load_as, "m");
  EXPECT_EQ(this->store_->ListServedModels()->size(), 1u);
  EXPECT_TRUE(this->store_->ListLoadWishes()->empty());
  // Unloaded since; a process that has read the wish before comes too late.
  ASSERT_TRUE(this->store_->DeleteServedModel("m").ok());
  EXPECT_FALSE(*this->store_->AnswerLoadWish(job, model));
  EXPECT_TRUE(this->store_->ListServedModels()->empty());
}

REGISTER_TYPED_TEST_SUITE_P(MetadataStoreContract, KeepsRecordsOverARestart, PutReplacesAnAliasWithAllItsTargets,
                            NamesWhatIsMissing, ListsInPagesNewestFirst, FindsOpenUploadsByContent, RemembersRequests,
                            HasOneUnfinishedJobPerKey, AppliesAllOrNothing, KnowsWhichBlobsAreNeeded,
                            KeepsKeysWithWhatTheyMayAndWhenTheyWereUsed, KeepsTheNewestAuditEvents,
                            AWishToLoadIsAnsweredOnceWithTheModelsRow);

// All suites, for an engine.
#define INSTANTIATE_METADATA_STORE_CONTRACT(prefix, factory)              \
  INSTANTIATE_TYPED_TEST_SUITE_P(prefix, MetadataStoreContract, factory); \
  INSTANTIATE_TYPED_TEST_SUITE_P(prefix, QueueContract, factory);         \
  INSTANTIATE_TYPED_TEST_SUITE_P(prefix, FleetContract, factory);         \
  INSTANTIATE_TYPED_TEST_SUITE_P(prefix, BackupContract, factory);        \
  INSTANTIATE_TYPED_TEST_SUITE_P(prefix, SchemaContract, factory)

}  // namespace qamserve
