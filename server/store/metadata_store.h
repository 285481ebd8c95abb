// The rows behind the service: who owns which blobs, what is to be done, what was answered. One contract for SQLite and
// PostgreSQL; tests/server/store/metadata_store_contract.h is its test suite.
// Thread-safe. An SQLite file belongs to one process. Every call is one transaction: durable if OK, else without
// effect. Errors: NOT_FOUND ({CHECKPOINT,TEXT,ARTIFACT,UPLOAD,JOB,TASK,KEY,REPLICA,INSTANCE}_NOT_FOUND), ALREADY_EXISTS
// (JOB_EXISTS, KEY_EXISTS), ABORTED (VERSION_CONFLICT, LEASE_LOST), FAILED_PRECONDITION (STORE_READ_ONLY,
// STORE_CREDENTIALS), UNAVAILABLE (STORE_UNAVAILABLE), RESOURCE_EXHAUSTED (DISK_FULL), DATA_LOSS (STORE_CORRUPT).
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "server/store/access_records.h"
#include "server/store/fleet_records.h"
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
// (else ABORTED, VERSION_CONFLICT); the stored version is one higher. A job that is final has no leases: a task that
// was leased since `tasks` were read is READY again, as if it had not been.
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
  std::vector<std::string> pools;
  std::string codec_version;       // only of jobs with this one, or with none; empty = of all
  std::optional<TaskStage> stage;  // only of this one, if given
};

// A right to work on a task, as LeaseTask gave it.
struct TaskLease {
  std::string job;
  int32_t index = 0;
  std::string worker;
  int64_t lease_id = 0;
};

// That something changed, told to listeners in every process. Nothing is told of what: they look at the rows.
struct StoreEvent {
  enum class Kind {
    kJob,      // job `id`: its row or its tasks
    kWork,     // there may be a task to lease
    kServing,  // served models, aliases, instances or replicas
    kAccess,   // API keys
    kMissed,   // events may have been lost (the connection was): look at everything
  };
  Kind kind = Kind::kMissed;
  std::string id;
};

// Unfinished jobs and their tasks, counted: what CountQueue tells.
struct QueueCounts {
  struct Jobs {
    std::string pool;
    std::string codec_version;
    JobState state = JobState::kQueued;
    int64_t count = 0;
    int64_t oldest_created_ms = 0;  // among them
  };
  struct Tasks {
    std::string pool;
    TaskState state = TaskState::kReady;
    int64_t count = 0;
  };
  std::vector<Jobs> jobs;    // one for each pool, codec version and state that there is
  std::vector<Tasks> tasks;  // one for each pool and state that there is
};

// What Schema tells.
struct SchemaInfo {
  std::string engine;           // "sqlite 3.40.1", "postgresql 15.18"
  int32_t version = 0;          // of the rows
  int32_t program_version = 0;  // that this program makes
  int32_t oldest_program = 0;   // programs of this version and newer can use the rows as they are
};

class MetadataStore {
 public:
  virtual ~MetadataStore() = default;

  // Whether other processes may use the store at the same time.
  virtual bool shared() const = 0;
  // Milliseconds since 1970 by the clock of the store: in a shared one the same for all processes, however their own
  // clocks are set. Does not ask the store each time.
  virtual int64_t NowMs() = 0;
  // Calls `on_event`, without locks and on a thread of the store, after each change that any process has made, this one
  // included, until the returned handle is destroyed (which waits for a running call). It must not block for long, nor
  // call the store. Events may come late, twice, or (after kMissed) not at all: listeners also look by themselves now
  // and then.
  virtual std::shared_ptr<void> Listen(std::function<void(const StoreEvent&)> on_event) = 0;
  // Runs `body`, which may call the store, while no other body of the same name runs in any process. Returns its
  // status.
  virtual absl::Status Exclusive(const std::string& name, absl::FunctionRef<absl::Status()> body) = 0;
  virtual absl::StatusOr<SchemaInfo> Schema() = 0;

  // All rows but those of instances and replicas, as lines of text that tell one moment: a header, rows, and a last
  // line with count and SHA-256. Restore takes such lines (nullopt = the end) from a store of either engine, of this
  // schema version or an older one, and is all or nothing: FAILED_PRECONDITION (STORE_NOT_EMPTY); DATA_LOSS
  // (BACKUP_CORRUPT) names the line; FAILED_PRECONDITION (STORE_VERSION).
  virtual absl::Status Backup(absl::FunctionRef<absl::Status(const std::string& line)> sink) = 0;
  virtual absl::Status Restore(absl::FunctionRef<absl::StatusOr<std::optional<std::string>>()> next_line) = 0;

  // Instances. Put replaces, and is the sign of life: `seen_ms` is set to NowMs() by the store. Only `drain_requested`
  // of a row that is there stays as it is; Put returns what it is now. Delete of a missing row is fine; with an
  // instance go its replicas.
  virtual absl::StatusOr<bool> PutInstance(const InstanceRecord& instance) = 0;
  // Sets InstanceRecord::drain_requested. NOT_FOUND (INSTANCE_NOT_FOUND).
  virtual absl::Status RequestDrain(const std::string& id, bool requested) = 0;
  virtual absl::StatusOr<std::vector<InstanceRecord>> ListInstances() = 0;  // oldest first
  virtual absl::Status DeleteInstance(const std::string& id) = 0;
  // Those last seen before; returns how many.
  virtual absl::StatusOr<int64_t> DeleteInstancesBefore(int64_t seen_ms) = 0;

  // Replicas. Claim inserts a LOADING row if the served model is there, has fewer replicas than it wants
  // (ServedModelRecord::replicas; FAILED and DRAINING ones count for their own instance only) and none on this
  // instance, which nobody has asked to drain; returns whether it did. Reclaim is for an instance that has the model
  // and whose row went with that of the instance. It is as Claim, but for one that was asked to drain: that gets a
  // DRAINING row, which takes no place and so needs none that is free. Put changes a row; NOT_FOUND (REPLICA_NOT_FOUND)
  // if it is gone. Delete of a missing row is fine.
  virtual absl::StatusOr<bool> ClaimReplica(const std::string& model, const std::string& instance) = 0;
  virtual absl::StatusOr<bool> ReclaimReplica(const std::string& model, const std::string& instance) = 0;
  virtual absl::Status PutReplica(const ReplicaRecord& replica) = 0;
  virtual absl::StatusOr<std::vector<ReplicaRecord>> ListReplicas() = 0;  // by model, then instance
  virtual absl::Status DeleteReplica(const std::string& model, const std::string& instance) = 0;

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

  // Jobs whose artifact is still to be loaded (HasLoadWish), in the order of their creation. Reads all jobs: for now
  // and then.
  virtual absl::StatusOr<std::vector<JobRecord>> ListLoadWishes() = 0;
  // The job's wish is seen to: its mark goes and, in the same transaction, `model` is put if it is given. Returns
  // whether the wish was still as `job` was read; if not, nothing is written.
  virtual absl::StatusOr<bool> AnswerLoadWish(const JobRecord& job, const std::optional<ServedModelRecord>& model) = 0;

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
  // In the order in which they are worked on next (queue_order.h).
  virtual absl::StatusOr<std::vector<JobRecord>> ListUnfinishedJobs() = 0;
  virtual absl::Status DeleteJob(const std::string& id) = 0;  // and its tasks
  virtual absl::StatusOr<TaskRecord> GetTask(const std::string& job, int32_t index) = 0;
  virtual absl::StatusOr<std::vector<TaskRecord>> ListTasks(const std::string& job) = 0;  // by index
  virtual absl::Status Apply(const JobChange& change) = 0;

  // Leases the first READY task that `filter` lets through whose job's earlier rounds and, in its round, lower stages
  // are all done: LEASED, attempts + 1, a new lease id, progress 0. Jobs come in the order of OrderQueue
  // (queue_order.h). No value if there is none at `now_ms`. Calls at the same time get different tasks and do not wait
  // for each other where the engine can help it.
  virtual absl::StatusOr<std::optional<TaskRecord>> LeaseTask(const std::string& worker, const TaskFilter& filter,
                                                              int64_t now_ms, int64_t lease_ms) = 0;
  // Moves the end of the lease and notes how much of the task is done (0..1); the task's version stays. ABORTED
  // (LEASE_LOST) if the task is no longer leased under it.
  virtual absl::Status RenewLease(const TaskLease& lease, int64_t expires_ms, double progress) = 0;
  // LEASED tasks whose lease ended at or before `now_ms`.
  virtual absl::StatusOr<std::vector<TaskRecord>> ListExpiredTasks(int64_t now_ms) = 0;
  virtual absl::StatusOr<std::vector<TaskRecord>> ListLeasedTasks() = 0;
  // The next time at which a lease ends or a READY task of an unfinished job leaves its backoff, after `now_ms`.
  virtual absl::StatusOr<std::optional<int64_t>> NextDeadline(int64_t now_ms) = 0;

  // For metrics: counted by the store, so that it is quick however long the queue is.
  virtual absl::StatusOr<QueueCounts> CountQueue() = 0;

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
