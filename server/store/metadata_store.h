// The rows behind the service: who owns which blobs, what is to be done, what was answered. One contract for SQLite and
// whatever comes after it; tests/server/store/metadata_store_contract.h is its test suite.
// Thread-safe. Every call is one transaction: durable when it returns OK, without any effect when it does not.
// Errors: NOT_FOUND (CHECKPOINT_NOT_FOUND, TEXT_NOT_FOUND, ARTIFACT_NOT_FOUND, UPLOAD_NOT_FOUND, JOB_NOT_FOUND,
// TASK_NOT_FOUND, KEY_NOT_FOUND), ALREADY_EXISTS (JOB_EXISTS, KEY_EXISTS), ABORTED (VERSION_CONFLICT, LEASE_LOST), UNAVAILABLE
// (STORE_UNAVAILABLE), RESOURCE_EXHAUSTED (DISK_FULL), DATA_LOSS (STORE_CORRUPT).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "server/store/access_records.h"
#include "server/store/records.h"

namespace qamserve {

// Lists are newest first. INVALID_ARGUMENT: PAGE_SIZE outside 0..1000, PAGE_TOKEN that this store did not make.
struct PageRequest {
  int32_t page_size = 0;  // 0 = 50
  std::string page_token;
};
template <typename T>
struct Page {
  std::vector<T> items;
  std::string next_page_token;  // empty on the last page
};

// Several rows changed at once, or none. A job or task is written only if its `version` is still the one that was read
// (else ABORTED, VERSION_CONFLICT); the stored version is one higher.
struct JobChange {
  std::vector<JobRecord> jobs;
  std::vector<TaskRecord> tasks;
  std::optional<ArtifactRecord> artifact;  // inserted; one that is there already stays as it is
  std::vector<TaskRecord> new_tasks;       // inserted
};

struct JobFilter {
  std::optional<JobState> state;
  std::string checkpoint;  // digest, if not empty
};

// Which tasks a worker takes.
struct TaskFilter {
  std::string pool;
  std::optional<TaskStage> stage;  // only of this one, if given
};

// A right to work on a task, as LeaseTask gave it.
struct TaskLease {
  std::string job;
  int32_t index = 0;
  std::string worker;
  int64_t lease_id = 0;
};

class MetadataStore {
 public:
  virtual ~MetadataStore() = default;

  // Uploads. Put replaces.
  virtual absl::Status PutUpload(const UploadRecord& upload) = 0;
  virtual absl::StatusOr<UploadRecord> GetUpload(const std::string& id) = 0;
  // The newest one without a result.
  virtual absl::StatusOr<std::optional<UploadRecord>> FindOpenUpload(const std::string& content_key) = 0;
  virtual absl::Status DeleteUpload(const std::string& id) = 0;
  // Removes uploads created before `before_ms`.
  virtual absl::Status DeleteUploadsBefore(int64_t before_ms) = 0;

  // Checkpoints, texts, artifacts. Put leaves a row of the same digest as it is. Delete of a missing row is NOT_FOUND.
  virtual absl::Status PutCheckpoint(const CheckpointRecord& checkpoint) = 0;
  virtual absl::StatusOr<CheckpointRecord> GetCheckpoint(const std::string& digest) = 0;
  virtual absl::StatusOr<Page<CheckpointRecord>> ListCheckpoints(const PageRequest& page) = 0;
  virtual absl::Status DeleteCheckpoint(const std::string& digest) = 0;

  virtual absl::Status PutText(const TextRecord& text) = 0;
  virtual absl::StatusOr<TextRecord> GetText(const std::string& digest) = 0;
  virtual absl::Status DeleteText(const std::string& digest) = 0;

  virtual absl::Status PutArtifact(const ArtifactRecord& artifact) = 0;
  virtual absl::StatusOr<ArtifactRecord> GetArtifact(const std::string& digest) = 0;
  // `checkpoint`: only artifacts made from this digest, if not empty.
  virtual absl::StatusOr<Page<ArtifactRecord>> ListArtifacts(const PageRequest& page,
                                                             const std::string& checkpoint) = 0;
  virtual absl::Status DeleteArtifact(const std::string& digest) = 0;

  // Served models. Put replaces; Delete of a missing row is fine.
  virtual absl::Status PutServedModel(const ServedModelRecord& model) = 0;
  virtual absl::StatusOr<std::vector<ServedModelRecord>> ListServedModels() = 0;  // by name
  virtual absl::Status DeleteServedModel(const std::string& name) = 0;

  // Aliases of served models, each with its targets. Put replaces; Delete of a missing row is fine.
  virtual absl::Status PutAlias(const AliasRecord& alias) = 0;
  virtual absl::StatusOr<std::vector<AliasRecord>> ListAliases() = 0;  // by name
  virtual absl::Status DeleteAlias(const std::string& name) = 0;

  // Request ids. Put of an id that is there is ALREADY_EXISTS (REQUEST_ID_REUSED).
  virtual absl::StatusOr<std::optional<RequestRecord>> FindRequest(const std::string& request_id) = 0;
  virtual absl::Status PutRequest(const RequestRecord& request) = 0;
  virtual absl::Status DeleteRequestsBefore(int64_t before_ms) = 0;

  // Jobs and tasks. InsertJob is ALREADY_EXISTS (JOB_EXISTS) while an unfinished job has the same key or any has the
  // id.
  virtual absl::Status InsertJob(const JobRecord& job, const std::vector<TaskRecord>& tasks) = 0;
  virtual absl::StatusOr<JobRecord> GetJob(const std::string& id) = 0;
  // The newest one.
  virtual absl::StatusOr<std::optional<JobRecord>> FindJobByKey(const std::string& key) = 0;
  virtual absl::StatusOr<Page<JobRecord>> ListJobs(const PageRequest& page, const JobFilter& filter) = 0;
  // In the order in which they are worked on: priority, then age.
  virtual absl::StatusOr<std::vector<JobRecord>> ListUnfinishedJobs() = 0;
  virtual absl::Status DeleteJob(const std::string& id) = 0;  // and its tasks
  virtual absl::StatusOr<TaskRecord> GetTask(const std::string& job, int32_t index) = 0;
  virtual absl::StatusOr<std::vector<TaskRecord>> ListTasks(const std::string& job) = 0;  // by index
  virtual absl::Status Apply(const JobChange& change) = 0;

  // Leases the first READY task that `filter` lets through of the most important, then oldest unfinished job whose
  // earlier rounds and, in its round, lower stages are all done: LEASED, attempts + 1, a new lease id. No value if
  // there is none at `now_ms`.
  virtual absl::StatusOr<std::optional<TaskRecord>> LeaseTask(const std::string& worker, const TaskFilter& filter,
                                                              int64_t now_ms, int64_t lease_ms) = 0;
  // Moves the end of the lease. ABORTED (LEASE_LOST) if the task is no longer leased under it.
  virtual absl::Status RenewLease(const TaskLease& lease, int64_t expires_ms) = 0;
  // LEASED tasks whose lease ended at or before `now_ms`.
  virtual absl::StatusOr<std::vector<TaskRecord>> ListExpiredTasks(int64_t now_ms) = 0;
  virtual absl::StatusOr<std::vector<TaskRecord>> ListLeasedTasks() = 0;
  // The next time at which a lease ends or a READY task of an unfinished job leaves its backoff, after `now_ms`.
  virtual absl::StatusOr<std::optional<int64_t>> NextDeadline(int64_t now_ms) = 0;

  // Every blob that some row needs: open uploads, checkpoints, texts, artifacts, and tasks of jobs that are unfinished
  // or FAILED or CANCELLED since `retry_since_ms` (they may be retried).
  virtual absl::StatusOr<std::set<std::string>> ReferencedBlobs(int64_t retry_since_ms) = 0;

  // API keys. Insert is ALREADY_EXISTS (KEY_EXISTS) if one has the id or the digest; Update writes all but `use`.
  virtual absl::Status InsertKey(const KeyRecord& key) = 0;
  virtual absl::Status UpdateKey(const KeyRecord& key) = 0;
  // Of a key that is gone: nothing.
  virtual absl::Status SetKeyUse(const std::string& id, const KeyUse& use) = 0;
  virtual absl::StatusOr<Page<KeyRecord>> ListKeys(const PageRequest& page) = 0;
  virtual absl::StatusOr<std::vector<KeyRecord>> ListAllKeys() = 0;  // oldest first
  virtual absl::Status DeleteKey(const std::string& id) = 0;

  // The audit log. Append numbers `events` in order and keeps only the newest `keep` of all.
  virtual absl::Status AppendAuditEvents(const std::vector<AuditRecord>& events, int64_t keep) = 0;
  // `key`: only of this id, if not empty.
  virtual absl::StatusOr<Page<AuditRecord>> ListAuditEvents(const PageRequest& page, const std::string& key) = 0;

  // Small facts that outlive a restart, such as how fast this machine is.
  virtual absl::StatusOr<std::map<std::string, std::string>> ListSettings() = 0;
  virtual absl::Status PutSetting(const std::string& key, const std::string& value) = 0;
};

}  // namespace qamserve
