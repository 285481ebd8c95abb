#include "server/store/sqlite_store_impl.h"

namespace qamserve {

absl::Status SqliteMetadataStore::InsertKey(const KeyRecord& k) {
  std::lock_guard lock(mutex_);
  const absl::Status status = db_->Run(
      "INSERT INTO api_keys (id, display_name, scopes, requests_per_minute, tokens_per_minute, concurrent_requests,"
      " upload_bytes_per_day, hint, digest, previous_digest, previous_expires_ms, created_ms, expires_ms, revoked_ms,"
      " last_used_ms, upload_day, upload_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      {k.id, k.display_name, int64_t{k.scopes.bits()}, k.limits.requests_per_minute, k.limits.tokens_per_minute,
       k.limits.concurrent_requests, k.limits.upload_bytes_per_day, k.hint, k.digest, k.previous_digest,
       k.previous_expires_ms, k.created_ms, k.expires_ms, k.revoked_ms, k.use.last_used_ms, k.use.upload_day,
       k.use.upload_bytes});
  if (!absl::IsAlreadyExists(status)) return status;
  return AlreadyExists("KEY_EXISTS", "there is a key {} or one with the same secret already", k.id);
}

absl::Status SqliteMetadataStore::UpdateKey(const KeyRecord& k) {
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(
      db_->Run("UPDATE api_keys SET display_name = ?, scopes = ?, requests_per_minute = ?, tokens_per_minute = ?,"
               " concurrent_requests = ?, upload_bytes_per_day = ?, hint = ?, digest = ?, previous_digest = ?,"
               " previous_expires_ms = ?, created_ms = ?, expires_ms = ?, revoked_ms = ? WHERE id = ?",
               {k.display_name, int64_t{k.scopes.bits()}, k.limits.requests_per_minute, k.limits.tokens_per_minute,
                k.limits.concurrent_requests, k.limits.upload_bytes_per_day, k.hint, k.digest, k.previous_digest,
                k.previous_expires_ms, k.created_ms, k.expires_ms, k.revoked_ms, k.id}));
  if (db_->changed_rows() > 0) return absl::OkStatus();
  return NotFound("KEY_NOT_FOUND", "there is no key {}", k.id);
}

absl::Status SqliteMetadataStore::SetKeyUse(const std::string& id, const KeyUse& use) {
  std::lock_guard lock(mutex_);
  return db_->Run("UPDATE api_keys SET last_used_ms = ?, upload_day = ?, upload_bytes = ? WHERE id = ?",
                  {use.last_used_ms, use.upload_day, use.upload_bytes, id});
}

absl::Status SqliteMetadataStore::QueryKeys(const char* sql, std::initializer_list<SqlValue> values,
                                            std::vector<KeyRecord>& out, std::vector<int64_t>* sequences) {
  return db_->Query(sql, values, [&](SqlRow& row) {
    const int64_t sequence = row.Int();
    if (sequences != nullptr) sequences->push_back(sequence);
    KeyRecord& key = out.emplace_back();
    key.id = row.Text();
    key.display_name = row.Text();
    key.scopes = ScopeSet::FromBits(static_cast<uint32_t>(row.Int()));
    key.limits.requests_per_minute = static_cast<int32_t>(row.Int());
    key.limits.tokens_per_minute = static_cast<int32_t>(row.Int());
    key.limits.concurrent_requests = static_cast<int32_t>(row.Int());
    key.limits.upload_bytes_per_day = row.Int();
    key.hint = row.Text();
    key.digest = row.Text();
    key.previous_digest = row.Text();
    key.previous_expires_ms = row.Int();
    key.created_ms = row.Int();
    key.expires_ms = row.Int();
    key.revoked_ms = row.Int();
    key.use.last_used_ms = row.Int();
    key.use.upload_day = row.Int();
    key.use.upload_bytes = row.Int();
  });
}

absl::StatusOr<Page<KeyRecord>> SqliteMetadataStore::ListKeys(const PageRequest& page) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  std::lock_guard lock(mutex_);
  std::vector<KeyRecord> found;
  std::vector<int64_t> sequences;
  RETURN_IF_ERROR(QueryKeys("SELECT * FROM api_keys WHERE sequence < ? ORDER BY sequence DESC LIMIT ?",
                            {bounds.before, bounds.size + 1}, found, &sequences));
  return CutPage(std::move(found), sequences, bounds);
}

absl::StatusOr<std::vector<KeyRecord>> SqliteMetadataStore::ListAllKeys() {
  std::lock_guard lock(mutex_);
  std::vector<KeyRecord> found;
  RETURN_IF_ERROR(QueryKeys("SELECT * FROM api_keys ORDER BY sequence", {}, found));
  return found;
}

absl::Status SqliteMetadataStore::DeleteKey(const std::string& id) {
  return DeleteRow("DELETE FROM api_keys WHERE id = ?", id, "KEY_NOT_FOUND");
}

absl::Status SqliteMetadataStore::AppendAuditEvents(const std::vector<AuditRecord>& events, int64_t keep) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*db_));
  for (const AuditRecord& event : events) {
    RETURN_IF_ERROR(db_->Run(
        "INSERT INTO audit_events (time_ms, key, method, resource, code, reason, peer) VALUES (?, ?, ?, ?, ?, ?, ?)",
        {event.time_ms, event.key, event.method, event.resource, event.code, event.reason, event.peer}));
  }
  // AUTOINCREMENT leaves no gaps here: nothing else deletes, and a transaction that fails gives its numbers back.
  RETURN_IF_ERROR(db_->Run(
      "DELETE FROM audit_events WHERE sequence <= (SELECT COALESCE(MAX(sequence), 0) FROM audit_events) - ?", {keep}));
  return transaction->Commit();
}

absl::StatusOr<Page<AuditRecord>> SqliteMetadataStore::ListAuditEvents(const PageRequest& page,
                                                                       const std::string& key) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  std::lock_guard lock(mutex_);
  std::vector<AuditRecord> found;
  std::vector<int64_t> sequences;
  const auto on_row = [&](SqlRow& row) {
    AuditRecord& event = found.emplace_back();
    event.sequence = row.Int();
    event.time_ms = row.Int();
    event.key = row.Text();
    event.method = row.Text();
    event.resource = row.Text();
    event.code = row.Text();
    event.reason = row.Text();
    event.peer = row.Text();
    sequences.push_back(event.sequence);
  };
  if (key.empty()) {
    RETURN_IF_ERROR(db_->Query("SELECT * FROM audit_events WHERE sequence < ? ORDER BY sequence DESC LIMIT ?",
                               {bounds.before, bounds.size + 1}, on_row));
  } else {
    RETURN_IF_ERROR(
        db_->Query("SELECT * FROM audit_events WHERE key = ? AND sequence < ? ORDER BY sequence DESC LIMIT ?",
                   {key, bounds.before, bounds.size + 1}, on_row));
  }
  return CutPage(std::move(found), sequences, bounds);
}

}  // namespace qamserve
