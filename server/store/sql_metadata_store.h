// MetadataStore over an SQL engine: every statement is written once, for SQLite and PostgreSQL. Internal to
// server/store; see metadata_store.h for what the calls do. Methods are in sql_metadata_store.cc and, for uploads,
// checkpoints, texts and artifacts, in sql_files.cc; for jobs and tasks, in sql_jobs.cc and sql_lease.cc; for
// instances, served models and aliases, in sql_fleet.cc; for keys and the audit log, in sql_access.cc; for backups, in
// sql_backup.cc.
//
// Statements must be right at the isolation level READ COMMITTED, where each sees what others have committed until it
// begins: what was read is either locked, or written under a condition that says it again. Locks are taken in one order
// (a job before its tasks; a served model before its replicas). Bodies of transactions may run twice, so they set what
// they give out anew.
#pragma once

#include <absl/functional/function_ref.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server/store/metadata_store.h"
#include "server/store/queue_order.h"
#include "server/store/sql_database.h"
#include "server/store/sql_schema.h"

namespace qamserve {

class SqlMetadataStore : public MetadataStore {
 public:
  // See PrepareSchema for `policy` and errors.
  static absl::StatusOr<std::unique_ptr<MetadataStore>> Open(std::unique_ptr<SqlDatabase> database,
                                                             const SqlSchema& schema, SchemaPolicy policy);

  bool shared() const override;
  int64_t NowMs() override;
  std::shared_ptr<void> Listen(std::function<void(const StoreEvent&)> on_event) override;
  absl::Status Exclusive(const std::string& name, absl::FunctionRef<absl::Status()> body) override;
  absl::StatusOr<SchemaInfo> Schema() override;
  absl::Status Backup(absl::FunctionRef<absl::Status(const std::string& line)> sink) override;
  absl::Status Restore(absl::FunctionRef<absl::StatusOr<std::optional<std::string>>()> next_line) override;

  absl::StatusOr<bool> PutInstance(const InstanceRecord& instance) override;
  absl::Status RequestDrain(const std::string& id, bool requested) override;
  absl::StatusOr<std::vector<InstanceRecord>> ListInstances() override;
  absl::Status DeleteInstance(const std::string& id) override;
  absl::StatusOr<int64_t> DeleteInstancesBefore(int64_t seen_ms) override;
  absl::StatusOr<bool> ClaimReplica(const std::string& model, const std::string& instance) override;
  absl::StatusOr<bool> ReclaimReplica(const std::string& model, const std::string& instance) override;
  absl::Status PutReplica(const ReplicaRecord& replica) override;
  absl::StatusOr<std::vector<ReplicaRecord>> ListReplicas() override;
  absl::Status DeleteReplica(const std::string& model, const std::string& instance) override;

  absl::Status PutUpload(const UploadRecord& upload) override;
  absl::StatusOr<UploadRecord> GetUpload(const std::string& id) override;
  absl::StatusOr<std::optional<UploadRecord>> FindOpenUpload(const std::string& content_key) override;
  absl::Status DeleteUpload(const std::string& id) override;
  absl::Status DeleteUploadsBefore(int64_t before_ms) override;

  absl::Status PutCheckpoint(const CheckpointRecord& checkpoint) override;
  absl::StatusOr<CheckpointRecord> GetCheckpoint(const std::string& digest) override;
  absl::StatusOr<Page<CheckpointRecord>> ListCheckpoints(const PageRequest& page) override;
  absl::Status DeleteCheckpoint(const std::string& digest) override;
  absl::Status PutText(const TextRecord& text) override;
  absl::StatusOr<TextRecord> GetText(const std::string& digest) override;
  absl::Status DeleteText(const std::string& digest) override;
  absl::Status PutArtifact(const ArtifactRecord& artifact) override;
  absl::StatusOr<ArtifactRecord> GetArtifact(const std::string& digest) override;
  absl::StatusOr<Page<ArtifactRecord>> ListArtifacts(const PageRequest& page, const std::string& checkpoint) override;
  absl::Status DeleteArtifact(const std::string& digest) override;

  absl::StatusOr<std::vector<JobRecord>> ListLoadWishes() override;
  absl::StatusOr<bool> AnswerLoadWish(const JobRecord& job, const std::optional<ServedModelRecord>& model) override;
  absl::Status PutServedModel(const ServedModelRecord& model) override;
  absl::StatusOr<std::vector<ServedModelRecord>> ListServedModels() override;
  absl::Status DeleteServedModel(const std::string& name) override;
  absl::Status PutAlias(const AliasRecord& alias) override;
  absl::StatusOr<std::vector<AliasRecord>> ListAliases() override;
  absl::Status DeleteAlias(const std::string& name) override;

  absl::StatusOr<std::optional<RequestRecord>> FindRequest(const std::string& request_id) override;
  absl::Status PutRequest(const RequestRecord& request) override;
  absl::Status DeleteRequestsBefore(int64_t before_ms) override;

  absl::Status InsertJob(const JobRecord& job, const std::vector<TaskRecord>& tasks) override;
  absl::StatusOr<JobRecord> GetJob(const std::string& id) override;
  absl::StatusOr<std::optional<JobRecord>> FindJobByKey(const std::string& key) override;
  absl::StatusOr<Page<JobRecord>> ListJobs(const PageRequest& page, const JobFilter& filter) override;
  absl::StatusOr<std::vector<JobRecord>> ListUnfinishedJobs() override;
  absl::Status DeleteJob(const std::string& id) override;
  absl::StatusOr<TaskRecord> GetTask(const std::string& job, int32_t index) override;
  absl::StatusOr<std::vector<TaskRecord>> ListTasks(const std::string& job) override;
  absl::Status Apply(const JobChange& change) override;
  absl::StatusOr<std::optional<TaskRecord>> LeaseTask(const std::string& worker, const TaskFilter& filter,
                                                      int64_t now_ms, int64_t lease_ms) override;
  absl::Status RenewLease(const TaskLease& lease, int64_t expires_ms, double progress) override;
  absl::StatusOr<std::vector<TaskRecord>> ListExpiredTasks(int64_t now_ms) override;
  absl::StatusOr<std::vector<TaskRecord>> ListLeasedTasks() override;
  absl::StatusOr<std::optional<int64_t>> NextDeadline(int64_t now_ms) override;
  absl::StatusOr<QueueCounts> CountQueue() override;

  absl::StatusOr<std::set<std::string>> ReferencedBlobs(int64_t retry_since_ms) override;
  absl::Status InsertKey(const KeyRecord& key) override;
  absl::Status UpdateKey(const KeyRecord& key) override;
  absl::Status SetKeyUse(const std::string& id, const KeyUse& use) override;
  absl::StatusOr<Page<KeyRecord>> ListKeys(const PageRequest& page) override;
  absl::StatusOr<std::vector<KeyRecord>> ListAllKeys() override;
  absl::Status DeleteKey(const std::string& id) override;
  absl::Status AppendAuditEvents(const std::vector<AuditRecord>& events, int64_t keep) override;
  absl::StatusOr<Page<AuditRecord>> ListAuditEvents(const PageRequest& page, const std::string& key) override;
  absl::StatusOr<std::map<std::string, std::string>> ListSettings() override;
  absl::Status PutSetting(const std::string& key, const std::string& value) override;

 private:
  SqlMetadataStore(std::unique_ptr<SqlDatabase> database, const SqlSchema& schema);

  // One statement in a transaction of its own.
  absl::Status RunAlone(const char* sql, std::initializer_list<SqlValue> values);
  // A statement that deletes the row of `key`; NOT_FOUND (`reason`) if there is none. Tells `events`.
  absl::Status DeleteRow(const char* sql, const std::string& key, std::string_view reason,
                         std::initializer_list<StoreEvent> events = {});

  // Claim, or Reclaim of one that is `held`.
  absl::StatusOr<bool> InsertReplica(const std::string& model, const std::string& instance, bool held);

  // How many tasks of each project are leased.
  static absl::StatusOr<std::map<std::string, int64_t>> CountRunning(SqlTransaction& transaction);
  // Ids of the unfinished jobs that `filter` lets through, in order.
  static absl::StatusOr<std::vector<std::string>> ReadQueue(SqlTransaction& transaction, const TaskFilter& filter,
                                                            int64_t now_ms);
  // A first READY task of `job`, leased; none if there is none that nobody else is taking.
  absl::StatusOr<std::optional<TaskRecord>> Claim(SqlTransaction& transaction, const std::string& job,
                                                  const std::string& worker, const TaskFilter& filter, int64_t now_ms,
                                                  int64_t lease_ms);

  const std::unique_ptr<SqlDatabase> database_;
  const SqlSchema schema_;
  // Statements that end differently for the engines.
  const std::string lock_job_sql_;
  const std::string claim_sql_;
};

}  // namespace qamserve
