#include <array>

#include "server/store/sql_schema.h"

namespace qamserve {
namespace {

constexpr const char* kHasMigrations =
    "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'";

constexpr std::array<SchemaStep, 5> kSteps = {{
    {1, 1, R"sql(
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
)sql"},
    {2, 2, R"sql(
CREATE TABLE aliases (name TEXT PRIMARY KEY, etag TEXT NOT NULL, updated_ms INTEGER NOT NULL);
CREATE TABLE alias_targets (
  alias TEXT NOT NULL REFERENCES aliases (name) ON DELETE CASCADE, position INTEGER NOT NULL, model TEXT NOT NULL,
  weight INTEGER NOT NULL, PRIMARY KEY (alias, position)) WITHOUT ROWID;
)sql"},
    {3, 3, R"sql(
ALTER TABLE tasks ADD COLUMN round INTEGER NOT NULL DEFAULT 0;
DROP INDEX tasks_open;
CREATE INDEX tasks_open ON tasks (job, round, stage, position) WHERE state <> 3;
)sql"},
    {4, 4, R"sql(
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
)sql"},
    {5, 5, R"sql(
ALTER TABLE schema_migrations ADD COLUMN oldest_program INTEGER NOT NULL DEFAULT 0;
ALTER TABLE served_models ADD COLUMN replicas INTEGER NOT NULL DEFAULT 1;
ALTER TABLE served_models ADD COLUMN drain_seconds REAL NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN codec_version TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN trace_parent TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN progress REAL NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN lapses INTEGER NOT NULL DEFAULT 0;
DROP INDEX jobs_unfinished;
CREATE INDEX jobs_queue ON jobs (pool, state, codec_version, project, priority, created_ms, sequence, id)
  WHERE state IN (1, 2, 3);
CREATE INDEX tasks_resting ON tasks (not_before_ms) WHERE state = 1 AND not_before_ms > 0;
DROP TABLE counters;
CREATE TABLE instances (
  id TEXT PRIMARY KEY, host TEXT NOT NULL, address TEXT NOT NULL, roles TEXT NOT NULL, pools TEXT NOT NULL,
  version TEXT NOT NULL, codec_version TEXT NOT NULL, kernels TEXT NOT NULL, device TEXT NOT NULL,
  threads INTEGER NOT NULL, memory_bytes INTEGER NOT NULL, draining INTEGER NOT NULL, started_ms INTEGER NOT NULL,
  seen_ms INTEGER NOT NULL);
CREATE TABLE replicas (
  model TEXT NOT NULL, instance TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE, state INTEGER NOT NULL,
  error_reason TEXT NOT NULL, error_message TEXT NOT NULL, error_code INTEGER NOT NULL,
  context_tokens INTEGER NOT NULL, memory_bytes INTEGER NOT NULL, chat INTEGER NOT NULL, running INTEGER NOT NULL,
  waiting INTEGER NOT NULL, kv_used_ratio REAL NOT NULL, ready_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL,
  PRIMARY KEY (model, instance));
CREATE INDEX replicas_by_instance ON replicas (instance);
)sql"},
}};

}  // namespace

SqlSchema SqliteSchema() {
  // AUTOINCREMENT goes on by itself behind numbers that were inserted.
  return {.has_migrations = kHasMigrations, .steps = kSteps, .after_restore = {}};
}

}  // namespace qamserve
