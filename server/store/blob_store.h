// Bytes named by their SHA-256. Start here for server/store, then metadata_store.h, then catalog.h which joins the two.
// A blob appears whole or not at all; it never changes. Thread-safe, except that a BlobWriter belongs to one thread at
// a time.
// Errors: NOT_FOUND (BLOB_NOT_FOUND), RESOURCE_EXHAUSTED (DISK_FULL) with nothing half-written left, INVALID_ARGUMENT
// (BLOB_DIGEST) for a name that is not 64 lower-case hex digits, UNAVAILABLE (FILE_IO). s3_blob_store.h has more.
// tests/server/store/blob_store_contract.h is the test suite of every implementation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

struct BlobInfo {
  std::string digest;
  uint64_t size = 0;
  int64_t modified_ms = 0;  // when it was committed, or last committed again
};

// One blob on its way in. What was appended survives the writer and the process: the next BeginWrite of the same digest
// goes on behind it. Only one writer of a digest exists in a process at a time; where other processes write to the same
// store, a call of one whose place another one has taken is ABORTED (UPLOAD_BUSY), and the writer is of no use then.
class BlobWriter {
 public:
  virtual ~BlobWriter() = default;
  // Bytes that are in. Appends must start here.
  virtual uint64_t committed() const = 0;
  // The first bytes, at most 16, of what is in.
  virtual std::span<const std::byte> head() const = 0;
  // OUT_OF_RANGE (UPLOAD_OFFSET) names the expected offset; INVALID_ARGUMENT (UPLOAD_SIZE) if more than the declared
  // size would be in. After DISK_FULL what had been committed before the call is kept.
  virtual absl::Status Append(uint64_t offset, std::span<const std::byte> bytes) = 0;
  // Checks size and digest, makes the blob durable and visible. DATA_LOSS (UPLOAD_DIGEST) on a wrong digest: the bytes
  // are thrown away, committed() is 0. OUT_OF_RANGE (UPLOAD_INCOMPLETE) if bytes are missing. The writer is of no use
  // afterwards.
  virtual absl::Status Commit() = 0;
  // Throws away what is in.
  virtual absl::Status Discard() = 0;
};

class BlobStore {
 public:
  virtual ~BlobStore() = default;

  virtual absl::StatusOr<bool> Has(const std::string& digest) = 0;
  virtual absl::StatusOr<uint64_t> Size(const std::string& digest) = 0;
  // Bytes of a blob that is there (its size) or on its way in.
  virtual absl::StatusOr<uint64_t> CommittedBytes(const std::string& digest) = 0;

  // ABORTED (UPLOAD_BUSY) while another writer of this digest lives; RESOURCE_EXHAUSTED (DISK_FULL) if `size` bytes
  // less those already in do not fit; ALREADY_EXISTS (BLOB_EXISTS).
  virtual absl::StatusOr<std::unique_ptr<BlobWriter>> BeginWrite(const std::string& digest, uint64_t size) = 0;
  // Takes a finished local file in and removes it from its place; returns its digest and size. Free if the file lies on
  // the store's file system.
  virtual absl::StatusOr<BlobInfo> CommitFile(const std::string& path) = 0;
  // The same, but the file stays: its bytes are copied.
  virtual absl::StatusOr<BlobInfo> CopyFile(const std::string& path) = 0;
  virtual absl::StatusOr<BlobInfo> CommitBytes(std::string_view bytes) = 0;

  // Whether Read and LocalPath find the blob on this machine. Else they may take as long as fetching all of it does.
  virtual bool IsHere(const std::string& /*digest*/) { return true; }
  // Fills `out` from `offset`; OUT_OF_RANGE (BLOB_RANGE) beyond the end.
  virtual absl::Status Read(const std::string& digest, uint64_t offset, std::span<std::byte> out) = 0;
  // A path for reading and mapping, valid until the blob is deleted. Where blobs lie elsewhere it is that of a copy,
  // which may go ten minutes later: open it soon. What is open or mapped then stays readable.
  virtual absl::StatusOr<std::string> LocalPath(const std::string& digest) = 0;

  // A blob that is not there is fine.
  virtual absl::Status Delete(const std::string& digest) = 0;
  // Deletes only if it was last committed before `before_ms`, decided and done at once; returns whether it is gone. For
  // callers that others wait for: what fails is not tried again.
  virtual absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, int64_t before_ms) = 0;
  virtual absl::StatusOr<std::vector<BlobInfo>> List() = 0;
  // Blobs on their way in, and removal of one (ABORTED, UPLOAD_BUSY, while a writer of this process lives).
  virtual absl::StatusOr<std::vector<BlobInfo>> ListPartials() = 0;
  virtual absl::Status DeletePartial(const std::string& digest) = 0;
  // Removes what no list shows: leftovers, older than `before_ms`, of calls that did not come to their end.
  virtual absl::Status SweepLeftovers(int64_t /*before_ms*/) { return absl::OkStatus(); }

  // RESOURCE_EXHAUSTED (DISK_FULL) names both counts if fewer than `bytes` fit.
  virtual absl::Status CheckSpace(uint64_t bytes) = 0;
};

// OK for 64 lower-case hex digits, else INVALID_ARGUMENT (BLOB_DIGEST).
absl::Status CheckBlobDigest(const std::string& digest);

struct DirectoryBlobStoreOptions {
  std::string root;
  // Left free for the metadata store, logs and everyone else on the file system.
  uint64_t reserve_bytes = uint64_t{64} << 20;
  // Free bytes at a path; tests replace it.
  std::function<absl::StatusOr<uint64_t>(const std::string&)> free_bytes;
};

// root/blobs/ab/cdef... for blobs, root/partial/abcdef... for those on their way in (removed only by Commit, Discard
// and DeletePartial), root/incoming for files being copied (emptied at Open). One process at a time owns a root.
class DirectoryBlobStore : public BlobStore {
 public:
  static absl::StatusOr<std::unique_ptr<DirectoryBlobStore>> Open(const DirectoryBlobStoreOptions& options);

  absl::StatusOr<bool> Has(const std::string& digest) override;
  absl::StatusOr<uint64_t> Size(const std::string& digest) override;
  absl::StatusOr<uint64_t> CommittedBytes(const std::string& digest) override;
  absl::StatusOr<std::unique_ptr<BlobWriter>> BeginWrite(const std::string& digest, uint64_t size) override;
  absl::StatusOr<BlobInfo> CommitFile(const std::string& path) override;
  absl::StatusOr<BlobInfo> CopyFile(const std::string& path) override;
  absl::StatusOr<BlobInfo> CommitBytes(std::string_view bytes) override;
  absl::Status Read(const std::string& digest, uint64_t offset, std::span<std::byte> out) override;
  absl::StatusOr<std::string> LocalPath(const std::string& digest) override;
  absl::Status Delete(const std::string& digest) override;
  absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, int64_t before_ms) override;
  absl::StatusOr<std::vector<BlobInfo>> List() override;
  absl::StatusOr<std::vector<BlobInfo>> ListPartials() override;
  absl::Status DeletePartial(const std::string& digest) override;
  absl::Status CheckSpace(uint64_t bytes) override;

 private:
  friend class DirectoryBlobWriter;
  // Digests that have a live writer. Shared with the writers, which may outlive the store.
  struct Writers {
    std::mutex mutex;
    std::set<std::string> digests;
  };

  explicit DirectoryBlobStore(DirectoryBlobStoreOptions options);
  std::string BlobPath(const std::string& digest) const;
  std::string PartialPath(const std::string& digest) const;
  // Puts the finished and synced file `path` in its place; it is gone from `path` afterwards.
  absl::Status Place(const std::string& path, const std::string& digest);
  absl::StatusOr<std::string> CopyIn(const std::string& path);

  DirectoryBlobStoreOptions options_;
  std::mutex place_mutex_;  // a blob that is committed again is not deleted at the same time
  std::shared_ptr<Writers> writers_ = std::make_shared<Writers>();
};

}  // namespace qamserve
