// Uploads, imports, checkpoints, texts and artifacts: what rows and blobs are together. Thread-safe; the catalogs of
// several processes may share their stores.
// Digests and upload ids are bare, not resource names. Errors are those of both stores and the ones named here.
#pragma once

#include <absl/functional/function_ref.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/base/status.h"
#include "core/format/file_set.h"
#include "server/fetch/remote_source.h"
#include "server/store/blob_store.h"
#include "server/store/metadata_store.h"
#include "server/store/store_observer.h"

namespace qamserve {

inline constexpr size_t kMaxFiles = 4096;  // of an upload or an import
inline constexpr size_t kMaxFileNameBytes = 255;
inline constexpr size_t kMaxDisplayNameBytes = 200;
inline constexpr uint64_t kMaxFileBytes = uint64_t{1} << 40;
inline constexpr uint64_t kMaxTextBytes = uint64_t{256} << 20;
inline constexpr size_t kMaxAppendBytes = size_t{1} << 20;

// What a look at a checkpoint tells.
struct CheckpointFacts {
  std::string architecture;
  int64_t parameters = 0;
};
// Opens the checkpoint and its tokenizer and checks one against the other. INVALID_ARGUMENT (TOKENIZER_MISMATCH) if the
// tokenizer has ids that the model has no embedding for; else the errors of Checkpoint::Open and Tokenizer::Create.
absl::StatusOr<CheckpointFacts> InspectCheckpoint(const FileSet& files);

enum class ImportMode { kCopy, kReference };

struct CatalogOptions {
  // Imports may read below this folder only; empty = no imports.
  std::string import_root;
  // kReference leaves the files where they are; they must not change.
  ImportMode import_mode = ImportMode::kCopy;
  // Hubs and stores that imports may read from, and where files lie that are on their way from there.
  RemoteOptions remote;
  std::string import_spool;
  // Unreferenced blobs and partial uploads younger than this are not collected: their row may be on its way.
  int64_t garbage_grace_ms = int64_t{3600} * 1000;
  int64_t upload_retention_ms = int64_t{7} * 24 * 3600 * 1000;
  // How long a FAILED or CANCELLED job can go on from its finished tasks.
  int64_t retry_retention_ms = int64_t{7} * 24 * 3600 * 1000;
  // After so long a collection that deletes lets those go first that make rows refer to blobs.
  int64_t collection_turn_ms = 2'000;
  // Whether garbage is collected after every deletion. Off where listing all blobs takes long: then what was deleted
  // goes with the next CollectGarbage.
  bool collect_on_delete = true;
  std::function<int64_t()> now_ms = SystemNowMs;
  std::function<absl::StatusOr<CheckpointFacts>(const FileSet&)> inspect = InspectCheckpoint;
  // Is told of blobs that rows name and that are not there.
  std::shared_ptr<StoreObserver> observer = std::make_shared<StoreObserver>();
};

struct UploadFileState {
  FileRecord file;
  uint64_t committed_bytes = 0;
  bool complete = false;
};
struct UploadView {
  std::string id;
  UploadKind kind = UploadKind::kCheckpoint;
  std::string display_name;
  std::vector<UploadFileState> files;
  std::string result;  // see UploadRecord
  int64_t created_ms = 0;
};

using CheckpointOrText = std::variant<CheckpointRecord, TextRecord>;

struct GarbageRequest {
  bool dry_run = false;             // only looks
  std::optional<int64_t> grace_ms;  // in place of CatalogOptions::garbage_grace_ms
};
inline constexpr size_t kMaxNamedGarbage = 1000;
// What was deleted, or would be.
struct GarbageResult {
  int64_t blobs = 0;
  uint64_t bytes = 0;  // of them
  int64_t partials = 0;
  uint64_t partial_bytes = 0;
  std::vector<std::string> digests;  // of the first blobs, at most kMaxNamedGarbage
  int64_t blobs_seen = 0;            // all that the store has
  uint64_t bytes_seen = 0;
};

class Catalog {
 public:
  // `store` and `blobs` must outlive the catalog.
  Catalog(CatalogOptions options, MetadataStore& store, BlobStore& blobs);
  ~Catalog();

  // --- Uploads ---
  // Finds the open upload with the same content or opens one. Files that the store has are complete at once.
  // INVALID_ARGUMENT: UPLOAD_FILES (none, too many, or a name, digest or size that is not valid; names file and limit),
  // FILE_TYPE_UNSUPPORTED (pickle files), DISPLAY_NAME. RESOURCE_EXHAUSTED (DISK_FULL) if the missing bytes do not fit.
  absl::StatusOr<UploadView> CreateUpload(UploadKind kind, const std::vector<FileRecord>& files,
                                          const std::string& display_name, const std::string& request_id);
  // Appends at most kMaxAppendBytes to a file of the upload and commits it with its last byte. Any number of bytes for
  // a file that is complete already are skipped. OUT_OF_RANGE (UPLOAD_OFFSET) names the expected offset; DATA_LOSS
  // (UPLOAD_DIGEST): the file starts again from 0; INVALID_ARGUMENT (SAFETENSORS_HEADER, GGUF_HEADER) as soon as the
  // first bytes show that the file cannot be what its name says; ABORTED (UPLOAD_BUSY) while another call writes it.
  absl::StatusOr<UploadFileState> Append(const std::string& upload, const std::string& sha256, uint64_t offset,
                                         std::span<const std::byte> bytes);
  absl::StatusOr<UploadView> QueryUpload(const std::string& id);
  // Checks the files as a whole and makes them a checkpoint or a text. Idempotent. FAILED_PRECONDITION
  // (UPLOAD_INCOMPLETE) names a missing file.
  absl::StatusOr<CheckpointOrText> CompleteUpload(const std::string& id, const std::string& request_id);
  // An upload that is not there is fine.
  absl::Status CancelUpload(const std::string& id);
  // `path` is relative to the import root. INVALID_ARGUMENT (IMPORT_PATH) if it is absolute, has "..", or leads out of
  // the root by a link; FAILED_PRECONDITION (IMPORT_DISABLED) without an import root.
  absl::StatusOr<CheckpointOrText> Import(UploadKind kind, const std::string& path, const std::string& display_name,
                                          const std::string& request_id);
  // From a hub or an object store (remote_source.h); blocks until everything is here and checked. Files come side by
  // side, as the files of an upload, and a later try goes on where this one was cut off. The errors of
  // OpenRemoteSource, RemoteSource::Read and CompleteUpload; DATA_LOSS (UPLOAD_DIGEST) if a file is not what the source
  // says.
  absl::StatusOr<CheckpointOrText> ImportRemote(UploadKind kind, const std::string& source,
                                                const std::string& display_name, const std::string& request_id,
                                                const std::function<bool()>& cancelled);

  // --- Checkpoints and texts ---
  absl::StatusOr<CheckpointRecord> GetCheckpoint(const std::string& digest) { return store_.GetCheckpoint(digest); }
  absl::StatusOr<Page<CheckpointRecord>> ListCheckpoints(const PageRequest& page) {
    return store_.ListCheckpoints(page);
  }
  // FAILED_PRECONDITION (CHECKPOINT_IN_USE) names the unfinished job or served model that needs it.
  absl::Status DeleteCheckpoint(const std::string& digest, const std::string& request_id);
  // Uploaded, imported, or the built-in one (built_in_text.h).
  absl::StatusOr<TextRecord> GetText(const std::string& digest);
  absl::StatusOr<std::string> ReadText(const std::string& digest);

  // --- Artifacts ---
  absl::StatusOr<ArtifactRecord> GetArtifact(const std::string& digest) { return store_.GetArtifact(digest); }
  absl::StatusOr<Page<ArtifactRecord>> ListArtifacts(const PageRequest& page, const std::string& checkpoint) {
    return store_.ListArtifacts(page, checkpoint);
  }
  // FAILED_PRECONDITION (ARTIFACT_IN_USE) while an unfinished job or a served model needs it.
  absl::Status DeleteArtifact(const std::string& digest, const std::string& request_id);
  // At most `limit` bytes of a file of an artifact from `offset`; empty at the end. NOT_FOUND
  // (ARTIFACT_FILE_NOT_FOUND), OUT_OF_RANGE (ARTIFACT_FILE_RANGE), DATA_LOSS (BLOB_CORRUPT).
  absl::StatusOr<std::string> ReadArtifactFile(const std::string& digest, std::string_view file, uint64_t offset,
                                               uint64_t limit);
  // Takes the files of a finished folder (no folders in it) into the blobs; they are gone from there afterwards.
  absl::StatusOr<std::vector<FileRecord>> CommitFolder(const std::string& folder);

  // --- Both ---
  // The files where they can be read and mapped. FAILED_PRECONDITION (CHECKPOINT_FILE_CHANGED) if one that was imported
  // by reference is not what it was; DATA_LOSS (BLOB_NOT_FOUND) if the store has lost one.
  absl::StatusOr<FileSet> FilesOfCheckpoint(const std::string& digest);
  absl::StatusOr<FileSet> FilesOfArtifact(const std::string& digest);
  // `source` is "checkpoints/{digest}" or "artifacts/{digest}".
  absl::StatusOr<FileSet> FilesOf(const std::string& source);
  absl::StatusOr<FileSet> FileSetOf(const std::string& origin, const std::vector<FileRecord>& files);
  // For others who find that a blob which a row names is not there: tells the observer.
  void NoteMissingBlob() { options_.observer->OnMissingBlob(); }
  // Whether the blobs of the job's tasks are kept, since it goes on or may be retried. Else they may be gone.
  bool KeepsBlobsOf(const JobRecord& job) const;

  // Deletes blobs and partial uploads that nothing refers to, old uploads and old request ids. A dry run counts what
  // nothing refers to now; a real one has removed old uploads before it looks. The first blob that cannot be deleted
  // ends it, with an error that says how many are left; the next collection goes on with them.
  absl::StatusOr<GarbageResult> CollectGarbage(const GarbageRequest& request = {});
  // The same unless any process did so less than `interval_ms` ago; no value then.
  absl::StatusOr<std::optional<GarbageResult>> CollectGarbageIfDue(int64_t interval_ms);
  // For whatever has deleted rows: collects, or leaves it to the next collection (CatalogOptions::collect_on_delete).
  absl::Status AfterDeletion();
  // Runs `body` while no process collects: for what makes rows refer to blobs that are there already, however old.
  absl::Status WithoutCollection(absl::FunctionRef<absl::Status()> body);

  BlobStore& blobs() { return blobs_; }
  MetadataStore& store() { return store_; }

 private:
  struct OpenWriter {
    std::string digest;
    std::unique_ptr<BlobWriter> writer;
    std::chrono::steady_clock::time_point used;
  };

  absl::StatusOr<UploadView> ViewOf(const UploadRecord& upload);
  // Before the row is there: whether what is missing fits.
  absl::Status CheckUploadFits(const UploadRecord& upload);
  // Steps of CollectGarbage.
  absl::Status DeleteOldRows(int64_t now_ms);
  absl::Status DeleteBlobs(const std::vector<BlobInfo>& garbage, int64_t before_ms, GarbageResult& result);
  // Takes from the front of `left` what it has done with. To be called without collection.
  absl::Status DeleteBatch(std::span<const BlobInfo>& left, int64_t before_ms, GarbageResult& result);
  absl::Status DeletePartials(const std::vector<BlobInfo>& garbage, GarbageResult& result);
  absl::StatusOr<CheckpointOrText> Finish(UploadKind kind, const std::string& display_name,
                                          std::vector<FileRecord> files);
  absl::StatusOr<CheckpointOrText> ResultOf(const std::string& name);
  absl::StatusOr<std::unique_ptr<BlobWriter>> TakeWriter(const FileRecord& file);
  void KeepWriter(const std::string& digest, std::unique_ptr<BlobWriter> writer);
  void DropWriter(const std::string& digest);
  // Those that no Append has come to for a while: they may hold room on the disk.
  void DropIdleWriters();
  absl::Status CheckUnused(const std::string& source, std::string_view reason);
  absl::StatusOr<std::vector<FileRecord>> ImportFiles(UploadKind kind, const std::string& path);
  // Steps of ImportRemote: a file whose digest the source does not tell; one of an upload; all, into an upload.
  absl::StatusOr<FileRecord> Spool(const RemoteSource& source, const RemoteFile& file,
                                   const std::function<bool()>& cancelled);
  absl::Status FetchInto(const std::string& upload, const UploadFileState& state, const RemoteSource& source,
                         const RemoteFile& file, const std::function<bool()>& cancelled);
  absl::StatusOr<std::string> FetchAll(UploadKind kind, const RemoteSource& source, const std::string& display_name,
                                       const std::function<bool()>& cancelled);

  const CatalogOptions options_;
  MetadataStore& store_;
  BlobStore& blobs_;
  // Writers between two Appends, most recent first: their running digest need not be computed again.
  std::mutex writers_mutex_;
  std::list<OpenWriter> writers_;
};

}  // namespace qamserve
