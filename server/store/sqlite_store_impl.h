// The class behind OpenSqliteMetadataStore. Internal to server/store; see metadata_store.h for what the calls do.
// Methods are in sqlite_metadata_store.cc and, for jobs and tasks, in sqlite_jobs.cc, for keys and the audit log in
// sqlite_access.cc.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "server/store/metadata_store.h"
#include "server/store/sqlite.h"

namespace qamserve {

class SqliteMetadataStore : public MetadataStore {
 public:
  explicit SqliteMetadataStore(std::unique_ptr<SqliteConnection> db) : db_(std::move(db)) {}

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
  absl::Status RenewLease(const TaskLease& lease, int64_t expires_ms) override;
  absl::StatusOr<std::vector<TaskRecord>> ListExpiredTasks(int64_t now_ms) override;
  absl::StatusOr<std::vector<TaskRecord>> ListLeasedTasks() override;
  absl::StatusOr<std::optional<int64_t>> NextDeadline(int64_t now_ms) override;

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
  // All below: mutex_ is held.
  absl::Status PutFiles(std::string_view table, const std::string& owner, const std::vector<FileRecord>& files);
  absl::Status ReadFiles(std::string_view table, const std::string& owner, std::vector<FileRecord>& files);
  absl::Status DeleteRow(const char* sql, const std::string& key, std::string_view reason);
  absl::Status InsertArtifact(const ArtifactRecord& artifact);
  absl::Status QueryUploads(const char* sql, std::initializer_list<SqlValue> values, std::vector<UploadRecord>& out);
  absl::Status QueryCheckpoints(const char* sql, std::initializer_list<SqlValue> values,
                                std::vector<CheckpointRecord>& out, std::vector<int64_t>* sequences = nullptr);
  absl::Status QueryArtifacts(const char* sql, std::initializer_list<SqlValue> values, std::vector<ArtifactRecord>& out,
                              std::vector<int64_t>* sequences = nullptr);
  absl::Status QueryJobs(const char* sql, std::initializer_list<SqlValue> values, std::vector<JobRecord>& out);
  absl::Status QueryTasks(const char* sql, std::initializer_list<SqlValue> values, std::vector<TaskRecord>& out);
  // Only DONE tasks have blobs, so lists of READY and LEASED ones do without.
  absl::Status ReadTaskBlobs(const std::string& job, std::vector<TaskRecord>& tasks);
  absl::Status InsertTask(const TaskRecord& task);
  absl::Status UpdateJob(const JobRecord& job);
  absl::Status UpdateTask(const TaskRecord& task);
  absl::Status PutTaskBlobs(const TaskRecord& task);
  absl::Status QueryKeys(const char* sql, std::initializer_list<SqlValue> values, std::vector<KeyRecord>& out,
                         std::vector<int64_t>* sequences = nullptr);
  absl::StatusOr<std::optional<TaskRecord>> FirstReadyTask(const TaskFilter& filter, int64_t now_ms);

  std::mutex mutex_;
  std::unique_ptr<SqliteConnection> db_;
};

// Limit and position of a page: rows with sequence < before, `size` of them.
struct PageBounds {
  int64_t size = 0;
  int64_t before = 0;
};
absl::StatusOr<PageBounds> ParsePage(const PageRequest& page);

// Cuts a list that was read with one row more than the page has, and makes the token of the next page.
template <typename T>
Page<T> CutPage(std::vector<T> items, const std::vector<int64_t>& sequences, const PageBounds& bounds) {
  Page<T> page;
  const size_t size = static_cast<size_t>(bounds.size);
  if (items.size() > size) {
    items.resize(size);
    page.next_page_token = std::to_string(sequences[size - 1]);
  }
  page.items = std::move(items);
  return page;
}

}  // namespace qamserve
