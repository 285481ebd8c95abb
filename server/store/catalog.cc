#include "server/store/catalog.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/store/built_in_text.h"
#include "server/store/catalog_internal.h"
#include "server/store/request_ids.h"

namespace qamserve {

Catalog::Catalog(CatalogOptions options, MetadataStore& store, BlobStore& blobs)
    : options_(std::move(options)), store_(store), blobs_(blobs) {}

Catalog::~Catalog() = default;

absl::Status CheckDisplayName(const std::string& display_name) {
  if (display_name.size() <= kMaxDisplayNameBytes) return absl::OkStatus();
  return InvalidArgument("DISPLAY_NAME", "display_name has {} bytes; the limit is {}", display_name.size(),
                         kMaxDisplayNameBytes);
}

// --- Files ---

absl::StatusOr<FileSet> Catalog::FileSetOf(const std::string& origin, const std::vector<FileRecord>& files) {
  std::vector<FileEntry> entries;
  for (const FileRecord& file : files) {
    FileEntry& entry = entries.emplace_back();
    entry.name = file.name;
    entry.size = file.size_bytes;
    if (!file.external_path.empty()) {
      struct stat info {};
      if (::stat(file.external_path.c_str(), &info) != 0 || static_cast<uint64_t>(info.st_size) != file.size_bytes ||
          MtimeNs(info) != file.external_mtime_ns) {
        return FailedPrecondition(
            "CHECKPOINT_FILE_CHANGED",
            "{}: file {} was imported from {} by reference and has changed since; import it again", origin, file.name,
            file.external_path);
      }
      entry.path = file.external_path;
      continue;
    }
    auto path = blobs_.LocalPath(file.sha256);
    if (absl::IsNotFound(path.status())) {
      NoteMissingBlob();
      return DataLoss("BLOB_NOT_FOUND", "{}: the store has lost file {} (blob {})", origin, file.name, file.sha256);
    }
    RETURN_IF_ERROR(path.status());
    entry.path = *std::move(path);
  }
  return FileSet(origin, std::move(entries));
}

absl::StatusOr<FileSet> Catalog::FilesOfCheckpoint(const std::string& digest) {
  ASSIGN_OR_RETURN(const CheckpointRecord checkpoint, store_.GetCheckpoint(digest));
  return FileSetOf(ResourceName("checkpoints", digest), checkpoint.files);
}

absl::StatusOr<FileSet> Catalog::FilesOfArtifact(const std::string& digest) {
  ASSIGN_OR_RETURN(const ArtifactRecord artifact, store_.GetArtifact(digest));
  return FileSetOf(ResourceName("artifacts", digest), artifact.files);
}

absl::StatusOr<FileSet> Catalog::FilesOf(const std::string& source) {
  if (auto digest = ParseResourceName("artifacts", source); digest.ok()) return FilesOfArtifact(*digest);
  if (auto digest = ParseResourceName("checkpoints", source); digest.ok()) return FilesOfCheckpoint(*digest);
  return InvalidArgument("RESOURCE_NAME", "'{}' is neither artifacts/DIGEST nor checkpoints/DIGEST",
                         source.substr(0, 200));
}

absl::StatusOr<TextRecord> Catalog::GetText(const std::string& digest) {
  if (IsBuiltInText(digest)) return BuiltInTextRecord();
  return store_.GetText(digest);
}

absl::StatusOr<std::string> Catalog::ReadText(const std::string& digest) {
  if (IsBuiltInText(digest)) return std::string(BuiltInText());
  ASSIGN_OR_RETURN(const TextRecord text, store_.GetText(digest));
  ASSIGN_OR_RETURN(const FileSet files, FileSetOf(ResourceName("texts", digest), {text.file}));
  return files.ReadText(text.file.name, kMaxTextBytes);
}

// As MetadataStore::ReferencedBlobs has it.
bool Catalog::KeepsBlobsOf(const JobRecord& job) const {
  if (job.state == JobState::kFailed || job.state == JobState::kCancelled) {
    return job.ended_ms >= options_.now_ms() - options_.retry_retention_ms;
  }
  return job.state == JobState::kQueued || job.state == JobState::kRunning || job.state == JobState::kGating;
}

// --- Deletion ---

// A source is needed by served models of it, and by unfinished jobs that read it.
absl::Status Catalog::CheckUnused(const std::string& source, std::string_view reason) {
  ASSIGN_OR_RETURN(const auto models, store_.ListServedModels());
  for (const ServedModelRecord& model : models) {
    if (model.source == source) {
      return FailedPrecondition(reason, "{} is served as {}; unload it first", source, model.name);
    }
  }
  ASSIGN_OR_RETURN(const auto jobs, store_.ListUnfinishedJobs());
  for (const JobRecord& job : jobs) {
    const bool needs_artifact = job.kind == JobKind::kEvaluate && ResourceName("artifacts", job.artifact) == source;
    if (needs_artifact || ResourceName("checkpoints", job.checkpoint) == source) {
      return FailedPrecondition(reason, "{} is needed by job {}, which is {}; cancel it or wait for its end", source,
                                job.id, JobStateName(job.state));
    }
  }
  return absl::OkStatus();
}

absl::Status Catalog::DeleteCheckpoint(const std::string& digest, const std::string& request_id) {
  auto action = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(store_.GetCheckpoint(digest).status());
    RETURN_IF_ERROR(CheckUnused(ResourceName("checkpoints", digest), "CHECKPOINT_IN_USE"));
    RETURN_IF_ERROR(store_.DeleteCheckpoint(digest));
    RETURN_IF_ERROR(AfterDeletion());
    return std::string();
  };
  return RunOnce(store_, request_id, "DeleteCheckpoint", digest, options_.now_ms(), action).status();
}

absl::Status Catalog::DeleteArtifact(const std::string& digest, const std::string& request_id) {
  auto action = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(store_.GetArtifact(digest).status());
    RETURN_IF_ERROR(CheckUnused(ResourceName("artifacts", digest), "ARTIFACT_IN_USE"));
    RETURN_IF_ERROR(store_.DeleteArtifact(digest));
    RETURN_IF_ERROR(AfterDeletion());
    return std::string();
  };
  return RunOnce(store_, request_id, "DeleteArtifact", digest, options_.now_ms(), action).status();
}

// --- Artifacts ---

absl::StatusOr<std::string> Catalog::ReadArtifactFile(const std::string& digest, std::string_view file, uint64_t offset,
                                                      uint64_t limit) {
  ASSIGN_OR_RETURN(const ArtifactRecord artifact, store_.GetArtifact(digest));
  const auto it =
      std::find_if(artifact.files.begin(), artifact.files.end(), [&](const FileRecord& f) { return f.name == file; });
  if (it == artifact.files.end()) {
    return NotFound("ARTIFACT_FILE_NOT_FOUND", "artifact {} has no file '{}'", digest, file.substr(0, 200));
  }
  if (offset > it->size_bytes) {
    return OutOfRange("ARTIFACT_FILE_RANGE", "file {} of artifact {} has {} bytes; offset is {}", it->name, digest,
                      it->size_bytes, offset);
  }
  std::string bytes(static_cast<size_t>(std::min(limit, it->size_bytes - offset)), '\0');
  const absl::Status read =
      blobs_.Read(it->sha256, offset, std::as_writable_bytes(std::span(bytes.data(), bytes.size())));
  if (absl::IsNotFound(read)) NoteMissingBlob();
  // The row knows how many bytes there must be.
  if (ReasonOf(read) == "BLOB_RANGE") {
    return DataLoss("BLOB_CORRUPT", "file {} of artifact {} has {} bytes: {}", it->name, digest, it->size_bytes,
                    MessageOf(read));
  }
  RETURN_IF_ERROR(read);
  return bytes;
}

absl::StatusOr<std::vector<FileRecord>> Catalog::CommitFolder(const std::string& folder) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(folder));
  std::vector<FileRecord> records;
  for (const FileEntry& entry : files.files()) {
    ASSIGN_OR_RETURN(const BlobInfo blob, blobs_.CommitFile(entry.path));
    records.push_back({.name = entry.name, .sha256 = blob.digest, .size_bytes = blob.size});
  }
  return records;
}

}  // namespace qamserve
