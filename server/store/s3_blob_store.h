// Blobs in an S3-compatible object store, for any number of processes at once; each has a cache on its own disk
// (blob_cache.h). s3_objects.h says how they lie there.
// A blob's SHA-256 is checked when it comes in and when it is copied to a machine, and what is read comes from such a
// copy, be it a piece or the whole. Where the cache has no room for the copy (DISK_FULL), Read hands out what the store
// says, and the digest runs along from the first byte: the call that comes to the last byte fails if it is not the
// blob's. Whoever begins elsewhere has all that comes before read as well. What such a caller got of a blob that it
// does not read to its end was checked by nobody but the store.
// Errors besides those of BlobStore: the ones of S3Client; DATA_LOSS (BLOB_CORRUPT) names a blob whose bytes are not
// what its name says. It stays where it is: once it is deleted, the same bytes can be committed again.
//
// Uploads. A writer keeps all bytes in a file of the cache folder and puts every full piece (8 MiB, more for files of
// more than 70 GiB) into the store as it grows. committed() counts both: the next writer in this process or on this
// machine goes on behind the last byte, one elsewhere behind the last piece, which it reads back for the digest. So an
// upload goes on best where it was; elsewhere it loses less than a piece. Two processes that write the same file at the
// same time cannot mix their bytes: pieces are put only where there is none, and the digest is that of all bytes.
//
// Ages. Clocks that differ by more than seconds are made up for: times that are told are by now_ms. Some stores date an
// object from the beginning of its upload, and List has whole seconds, so ages are good to a minute; garbage
// collection's grace must be longer than renew_after_ms by more than that.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/base/digest.h"
#include "core/base/status.h"
#include "server/store/blob_cache.h"
#include "server/store/blob_store.h"
#include "server/store/running_digests.h"
#include "server/store/s3_objects.h"

namespace qamserve {

// "s3://BUCKET[/PREFIX]" taken apart; INVALID_ARGUMENT (BLOB_STORE_URI).
struct S3Location {
  std::string bucket;
  std::string prefix;  // "" or "some/folder/"
};
absl::StatusOr<S3Location> ParseS3Location(const std::string& uri);

struct S3BlobStoreOptions {
  std::string uri;           // s3://BUCKET[/PREFIX]
  S3ClientOptions client;    // its `bucket` is the uri's
  S3ObjectsOptions objects;  // its `prefix` is the uri's
  BlobCacheOptions cache;
  // Excludes the collection of an old blob and its renewal from each other in all processes of the store: the metadata
  // store's Exclusive. Empty = there is one process.
  ExclusiveFn exclusive;
  bool create_bucket = false;  // for tests
};

// What a store and its writers share, which may outlive it.
struct S3Shared {
  S3Shared(S3ObjectsOptions objects_options, S3ClientOptions client_options, std::shared_ptr<BlobCache> blob_cache)
      : objects(std::move(objects_options), std::move(client_options)), cache(std::move(blob_cache)) {}
  S3Objects objects;
  const std::shared_ptr<BlobCache> cache;
  absl::Mutex mutex;
  std::set<std::string> writing ABSL_GUARDED_BY(mutex);  // digests that have a live writer
};

class S3BlobStore : public BlobStore {
 public:
  // Asks the store whether the bucket is there: S3_CREDENTIALS, S3_BUCKET, S3_DENIED, S3_ENDPOINT, S3_UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<S3BlobStore>> Open(S3BlobStoreOptions options);

  absl::StatusOr<bool> Has(const std::string& digest) override;
  absl::StatusOr<uint64_t> Size(const std::string& digest) override;
  absl::StatusOr<uint64_t> CommittedBytes(const std::string& digest) override;
  absl::StatusOr<std::unique_ptr<BlobWriter>> BeginWrite(const std::string& digest, uint64_t size) override;
  absl::StatusOr<BlobInfo> CommitFile(const std::string& path) override;
  absl::StatusOr<BlobInfo> CopyFile(const std::string& path) override;
  absl::StatusOr<BlobInfo> CommitBytes(std::string_view bytes) override;
  bool IsHere(const std::string& digest) override;
  absl::Status Read(const std::string& digest, uint64_t offset, std::span<std::byte> out) override;
  // Needs no store if the copy is in the cache.
  absl::StatusOr<std::string> LocalPath(const std::string& digest) override;
  absl::Status Delete(const std::string& digest) override;
  absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, int64_t before_ms) override;
  absl::StatusOr<std::vector<BlobInfo>> List() override;
  absl::StatusOr<std::vector<BlobInfo>> ListPartials() override;
  absl::Status DeletePartial(const std::string& digest) override;
  absl::Status SweepLeftovers(int64_t before_ms) override;
  // The store itself cannot tell, so this is OK; room is made on the disk of the cache, as far as it can be.
  absl::Status CheckSpace(uint64_t bytes) override;

 private:
  S3BlobStore(S3BlobStoreOptions options, std::shared_ptr<S3Shared> shared);
  // The size of a blob that is to be read; asked of the store once.
  absl::StatusOr<uint64_t> SizeForRead(const std::string& digest);
  void ForgetSize(const std::string& digest);
  // Without a copy; `sha256` is that of the first `offset` bytes, or none.
  absl::Status ReadFromStore(const std::string& digest, uint64_t offset, std::span<std::byte> out,
                             std::optional<Sha256> sha256);
  absl::Status ReadObject(const std::string& digest, uint64_t offset, uint64_t size, const S3Client::Piece& piece);
  absl::Status Corrupt(const std::string& digest, const std::string& what);
  // NOT_FOUND is only that if there is a bucket.
  absl::Status Explain(const absl::Status& status);

  const S3BlobStoreOptions options_;
  const std::shared_ptr<S3Shared> shared_;
  absl::Mutex sizes_mutex_;
  std::map<std::string, uint64_t> sizes_ ABSL_GUARDED_BY(sizes_mutex_);  // of blobs that were read from lately
  RunningDigests digests_;
};

}  // namespace qamserve
