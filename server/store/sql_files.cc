// Uploads, checkpoints, texts and artifacts: the rows that files belong to.
#include "server/store/sql_metadata_store.h"
#include "server/store/sql_rows.h"

namespace qamserve {

absl::Status InsertFiles(SqlTransaction& transaction, std::string_view table, const std::string& owner,
                         const std::vector<FileRecord>& files) {
  const std::string sql = fmt::format(
      "INSERT INTO {} (owner, position, name, sha256, size_bytes, external_path, external_mtime_ns)"
      " VALUES ($1, $2, $3, $4, $5, $6, $7)",
      table);
  int64_t position = 0;
  for (const FileRecord& file : files) {
    RETURN_IF_ERROR(transaction
                        .Run(sql.c_str(), {owner, position, file.name, file.sha256, file.size_bytes, file.external_path,
                                           file.external_mtime_ns})
                        .status());
    ++position;
  }
  return absl::OkStatus();
}

absl::Status ReadFiles(SqlTransaction& transaction, std::string_view table, const std::string& owner,
                       std::vector<FileRecord>& files) {
  const std::string sql = fmt::format(
      "SELECT name, sha256, size_bytes, external_path, external_mtime_ns FROM {} WHERE owner = $1 ORDER BY position",
      table);
  return transaction.Query(sql.c_str(), {owner}, [&](SqlRow& row) {
    FileRecord& file = files.emplace_back();
    file.name = row.Text();
    file.sha256 = row.Text();
    file.size_bytes = static_cast<uint64_t>(row.Int());
    file.external_path = row.Text();
    file.external_mtime_ns = row.Int();
  });
}

namespace {

// `rest` is what follows FROM and the table.
absl::Status QueryUploads(SqlTransaction& transaction, const char* rest, std::initializer_list<SqlValue> values,
                          std::vector<UploadRecord>& out) {
  const std::string sql =
      fmt::format("SELECT id, kind, display_name, content_key, result, created_ms FROM uploads {}", rest);
  RETURN_IF_ERROR(transaction.Query(sql.c_str(), values, [&](SqlRow& row) {
    UploadRecord& upload = out.emplace_back();
    upload.id = row.Text();
    upload.kind = static_cast<UploadKind>(row.Int());
    upload.display_name = row.Text();
    upload.content_key = row.Text();
    upload.result = row.Text();
    upload.created_ms = row.Int();
  }));
  for (UploadRecord& upload : out) RETURN_IF_ERROR(ReadFiles(transaction, "upload_files", upload.id, upload.files));
  return absl::OkStatus();
}

absl::Status QueryCheckpoints(SqlTransaction& transaction, const char* rest, std::initializer_list<SqlValue> values,
                              std::vector<Sequenced<CheckpointRecord>>& out) {
  const std::string sql = fmt::format(
      "SELECT sequence, digest, display_name, architecture, parameters, size_bytes, created_ms FROM checkpoints {}",
      rest);
  RETURN_IF_ERROR(transaction.Query(sql.c_str(), values, [&](SqlRow& row) {
    Sequenced<CheckpointRecord>& found = out.emplace_back();
    found.sequence = row.Int();
    CheckpointRecord& checkpoint = found.record;
    checkpoint.digest = row.Text();
    checkpoint.display_name = row.Text();
    checkpoint.architecture = row.Text();
    checkpoint.parameters = row.Int();
    checkpoint.size_bytes = static_cast<uint64_t>(row.Int());
    checkpoint.created_ms = row.Int();
  }));
  for (auto& [sequence, checkpoint] : out) {
    RETURN_IF_ERROR(ReadFiles(transaction, "checkpoint_files", checkpoint.digest, checkpoint.files));
  }
  return absl::OkStatus();
}

absl::Status QueryArtifacts(SqlTransaction& transaction, const char* rest, std::initializer_list<SqlValue> values,
                            std::vector<Sequenced<ArtifactRecord>>& out) {
  const std::string sql = fmt::format(
      "SELECT sequence, digest, display_name, checkpoint, architecture, codec, bpw, size_bytes, job, quality_json,"
      " tensors_json, created_ms FROM artifacts {}",
      rest);
  RETURN_IF_ERROR(transaction.Query(sql.c_str(), values, [&](SqlRow& row) {
    Sequenced<ArtifactRecord>& found = out.emplace_back();
    found.sequence = row.Int();
    ArtifactRecord& artifact = found.record;
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
  for (auto& [sequence, artifact] : out) {
    RETURN_IF_ERROR(ReadFiles(transaction, "artifact_files", artifact.digest, artifact.files));
  }
  return absl::OkStatus();
}

}  // namespace

// --- Uploads ---

absl::Status SqlMetadataStore::PutUpload(const UploadRecord& upload) {
  return database_->Transact([&](SqlTransaction& transaction) {
    RETURN_IF_ERROR(
        transaction
            .Run("INSERT INTO uploads (id, kind, display_name, content_key, result, created_ms)"
                 " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO UPDATE SET kind = excluded.kind,"
                 " display_name = excluded.display_name, content_key = excluded.content_key,"
                 " result = excluded.result, created_ms = excluded.created_ms",
                 {upload.id, upload.kind, upload.display_name, upload.content_key, upload.result, upload.created_ms})
            .status());
    RETURN_IF_ERROR(transaction.Run("DELETE FROM upload_files WHERE owner = $1", {upload.id}).status());
    return InsertFiles(transaction, "upload_files", upload.id, upload.files);
  });
}

absl::StatusOr<UploadRecord> SqlMetadataStore::GetUpload(const std::string& id) {
  ASSIGN_OR_RETURN(std::optional<UploadRecord> found,
                   ReadFirst<UploadRecord>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     return QueryUploads(transaction, "WHERE id = $1", {id}, out);
                   }));
  if (!found) return NotFound("UPLOAD_NOT_FOUND", "there is no upload {}", id);
  return *std::move(found);
}

absl::StatusOr<std::optional<UploadRecord>> SqlMetadataStore::FindOpenUpload(const std::string& content_key) {
  return ReadFirst<UploadRecord>(*database_, [&](SqlTransaction& transaction, auto& out) {
    return QueryUploads(transaction, "WHERE content_key = $1 AND result = '' ORDER BY created_ms DESC, id LIMIT 1",
                        {content_key}, out);
  });
}

absl::Status SqlMetadataStore::DeleteUpload(const std::string& id) {
  return DeleteRow("DELETE FROM uploads WHERE id = $1", id, "UPLOAD_NOT_FOUND");
}

absl::Status SqlMetadataStore::DeleteUploadsBefore(int64_t before_ms) {
  return RunAlone("DELETE FROM uploads WHERE created_ms < $1", {before_ms});
}

// --- Checkpoints ---

absl::Status SqlMetadataStore::PutCheckpoint(const CheckpointRecord& checkpoint) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(
        const int64_t inserted,
        transaction.Run("INSERT INTO checkpoints (digest, display_name, architecture, parameters, size_bytes,"
                        " created_ms) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (digest) DO NOTHING",
                        {checkpoint.digest, checkpoint.display_name, checkpoint.architecture, checkpoint.parameters,
                         checkpoint.size_bytes, checkpoint.created_ms}));
    if (inserted == 0) return absl::OkStatus();
    return InsertFiles(transaction, "checkpoint_files", checkpoint.digest, checkpoint.files);
  });
}

absl::StatusOr<CheckpointRecord> SqlMetadataStore::GetCheckpoint(const std::string& digest) {
  ASSIGN_OR_RETURN(std::optional<Sequenced<CheckpointRecord>> found,
                   ReadFirst<Sequenced<CheckpointRecord>>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     return QueryCheckpoints(transaction, "WHERE digest = $1", {digest}, out);
                   }));
  if (!found) return NotFound("CHECKPOINT_NOT_FOUND", "there is no checkpoint {}", digest);
  return std::move(found->record);
}

absl::StatusOr<Page<CheckpointRecord>> SqlMetadataStore::ListCheckpoints(const PageRequest& page) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  ASSIGN_OR_RETURN(std::vector<Sequenced<CheckpointRecord>> rows,
                   ReadList<Sequenced<CheckpointRecord>>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     return QueryCheckpoints(transaction, "WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2",
                                             {bounds.before, bounds.size + 1}, out);
                   }));
  return CutPage(std::move(rows), bounds);
}

absl::Status SqlMetadataStore::DeleteCheckpoint(const std::string& digest) {
  return DeleteRow("DELETE FROM checkpoints WHERE digest = $1", digest, "CHECKPOINT_NOT_FOUND");
}

// --- Texts ---

absl::Status SqlMetadataStore::PutText(const TextRecord& text) {
  return RunAlone(
      "INSERT INTO texts (digest, display_name, name, size_bytes, external_path, external_mtime_ns,"
      " created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (digest) DO NOTHING",
      {text.digest, text.display_name, text.file.name, text.file.size_bytes, text.file.external_path,
       text.file.external_mtime_ns, text.created_ms});
}

absl::StatusOr<TextRecord> SqlMetadataStore::GetText(const std::string& digest) {
  ASSIGN_OR_RETURN(
      std::optional<TextRecord> found,
      ReadFirst<TextRecord>(*database_, [&](SqlTransaction& transaction, std::vector<TextRecord>& out) {
        return transaction.Query(
            "SELECT digest, display_name, name, size_bytes, external_path, external_mtime_ns, created_ms FROM texts"
            " WHERE digest = $1",
            {digest}, [&](SqlRow& row) {
              TextRecord& text = out.emplace_back();
              text.digest = text.file.sha256 = row.Text();
              text.display_name = row.Text();
              text.file.name = row.Text();
              text.file.size_bytes = static_cast<uint64_t>(row.Int());
              text.file.external_path = row.Text();
              text.file.external_mtime_ns = row.Int();
              text.created_ms = row.Int();
            });
      }));
  if (!found) return NotFound("TEXT_NOT_FOUND", "there is no text {}", digest);
  return *std::move(found);
}

absl::Status SqlMetadataStore::DeleteText(const std::string& digest) {
  return DeleteRow("DELETE FROM texts WHERE digest = $1", digest, "TEXT_NOT_FOUND");
}

// --- Artifacts ---

absl::Status InsertArtifact(SqlTransaction& transaction, const ArtifactRecord& a) {
  ASSIGN_OR_RETURN(
      const int64_t inserted,
      transaction.Run("INSERT INTO artifacts (digest, display_name, checkpoint, architecture, codec, bpw, size_bytes,"
                      " job, quality_json, tensors_json, created_ms)"
                      " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (digest) DO NOTHING",
                      {a.digest, a.display_name, a.checkpoint, a.architecture, a.codec, a.bpw, a.size_bytes, a.job,
                       a.quality_json, a.tensors_json, a.created_ms}));
  if (inserted == 0) return absl::OkStatus();
  return InsertFiles(transaction, "artifact_files", a.digest, a.files);
}

absl::Status SqlMetadataStore::PutArtifact(const ArtifactRecord& artifact) {
  return database_->Transact([&](SqlTransaction& transaction) { return InsertArtifact(transaction, artifact); });
}

absl::StatusOr<ArtifactRecord> SqlMetadataStore::GetArtifact(const std::string& digest) {
  ASSIGN_OR_RETURN(std::optional<Sequenced<ArtifactRecord>> found,
                   ReadFirst<Sequenced<ArtifactRecord>>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     return QueryArtifacts(transaction, "WHERE digest = $1", {digest}, out);
                   }));
  if (!found) return NotFound("ARTIFACT_NOT_FOUND", "there is no artifact {}", digest);
  return std::move(found->record);
}

absl::StatusOr<Page<ArtifactRecord>> SqlMetadataStore::ListArtifacts(const PageRequest& page,
                                                                     const std::string& checkpoint) {
  ASSIGN_OR_RETURN(const PageBounds bounds, ParsePage(page));
  ASSIGN_OR_RETURN(std::vector<Sequenced<ArtifactRecord>> rows,
                   ReadList<Sequenced<ArtifactRecord>>(*database_, [&](SqlTransaction& transaction, auto& out) {
                     return QueryArtifacts(
                         transaction,
                         "WHERE sequence < $1 AND ($2 = '' OR checkpoint = $2) ORDER BY sequence DESC LIMIT $3",
                         {bounds.before, checkpoint, bounds.size + 1}, out);
                   }));
  return CutPage(std::move(rows), bounds);
}

absl::Status SqlMetadataStore::DeleteArtifact(const std::string& digest) {
  return DeleteRow("DELETE FROM artifacts WHERE digest = $1", digest, "ARTIFACT_NOT_FOUND");
}

}  // namespace qamserve
