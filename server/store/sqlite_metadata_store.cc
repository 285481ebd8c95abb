#include "server/store/sqlite_metadata_store.h"

#include <charconv>
#include <limits>

#include "server/store/sqlite_store_impl.h"

namespace qamserve {

absl::StatusOr<std::unique_ptr<MetadataStore>> OpenSqliteMetadataStore(const std::string& path) {
  ASSIGN_OR_RETURN(auto db, SqliteConnection::Open(path));
  RETURN_IF_ERROR(MigrateSchema(*db, SystemNowMs()));
  return std::make_unique<SqliteMetadataStore>(std::move(db));
}

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

absl::Status SqliteMetadataStore::PutFiles(std::string_view table, const std::string& owner,
                                           const std::vector<FileRecord>& files) {
  const std::string sql = fmt::format("INSERT INTO {} VALUES (?, ?, ?, ?, ?, ?, ?)", table);
  for (size_t i = 0; i < files.size(); ++i) {
    const FileRecord& file = files[i];
    RETURN_IF_ERROR(db_->Run(sql.c_str(), {owner, static_cast<int64_t>(i), file.name, file.sha256, file.size_bytes,
                                           file.external_path, file.external_mtime_ns}));
  }
  return absl::OkStatus();
}

absl::Status SqliteMetadataStore::ReadFiles(std::string_view table, const std::string& owner,
                                            std::vector<FileRecord>& files) {
  const std::string sql = fmt::format(
      "SELECT name, sha256, size_bytes, external_path, external_mtime_ns FROM {} WHERE owner = ? ORDER BY position",
      table);
  return db_->Query(sql.c_str(), {owner}, [&](SqlRow& row) {
    FileRecord& file = files.emplace_back();
    file.name = row.Text();
    file.sha256 = row.Text();
    file.size_bytes = static_cast<uint64_t>(row.Int());
    file.external_path = row.Text();
    file.external_mtime_ns = row.Int();
  });
}

absl::Status SqliteMetadataStore::DeleteRow(const char* sql, const std::string& key, std::string_view reason) {
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(db_->Run(sql, {key}));
  if (db_->changed_rows() > 0) return absl::OkStatus();
  return NotFound(reason, "there is no {}", key);
}

// --- Uploads ---

absl::Status SqliteMetadataStore::PutUpload(const UploadRecord& upload) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*db_));
  RETURN_IF_ERROR(db_->Run("DELETE FROM uploads WHERE id = ?", {upload.id}));
  RETURN_IF_ERROR(
      db_->Run("INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?)",
               {upload.id, upload.kind, upload.display_name, upload.content_key, upload.result, upload.created_ms}));
  RETURN_IF_ERROR(PutFiles("upload_files", upload.id, upload.files));
  return transaction->Commit();
}

absl::Status SqliteMetadataStore::QueryUploads(const char* sql, std::initializer_list<SqlValue> values,
                                               std::vector<UploadRecord>& out) {
  RETURN_IF_ERROR(db_->Query(sql, values, [&](SqlRow& row) {
    UploadRecord& upload = out.emplace_back();
    upload.id = row.Text();
    upload.kind = static_cast<UploadKind>(row.Int());
    upload.display_name = row.Text();
    upload.content_key = row.Text();
    upload.result = row.Text();
    upload.created_ms = row.Int();
  }));
  for (UploadRecord& upload : out) RETURN_IF_ERROR(ReadFiles("upload_files", upload.id, upload.files));
  return absl::OkStatus();
}

absl::StatusOr<UploadRecord> SqliteMetadataStore::GetUpload(const std::string& id) {
  std::lock_guard lock(mutex_);
  std::vector<UploadRecord> found;
  RETURN_IF_ERROR(QueryUploads("SELECT * FROM uploads WHERE id = ?", {id}, found));
  if (found.empty()) return NotFound("UPLOAD_NOT_FOUND", "there is no upload {}", id);
  return std::move(found.front());
}

absl::StatusOr<std::optional<UploadRecord>> SqliteMetadataStore::FindOpenUpload(const std::string& content_key) {
  std::lock_guard lock(mutex_);
  std::vector<UploadRecord> found;
  RETURN_IF_ERROR(
      QueryUploads("SELECT * FROM uploads WHERE content_key = ? AND result = '' ORDER BY created_ms DESC LIMIT 1",
                   {content_key}, found));
  if (found.empty()) return std::nullopt;
  return std::move(found.front());
}

absl::Status SqliteMetadataStore::DeleteUpload(const std::string& id) {
  return DeleteRow("DELETE FROM uploads WHERE id = ?", id, "UPLOAD_NOT_FOUND");
}

absl::Status SqliteMetadataStore::DeleteUploadsBefore(int64_t before_ms) {
  std::lock_guard lock(mutex_);
  return db_->Run("DELETE FROM uploads WHERE created_ms < ?", {before_ms});
}

// --- Checkpoints, texts, artifacts ---

absl::Status SqliteMetadataStore::PutCheckpoint(const CheckpointRecord& checkpoint) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*db_));
  RETURN_IF_ERROR(
      db_->Run("INSERT INTO checkpoints (digest, display_name, architecture, parameters, size_bytes, created_ms)"
               " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
               {checkpoint.digest, checkpoint.display_name, checkpoint.architecture, checkpoint.parameters,
                checkpoint.size_bytes, checkpoint.created_ms}));
  if (db_->changed_rows() > 0) RETURN_IF_ERROR(PutFiles("checkpoint_files", checkpoint.digest, checkpoint.files));
  return transaction->Commit();
}

absl::Status SqliteMetadataStore::QueryCheckpoints(const char* sql, std::initializer_list<SqlValue> values,
                                                   std::vector<CheckpointRecord>& out,
                                                   std::vector<int64_t>* sequences) {
  RETURN_IF_ERROR(db_->Query(sql, values, [&](SqlRow& row) {
    const int64_t sequence = row.Int();
    if (sequences != nullptr) sequences->push_back(sequence);
    CheckpointRecord& checkpoint = out.emplace_back();
    checkpoint.digest = row.Text();
    checkpoint.display_name = row.Text();
    checkpoint.architecture = row.Text();
    checkpoint.parameters = row.Int();
    checkpoint.size_bytes = static_cast<uint64_t>(row.Int());
    checkpoint.created_ms = row.Int();
  }));
  for (CheckpointRecord& c : out) RETURN_IF_ERROR(ReadFiles("checkpoint_files", c.digest, c.files));
  return absl::OkStatus();
}

absl::StatusOr<CheckpointRecord> SqliteMetadataStore::GetCheckpoint(const std::string& digest) {
  std::lock_guard lock(mutex_);
  std::vector<CheckpointRecord> found;
  RETURN_IF_ERROR(QueryCheckpoints("SELECT * FROM checkpoints WHERE digest = ?", {digest}, found));
  if (found.empty()) return NotFound("CHECKPOINT_NOT_FOUND", "there is no checkpoint {}", digest);
  return std::move(found.front());
}

absl::StatusOr<Page<CheckpointRecord>> SqliteMetadataStore::ListCheckpoints(const PageRequest& page) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  std::lock_guard lock(mutex_);
  std::vector<CheckpointRecord> found;
  std::vector<int64_t> sequences;
  RETURN_IF_ERROR(QueryCheckpoints("SELECT * FROM checkpoints WHERE sequence < ? ORDER BY sequence DESC LIMIT ?",
                                   {bounds.before, bounds.size + 1}, found, &sequences));
  return CutPage(std::move(found), sequences, bounds);
}

absl::Status SqliteMetadataStore::DeleteCheckpoint(const std::string& digest) {
  return DeleteRow("DELETE FROM checkpoints WHERE digest = ?", digest, "CHECKPOINT_NOT_FOUND");
}

absl::Status SqliteMetadataStore::PutText(const TextRecord& text) {
  std::lock_guard lock(mutex_);
  return db_->Run("INSERT INTO texts VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
                  {text.digest, text.display_name, text.file.name, text.file.size_bytes, text.file.external_path,
                   text.file.external_mtime_ns, text.created_ms});
}

absl::StatusOr<TextRecord> SqliteMetadataStore::GetText(const std::string& digest) {
  std::lock_guard lock(mutex_);
  std::optional<TextRecord> text;
  RETURN_IF_ERROR(db_->Query("SELECT * FROM texts WHERE digest = ?", {digest}, [&](SqlRow& row) {
    text.emplace();
    text->digest = text->file.sha256 = row.Text();
    text->display_name = row.Text();
    text->file.name = row.Text();
    text->file.size_bytes = static_cast<uint64_t>(row.Int());
    text->file.external_path = row.Text();
    text->file.external_mtime_ns = row.Int();
    text->created_ms = row.Int();
  }));
  if (!text) return NotFound("TEXT_NOT_FOUND", "there is no text {}", digest);
  return *std::move(text);
}

absl::Status SqliteMetadataStore::DeleteText(const std::string& digest) {
  return DeleteRow("DELETE FROM texts WHERE digest = ?", digest, "TEXT_NOT_FOUND");
}

absl::Status SqliteMetadataStore::InsertArtifact(const ArtifactRecord& a) {
  RETURN_IF_ERROR(
      db_->Run("INSERT INTO artifacts (digest, display_name, checkpoint, architecture, codec, bpw, size_bytes, job, "
               "quality_json,"
               " tensors_json, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
               {a.digest, a.display_name, a.checkpoint, a.architecture, a.codec, a.bpw, a.size_bytes, a.job,
                a.quality_json, a.tensors_json, a.created_ms}));
  return db_->changed_rows() > 0 ? PutFiles("artifact_files", a.digest, a.files) : absl::OkStatus();
}

absl::Status SqliteMetadataStore::PutArtifact(const ArtifactRecord& artifact) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*db_));
  RETURN_IF_ERROR(InsertArtifact(artifact));
  return transaction->Commit();
}

absl::Status SqliteMetadataStore::QueryArtifacts(const char* sql, std::initializer_list<SqlValue> values,
                                                 std::vector<ArtifactRecord>& out, std::vector<int64_t>* sequences) {
  RETURN_IF_ERROR(db_->Query(sql, values, [&](SqlRow& row) {
    const int64_t sequence = row.Int();
    if (sequences != nullptr) sequences->push_back(sequence);
    ArtifactRecord& artifact = out.emplace_back();
    artifact.digest = row.Text();
    artifact.display_name = row.Text();
    artifact.checkpoint = row.Text();
    artifact.architecture = row.Text();
    artifact.codec = row.Text();
    artifact.bpw = row.Real();
    artifact.size_bytes = static_cast<uint64_t>(row.Int());
    artifact.job = row.Text();
    artifact.quality_json = row.Text();
    artifact.tensors_json = row.Text();
    artifact.created_ms = row.Int();
  }));
  for (ArtifactRecord& a : out) RETURN_IF_ERROR(ReadFiles("artifact_files", a.digest, a.files));
  return absl::OkStatus();
}

absl::StatusOr<ArtifactRecord> SqliteMetadataStore::GetArtifact(const std::string& digest) {
  std::lock_guard lock(mutex_);
  std::vector<ArtifactRecord> found;
  RETURN_IF_ERROR(QueryArtifacts("SELECT * FROM artifacts WHERE digest = ?", {digest}, found));
  if (found.empty()) return NotFound("ARTIFACT_NOT_FOUND", "there is no artifact {}", digest);
  return std::move(found.front());
}

absl::StatusOr<Page<ArtifactRecord>> SqliteMetadataStore::ListArtifacts(const PageRequest& page,
                                                                        const std::string& checkpoint) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  std::lock_guard lock(mutex_);
  std::vector<ArtifactRecord> found;
  std::vector<int64_t> sequences;
  RETURN_IF_ERROR(QueryArtifacts(
      "SELECT * FROM artifacts WHERE sequence < ?1 AND (?2 = '' OR checkpoint = ?2) ORDER BY sequence DESC LIMIT ?3",
      {bounds.before, checkpoint, bounds.size + 1}, found, &sequences));
  return CutPage(std::move(found), sequences, bounds);
}

absl::Status SqliteMetadataStore::DeleteArtifact(const std::string& digest) {
  return DeleteRow("DELETE FROM artifacts WHERE digest = ?", digest, "ARTIFACT_NOT_FOUND");
}

// --- Served models, aliases, request ids, settings ---

absl::Status SqliteMetadataStore::PutServedModel(const ServedModelRecord& model) {
  std::lock_guard lock(mutex_);
  return db_->Run("INSERT OR REPLACE INTO served_models VALUES (?, ?, ?, ?)",
                  {model.name, model.source, model.context_tokens, model.created_ms});
}

absl::StatusOr<std::vector<ServedModelRecord>> SqliteMetadataStore::ListServedModels() {
  std::lock_guard lock(mutex_);
  std::vector<ServedModelRecord> models;
  RETURN_IF_ERROR(db_->Query("SELECT * FROM served_models ORDER BY name", {}, [&](SqlRow& row) {
    ServedModelRecord& model = models.emplace_back();
    model.name = row.Text();
    model.source = row.Text();
    model.context_tokens = row.Int();
    model.created_ms = row.Int();
  }));
  return models;
}

absl::Status SqliteMetadataStore::DeleteServedModel(const std::string& name) {
  std::lock_guard lock(mutex_);
  return db_->Run("DELETE FROM served_models WHERE name = ?", {name});
}

absl::Status SqliteMetadataStore::PutAlias(const AliasRecord& alias) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*db_));
  RETURN_IF_ERROR(db_->Run("DELETE FROM aliases WHERE name = ?", {alias.name}));
  RETURN_IF_ERROR(db_->Run("INSERT INTO aliases VALUES (?, ?, ?)", {alias.name, alias.etag, alias.updated_ms}));
  for (size_t i = 0; i < alias.targets.size(); ++i) {
    RETURN_IF_ERROR(db_->Run("INSERT INTO alias_targets VALUES (?, ?, ?, ?)",
                             {alias.name, static_cast<int64_t>(i), alias.targets[i].model, alias.targets[i].weight}));
  }
  return transaction->Commit();
}

absl::StatusOr<std::vector<AliasRecord>> SqliteMetadataStore::ListAliases() {
  std::lock_guard lock(mutex_);
  std::vector<AliasRecord> aliases;
  RETURN_IF_ERROR(db_->Query("SELECT * FROM aliases ORDER BY name", {}, [&](SqlRow& row) {
    AliasRecord& alias = aliases.emplace_back();
    alias.name = row.Text();
    alias.etag = row.Text();
    alias.updated_ms = row.Int();
  }));
  for (AliasRecord& alias : aliases) {
    RETURN_IF_ERROR(db_->Query("SELECT model, weight FROM alias_targets WHERE alias = ? ORDER BY position",
                               {alias.name}, [&](SqlRow& row) {
                                 AliasTarget& target = alias.targets.emplace_back();
                                 target.model = row.Text();
                                 target.weight = static_cast<int32_t>(row.Int());
                               }));
  }
  return aliases;
}

absl::Status SqliteMetadataStore::DeleteAlias(const std::string& name) {
  std::lock_guard lock(mutex_);
  return db_->Run("DELETE FROM aliases WHERE name = ?", {name});
}

absl::StatusOr<std::optional<RequestRecord>> SqliteMetadataStore::FindRequest(const std::string& request_id) {
  std::lock_guard lock(mutex_);
  std::optional<RequestRecord> request;
  RETURN_IF_ERROR(db_->Query("SELECT * FROM requests WHERE request_id = ?", {request_id}, [&](SqlRow& row) {
    request.emplace();
    request->request_id = row.Text();
    request->method = row.Text();
    request->payload_digest = row.Text();
    request->answer = row.Text();
    request->created_ms = row.Int();
  }));
  return request;
}

absl::Status SqliteMetadataStore::PutRequest(const RequestRecord& request) {
  std::lock_guard lock(mutex_);
  const absl::Status status =
      db_->Run("INSERT INTO requests VALUES (?, ?, ?, ?, ?)",
               {request.request_id, request.method, request.payload_digest, request.answer, request.created_ms});
  if (!absl::IsAlreadyExists(status)) return status;
  return AlreadyExists("REQUEST_ID_REUSED", "request_id {} was used before", request.request_id);
}

absl::Status SqliteMetadataStore::DeleteRequestsBefore(int64_t before_ms) {
  std::lock_guard lock(mutex_);
  return db_->Run("DELETE FROM requests WHERE created_ms < ?", {before_ms});
}

absl::StatusOr<std::map<std::string, std::string>> SqliteMetadataStore::ListSettings() {
  std::lock_guard lock(mutex_);
  std::map<std::string, std::string> settings;
  RETURN_IF_ERROR(db_->Query("SELECT key, value FROM settings", {}, [&](SqlRow& row) {
    std::string key = row.Text();
    settings[std::move(key)] = row.Text();
  }));
  return settings;
}

absl::Status SqliteMetadataStore::PutSetting(const std::string& key, const std::string& value) {
  std::lock_guard lock(mutex_);
  return db_->Run("INSERT OR REPLACE INTO settings VALUES (?, ?)", {key, value});
}

absl::StatusOr<std::set<std::string>> SqliteMetadataStore::ReferencedBlobs(int64_t retry_since_ms) {
  std::lock_guard lock(mutex_);
  std::set<std::string> digests;
  RETURN_IF_ERROR(
      db_->Query("SELECT sha256 FROM upload_files JOIN uploads ON owner = id WHERE result = ''"
                 " UNION SELECT sha256 FROM checkpoint_files WHERE external_path = ''"
                 " UNION SELECT digest FROM texts WHERE external_path = ''"
                 " UNION SELECT sha256 FROM artifact_files"
                 " UNION SELECT sha256 FROM task_blobs JOIN jobs ON job = id"
                 "   WHERE state IN (1, 2, 3) OR (state IN (6, 7) AND ended_ms >= ?)",
                 {retry_since_ms}, [&](SqlRow& row) { digests.insert(row.Text()); }));
  return digests;
}

}  // namespace qamserve
