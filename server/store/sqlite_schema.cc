#include <array>

#include "server/store/sqlite.h"

namespace qamserve {
namespace {

// Step i brings version i to i + 1. A published step never changes; a new one is added behind it.
constexpr std::array<const char*, 4> kMigrations = {
    R"sql(
CREATE TABLE uploads (
  id TEXT PRIMARY KEY, kind INTEGER NOT NULL, display_name TEXT NOT NULL, content_key TEXT NOT NULL,
  result TEXT NOT NULL, created_ms INTEGER NOT NULL);
CREATE INDEX uploads_by_content ON uploads (content_key);
CREATE TABLE upload_files (
  owner TEXT NOT NULL REFERENCES uploads (id) ON DELETE CASCADE, position INTEGER NOT NULL, name TEXT NOT NULL,
  sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL, external_path TEXT NOT NULL, external_mtime_ns INTEGER NOT NULL,
  PRIMARY KEY (owner, position)) WITHOUT ROWID;

CREATE TABLE checkpoints (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, display_name TEXT NOT NULL,
  architecture TEXT NOT NULL, parameters INTEGER NOT NULL, size_bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL);
CREATE TABLE checkpoint_files (
  owner TEXT NOT NULL REFERENCES checkpoints (digest) ON DELETE CASCADE, position INTEGER NOT NULL, name TEXT NOT NULL,
  sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL, external_path TEXT NOT NULL, external_mtime_ns INTEGER NOT NULL,
  PRIMARY KEY (owner, position)) WITHOUT ROWID;

CREATE TABLE texts (
  digest TEXT PRIMARY KEY, display_name TEXT NOT NULL, name TEXT NOT NULL, size_bytes INTEGER NOT NULL,
  external_path TEXT NOT NULL, external_mtime_ns INTEGER NOT NULL, created_ms INTEGER NOT NULL);

CREATE TABLE artifacts (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, display_name TEXT NOT NULL,
  checkpoint TEXT NOT NULL, architecture TEXT NOT NULL, codec TEXT NOT NULL, bpw REAL NOT NULL,
  size_bytes INTEGER NOT NULL, job TEXT NOT NULL, quality_json TEXT NOT NULL, tensors_json TEXT NOT NULL,
  created_ms INTEGER NOT NULL);
CREATE INDEX artifacts_by_checkpoint ON artifacts (checkpoint);
CREATE TABLE artifact_files (
  owner TEXT NOT NULL REFERENCES artifacts (digest) ON DELETE CASCADE, position INTEGER NOT NULL, name TEXT NOT NULL,
  sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL, external_path TEXT NOT NULL, external_mtime_ns INTEGER NOT NULL,
  PRIMARY KEY (owner, position)) WITHOUT ROWID;

CREATE TABLE served_models (
  name TEXT PRIMARY KEY, source TEXT NOT NULL, context_tokens INTEGER NOT NULL, created_ms INTEGER NOT NULL);

CREATE TABLE requests (
  request_id TEXT PRIMARY KEY, method TEXT NOT NULL, payload_digest TEXT NOT NULL, answer TEXT NOT NULL,
  created_ms INTEGER NOT NULL);
CREATE INDEX requests_by_age ON requests (created_ms);

CREATE TABLE jobs (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind INTEGER NOT NULL, state INTEGER NOT NULL,
  key TEXT NOT NULL, display_name TEXT NOT NULL, checkpoint TEXT NOT NULL, artifact TEXT NOT NULL,
  spec_json TEXT NOT NULL, estimate_json TEXT NOT NULL, quality_json TEXT NOT NULL, load_as TEXT NOT NULL,
  pool TEXT NOT NULL, priority INTEGER NOT NULL, error_reason TEXT NOT NULL, error_message TEXT NOT NULL,
  error_code INTEGER NOT NULL, created_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL,
  version INTEGER NOT NULL);
CREATE INDEX jobs_by_key ON jobs (key);
CREATE UNIQUE INDEX jobs_unfinished_by_key ON jobs (key) WHERE state IN (1, 2, 3);
CREATE INDEX jobs_unfinished ON jobs (priority DESC, sequence) WHERE state IN (1, 2, 3);

CREATE TABLE tasks (
  job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, position INTEGER NOT NULL, stage INTEGER NOT NULL,
  state INTEGER NOT NULL, name TEXT NOT NULL, spec_json TEXT NOT NULL, cost REAL NOT NULL, weights INTEGER NOT NULL,
  attempts INTEGER NOT NULL, not_before_ms INTEGER NOT NULL, worker TEXT NOT NULL, lease_id INTEGER NOT NULL,
  lease_expires_ms INTEGER NOT NULL, outcome_json TEXT NOT NULL, done_sequence INTEGER NOT NULL, seconds REAL NOT NULL,
  error_reason TEXT NOT NULL, error_message TEXT NOT NULL, error_code INTEGER NOT NULL, version INTEGER NOT NULL,
  PRIMARY KEY (job, position));
CREATE INDEX tasks_open ON tasks (job, stage, position) WHERE state <> 3;
CREATE INDEX tasks_leased ON tasks (lease_expires_ms) WHERE state = 2;
CREATE TABLE task_blobs (
  job TEXT NOT NULL, task INTEGER NOT NULL, sha256 TEXT NOT NULL, position INTEGER NOT NULL,
  PRIMARY KEY (job, task, position),
  FOREIGN KEY (job, task) REFERENCES tasks (job, position) ON DELETE CASCADE) WITHOUT ROWID;

CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO counters VALUES ('lease', 0);
)sql",
    R"sql(
CREATE TABLE aliases (name TEXT PRIMARY KEY, etag TEXT NOT NULL, updated_ms INTEGER NOT NULL);
CREATE TABLE alias_targets (
  alias TEXT NOT NULL REFERENCES aliases (name) ON DELETE CASCADE, position INTEGER NOT NULL, model TEXT NOT NULL,
  weight INTEGER NOT NULL, PRIMARY KEY (alias, position)) WITHOUT ROWID;
)sql",
    R"sql(
ALTER TABLE tasks ADD COLUMN round INTEGER NOT NULL DEFAULT 0;
DROP INDEX tasks_open;
CREATE INDEX tasks_open ON tasks (job, round, stage, position) WHERE state <> 3;
)sql",
    R"sql(
CREATE TABLE api_keys (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, display_name TEXT NOT NULL,
  scopes INTEGER NOT NULL, requests_per_minute INTEGER NOT NULL, tokens_per_minute INTEGER NOT NULL,
  concurrent_requests INTEGER NOT NULL, upload_bytes_per_day INTEGER NOT NULL, hint TEXT NOT NULL,
  digest TEXT NOT NULL UNIQUE, previous_digest TEXT NOT NULL, previous_expires_ms INTEGER NOT NULL,
  created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, revoked_ms INTEGER NOT NULL,
  last_used_ms INTEGER NOT NULL, upload_day INTEGER NOT NULL, upload_bytes INTEGER NOT NULL);
CREATE TABLE audit_events (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL, key TEXT NOT NULL, method TEXT NOT NULL,
  resource TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL, peer TEXT NOT NULL);
CREATE INDEX audit_events_by_key ON audit_events (key, sequence);
)sql"};

}  // namespace

absl::Status MigrateSchema(SqliteConnection& db, int64_t now_ms) {
  RETURN_IF_ERROR(db.Execute(
      "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL)"));
  ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(db));
  int64_t version = 0;
  RETURN_IF_ERROR(db.Query("SELECT COALESCE(MAX(version), 0) FROM schema_migrations", {},
                           [&](SqlRow& row) { version = row.Int(); }));
  if (version > static_cast<int64_t>(kMigrations.size())) {
    return FailedPrecondition("STORE_VERSION", "the metadata store has schema version {}; this program knows up to {}",
                              version, kMigrations.size());
  }
  for (size_t i = static_cast<size_t>(version); i < kMigrations.size(); ++i) {
    RETURN_IF_ERROR(db.Execute(kMigrations[i]));
    RETURN_IF_ERROR(db.Run("INSERT INTO schema_migrations VALUES (?, ?)", {static_cast<int64_t>(i + 1), now_ms}));
  }
  return transaction->Commit();
}

}  // namespace qamserve
