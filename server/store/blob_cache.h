// A folder of this machine with copies of blobs that lie elsewhere, so that they can be mapped: named by digest,
// checked when they come and when they are handed out, bounded in bytes, the least recently used going first. One
// process owns a folder. Thread-safe.
//   files/DIGEST     whole, read-only. The modification time is made of digest and size: one that anything has written
//                    to since has another, and is fetched again; small ones are hashed once a process besides
//   partial/DIGEST   coming; a process that is started again goes on with it
//   uploads/DIGEST   going (s3_upload.h)
//   incoming/        files that are about to be committed; emptied at Open
// A file that was handed out stays for ten minutes (hold_ms), and as long as it is mapped.
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

#include "core/base/status.h"
#include "server/store/blob_source.h"
#include "server/store/blob_store.h"
#include "server/store/store_observer.h"

namespace qamserve {

struct BlobCacheOptions {
  std::string folder;
  uint64_t max_bytes = 0;                       // of all files; 0 = what the disk has, less the reserve
  uint64_t reserve_bytes = uint64_t{64} << 20;  // left free on the disk
  int64_t hold_ms = int64_t{10} * 60 * 1000;    // that a path which was handed out stays good for at least
  uint64_t part_bytes = uint64_t{8} << 20;      // of a blob, fetched at a time
  size_t transfers = 4;                         // parts at a time
  uint64_t hash_bytes = uint64_t{16} << 20;     // files up to here are hashed at their first use in a process
  std::shared_ptr<StoreObserver> observer = std::make_shared<StoreObserver>();
  // Tests replace these: free bytes at a path, and a clock that never goes back.
  std::function<absl::StatusOr<uint64_t>(const std::string&)> free_bytes;
  std::function<int64_t()> steady_ms;
};

class BlobCache : public std::enable_shared_from_this<BlobCache> {
 public:
  static absl::StatusOr<std::shared_ptr<BlobCache>> Open(BlobCacheOptions options);

  // Room for a file at `path` that is to grow to `bytes`; both counted against the bound and the disk while this lives.
  // What is at `path` afterwards is a leftover: it stays until its room is wanted.
  class Room {
   public:
    ~Room();
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;

   private:
    friend class BlobCache;
    Room(std::shared_ptr<BlobCache> cache, std::string path, uint64_t bytes)
        : cache_(std::move(cache)), path_(std::move(path)), bytes_(bytes) {}
    const std::shared_ptr<BlobCache> cache_;
    const std::string path_;
    const uint64_t bytes_;
  };
  // RESOURCE_EXHAUSTED (DISK_FULL) names the sizes if so much cannot be freed.
  absl::StatusOr<std::unique_ptr<Room>> Reserve(const std::string& path, uint64_t bytes);
  // Frees what it can until the disk has `bytes` besides the reserve.
  void FreeDisk(uint64_t bytes);

  // The path of the copy; "" if there is none, or one that was altered.
  absl::StatusOr<std::string> Find(const std::string& digest);
  // The same, fetched if need be; several callers of one digest share the fetching. DATA_LOSS (BLOB_CORRUPT) if the
  // source's bytes do not have the digest, twice; DISK_FULL; the errors of the source.
  absl::StatusOr<std::string> Get(const std::string& digest, BlobSource& source);
  // Moves a finished file whose bytes have `digest` in. If there is no room for it, or it lies on another file system,
  // it is only removed.
  void Take(const std::string& path, const std::string& digest);
  void Remove(const std::string& digest);

  std::string UploadPath(const std::string& digest) const { return options_.folder + "/uploads/" + digest; }
  // Files of uploads that were begun: digest, bytes, time of the last one.
  absl::StatusOr<std::vector<BlobInfo>> ListUploads() const;
  // Of a writer that is no more.
  void RemoveUpload(const std::string& digest);
  std::string IncomingPath(const std::string& name) const { return options_.folder + "/incoming/" + name; }

 private:
  struct Entry {
    uint64_t size = 0;
    int64_t order = 0;          // of its last use
    int64_t held_until_ms = 0;  // by steady_ms
    bool hashed = false;        // by this process, or too large for that
  };
  struct Fetching {
    bool done = false;
    absl::Status status;
  };
  using Digests = std::set<std::string>;

  explicit BlobCache(BlobCacheOptions options);
  absl::Status Scan();
  std::string FilePath(const std::string& digest) const { return options_.folder + "/files/" + digest; }
  std::string PartialPath(const std::string& digest) const { return options_.folder + "/partial/" + digest; }

  absl::Status Fetch(const std::string& digest, BlobSource& source);
  // Marks and syncs the file at `path`, whose bytes have been checked, and makes it the copy of `digest`.
  absl::Status Seal(const std::string& path, const std::string& digest);
  void Release(const Room& room);

  bool FitsLocked(uint64_t bytes, uint64_t on_disk) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status MakeRoomLocked(const std::string& path, uint64_t bytes, uint64_t on_disk)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Removes what is wanted least; false if nothing may go. `mapped` is filled when it is first needed.
  bool EvictLocked(std::optional<Digests>& mapped) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HeldLocked(const std::string& digest, const Entry& entry, std::optional<Digests>& mapped) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropLocked(const std::string& digest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UseLocked(const std::string& digest, Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellSizeLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const BlobCacheOptions options_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t> leftovers_ ABSL_GUARDED_BY(mutex_);  // by path
  std::set<const Room*> rooms_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<Fetching>> fetching_ ABSL_GUARDED_BY(mutex_);
  uint64_t used_ ABSL_GUARDED_BY(mutex_) = 0;       // by entries
  uint64_t left_over_ ABSL_GUARDED_BY(mutex_) = 0;  // by leftovers
  uint64_t promised_ ABSL_GUARDED_BY(mutex_) = 0;   // to rooms
  int64_t order_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace qamserve
