#include "server/store/sql_metadata_store.h"

#include <charconv>
#include <limits>

#include "server/store/sql_rows.h"
#include "server/store/sql_statements.h"

namespace qamserve {

absl::StatusOr<PageBounds> ParsePage(const PageRequest& page) {
  if (page.page_size < 0 || page.page_size > 1000) {
    return InvalidArgument("PAGE_SIZE", "page_size is {}; it may be 0 (50) to 1000", page.page_size);
  }
  PageBounds bounds{.size = page.page_size == 0 ? 50 : page.page_size, .before = std::numeric_limits<int64_t>::max()};
  if (page.page_token.empty()) return bounds;
  const char* end = page.page_token.data() + page.page_token.size();
  const auto [ptr, error] = std::from_chars(page.page_token.data(), end, bounds.before);
  if (error != std::errc() || ptr != end || bounds.before < 1) {
    return InvalidArgument("PAGE_TOKEN", "page_token '{}' was not given out by a list call",
                           page.page_token.substr(0, 80));
  }
  return bounds;
}

void ReadError(SqlRow& row, ErrorRecord& error) {
  error.reason = row.Text();
  error.message = row.Text();
  error.code = static_cast<int>(row.Int());
}

absl::StatusOr<std::unique_ptr<MetadataStore>> SqlMetadataStore::Open(std::unique_ptr<SqlDatabase> database,
                                                                      const SqlSchema& schema, SchemaPolicy policy) {
  RETURN_IF_ERROR(PrepareSchema(*database, schema, policy));
  return std::unique_ptr<MetadataStore>(new SqlMetadataStore(std::move(database), schema));
}

SqlMetadataStore::SqlMetadataStore(std::unique_ptr<SqlDatabase> database, const SqlSchema& schema)
    : database_(std::move(database)),
      schema_(schema),
      lock_job_sql_(LockJobSql(database_->for_share())),
      claim_sql_(ClaimSql(database_->skip_locked())) {}

bool SqlMetadataStore::shared() const { return database_->shared(); }

int64_t SqlMetadataStore::NowMs() { return database_->NowMs(); }

std::shared_ptr<void> SqlMetadataStore::Listen(std::function<void(const StoreEvent&)> on_event) {
  return database_->Listen(std::move(on_event));
}

absl::Status SqlMetadataStore::Exclusive(const std::string& name, absl::FunctionRef<absl::Status()> body) {
  return database_->Exclusive(name, body);
}

absl::StatusOr<SchemaInfo> SqlMetadataStore::Schema() { return ReadSchema(*database_, schema_); }

absl::Status SqlMetadataStore::RunAlone(const char* sql, std::initializer_list<SqlValue> values) {
  return database_->Transact([&](SqlTransaction& transaction) { return transaction.Run(sql, values).status(); });
}

absl::Status SqlMetadataStore::DeleteRow(const char* sql, const std::string& key, std::string_view reason,
                                         std::initializer_list<StoreEvent> events) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t deleted, transaction.Run(sql, {key}));
    if (deleted == 0) return NotFound(reason, "there is no {}", key);
    for (const StoreEvent& event : events) transaction.Tell(event);
    return absl::OkStatus();
  });
}

// --- Request ids, settings ---

absl::StatusOr<std::optional<RequestRecord>> SqlMetadataStore::FindRequest(const std::string& request_id) {
  return ReadFirst<RequestRecord>(*database_, [&](SqlTransaction& transaction, std::vector<RequestRecord>& found) {
    return transaction.Query(
        "SELECT request_id, method, payload_digest, answer, created_ms FROM requests WHERE request_id = $1",
        {request_id}, [&](SqlRow& row) {
          RequestRecord& request = found.emplace_back();
          request.request_id = row.Text();
          request.method = row.Text();
          request.payload_digest = row.Text();
          request.answer = row.Text();
          request.created_ms = row.Int();
        });
  });
}

absl::Status SqlMetadataStore::PutRequest(const RequestRecord& request) {
  const absl::Status status = RunAlone(
      "INSERT INTO requests (request_id, method, payload_digest, answer, created_ms)"
      " VALUES ($1, $2, $3, $4, $5)",
      {request.request_id, request.method, request.payload_digest, request.answer, request.created_ms});
  if (!absl::IsAlreadyExists(status)) return status;
  return AlreadyExists("REQUEST_ID_REUSED", "request_id {} was used before", request.request_id);
}

absl::Status SqlMetadataStore::DeleteRequestsBefore(int64_t before_ms) {
  return RunAlone("DELETE FROM requests WHERE created_ms < $1", {before_ms});
}

absl::StatusOr<std::map<std::string, std::string>> SqlMetadataStore::ListSettings() {
  std::map<std::string, std::string> settings;
  RETURN_IF_ERROR(database_->Read([&](SqlTransaction& transaction) {
    settings.clear();
    return transaction.Query("SELECT key, value FROM settings", {}, [&](SqlRow& row) {
      std::string key = row.Text();
      settings[std::move(key)] = row.Text();
    });
  }));
  return settings;
}

absl::Status SqlMetadataStore::PutSetting(const std::string& key, const std::string& value) {
  return RunAlone(
      "INSERT INTO settings (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
      {key, value});
}

absl::StatusOr<std::set<std::string>> SqlMetadataStore::ReferencedBlobs(int64_t retry_since_ms) {
  std::set<std::string> digests;
  RETURN_IF_ERROR(database_->Read([&](SqlTransaction& transaction) {
    digests.clear();
    return transaction.Query(
        "SELECT f.sha256 FROM upload_files f JOIN uploads u ON f.owner = u.id WHERE u.result = ''"
        " UNION SELECT sha256 FROM checkpoint_files WHERE external_path = ''"
        " UNION SELECT digest FROM texts WHERE external_path = ''"
        " UNION SELECT sha256 FROM artifact_files"
        " UNION SELECT b.sha256 FROM task_blobs b JOIN jobs j ON b.job = j.id"
        "   WHERE j.state IN (1, 2, 3) OR (j.state IN (6, 7) AND j.ended_ms >= $1)",
        {retry_since_ms}, [&](SqlRow& row) { digests.insert(row.Text()); });
  }));
  return digests;
}

}  // namespace qamserve
