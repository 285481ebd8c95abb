// API keys and the audit log.
#include "server/store/sql_metadata_store.h"
#include "server/store/sql_rows.h"

namespace qamserve {
namespace {

void TellAccess(SqlTransaction& transaction) { transaction.Tell({.kind = StoreEvent::Kind::kAccess, .id = ""}); }

absl::Status QueryKeys(SqlTransaction& transaction, const char* rest, std::initializer_list<SqlValue> values,
                       std::vector<Sequenced<KeyRecord>>& out) {
  const std::string sql = fmt::format(
      "SELECT sequence, id, display_name, scopes, requests_per_minute, tokens_per_minute, concurrent_requests,"
      " upload_bytes_per_day, hint, digest, previous_digest, previous_expires_ms, created_ms, expires_ms, revoked_ms,"
      " last_used_ms, upload_day, upload_bytes FROM api_keys {}",
      rest);
  return transaction.Query(sql.c_str(), values, [&](SqlRow& row) {
    Sequenced<KeyRecord>& found = out.emplace_back();
    found.sequence = row.Int();
    KeyRecord& key = found.record;
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

absl::Status QueryEvents(SqlTransaction& transaction, const char* rest, std::initializer_list<SqlValue> values,
                         std::vector<Sequenced<AuditRecord>>& out) {
  const std::string sql =
      fmt::format("SELECT sequence, time_ms, key, method, resource, code, reason, peer FROM audit_events {}", rest);
  return transaction.Query(sql.c_str(), values, [&](SqlRow& row) {
    Sequenced<AuditRecord>& found = out.emplace_back();
    AuditRecord& event = found.record;
    found.sequence = event.sequence = row.Int();
    event.time_ms = row.Int();
    event.key = row.Text();
    event.method = row.Text();
    event.resource = row.Text();
    event.code = row.Text();
    event.reason = row.Text();
    event.peer = row.Text();
  });
}

}  // namespace

absl::Status SqlMetadataStore::InsertKey(const KeyRecord& k) {
  const absl::Status status = database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    RETURN_IF_ERROR(
        transaction
            .Run("INSERT INTO api_keys (id, display_name, scopes, requests_per_minute, tokens_per_minute,"
                 " concurrent_requests, upload_bytes_per_day, hint, digest, previous_digest, previous_expires_ms,"
                 " created_ms, expires_ms, revoked_ms, last_used_ms, upload_day, upload_bytes)"
                 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
                 {k.id, k.display_name, int64_t{k.scopes.bits()}, k.limits.requests_per_minute,
                  k.limits.tokens_per_minute, k.limits.concurrent_requests, k.limits.upload_bytes_per_day, k.hint,
                  k.digest, k.previous_digest, k.previous_expires_ms, k.created_ms, k.expires_ms, k.revoked_ms,
                  k.use.last_used_ms, k.use.upload_day, k.use.upload_bytes})
            .status());
    TellAccess(transaction);
    return absl::OkStatus();
  });
  if (!absl::IsAlreadyExists(status)) return status;
  return AlreadyExists("KEY_EXISTS", "there is a key {} or one with the same secret already", k.id);
}

absl::Status SqlMetadataStore::UpdateKey(const KeyRecord& k) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(
        const int64_t changed,
        transaction.Run(
            "UPDATE api_keys SET display_name = $2, scopes = $3, requests_per_minute = $4,"
            " tokens_per_minute = $5, concurrent_requests = $6, upload_bytes_per_day = $7, hint = $8,"
            " digest = $9, previous_digest = $10, previous_expires_ms = $11, created_ms = $12,"
            " expires_ms = $13, revoked_ms = $14 WHERE id = $1",
            {k.id, k.display_name, int64_t{k.scopes.bits()}, k.limits.requests_per_minute, k.limits.tokens_per_minute,
             k.limits.concurrent_requests, k.limits.upload_bytes_per_day, k.hint, k.digest, k.previous_digest,
             k.previous_expires_ms, k.created_ms, k.expires_ms, k.revoked_ms}));
    if (changed == 0) return NotFound("KEY_NOT_FOUND", "there is no key {}", k.id);
    TellAccess(transaction);
    return absl::OkStatus();
  });
}

absl::Status SqlMetadataStore::SetKeyUse(const std::string& id, const KeyUse& use) {
  return RunAlone("UPDATE api_keys SET last_used_ms = $2, upload_day = $3, upload_bytes = $4 WHERE id = $1",
                  {id, use.last_used_ms, use.upload_day, use.upload_bytes});
}

absl::StatusOr<Page<KeyRecord>> SqlMetadataStore::ListKeys(const PageRequest& page) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  ASSIGN_OR_RETURN(std::vector<Sequenced<KeyRecord>> rows,
                   ReadList<Sequenced<KeyRecord>>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     return QueryKeys(transaction, "WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2",
                                      {bounds.before, bounds.size + 1}, out);
                   }));
  return CutPage(std::move(rows), bounds);
}

absl::StatusOr<std::vector<KeyRecord>> SqlMetadataStore::ListAllKeys() {
  ASSIGN_OR_RETURN(std::vector<Sequenced<KeyRecord>> rows,
                   ReadList<Sequenced<KeyRecord>>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     return QueryKeys(transaction, "ORDER BY sequence", {}, out);
                   }));
  std::vector<KeyRecord> keys;
  keys.reserve(rows.size());
  for (Sequenced<KeyRecord>& row : rows) keys.push_back(std::move(row.record));
  return keys;
}

absl::Status SqlMetadataStore::DeleteKey(const std::string& id) {
  return DeleteRow("DELETE FROM api_keys WHERE id = $1", id, "KEY_NOT_FOUND",
                   {{.kind = StoreEvent::Kind::kAccess, .id = ""}});
}

absl::Status SqlMetadataStore::AppendAuditEvents(const std::vector<AuditRecord>& events, int64_t keep) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    for (const AuditRecord& event : events) {
      RETURN_IF_ERROR(
          transaction
              .Run("INSERT INTO audit_events (time_ms, key, method, resource, code, reason, peer)"
                   " VALUES ($1, $2, $3, $4, $5, $6, $7)",
                   {event.time_ms, event.key, event.method, event.resource, event.code, event.reason, event.peer})
              .status());
    }
    // Numbers that an engine leaves out (of transactions that failed) count as if they were there.
    return transaction
        .Run("DELETE FROM audit_events WHERE sequence <= (SELECT COALESCE(MAX(sequence), 0) FROM audit_events) - $1",
             {keep})
        .status();
  });
}

absl::StatusOr<Page<AuditRecord>> SqlMetadataStore::ListAuditEvents(const PageRequest& page, const std::string& key) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  ASSIGN_OR_RETURN(std::vector<Sequenced<AuditRecord>> rows,
                   ReadList<Sequenced<AuditRecord>>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     if (key.empty()) {
                       return QueryEvents(transaction, "WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2",
                                          {bounds.before, bounds.size + 1}, out);
                     }
                     return QueryEvents(transaction, "WHERE key = $3 AND sequence < $1 ORDER BY sequence DESC LIMIT $2",
                                        {bounds.before, bounds.size + 1, key}, out);
                   }));
  return CutPage(std::move(rows), bounds);
}

}  // namespace qamserve
