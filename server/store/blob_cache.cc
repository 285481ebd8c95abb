#include "server/store/blob_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/store/blob_download.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;

constexpr size_t kDigestChars = 64;
constexpr int kTries = 3;  // to hand out a file that something else keeps altering

int64_t SteadyMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The modification time, in seconds since 1970, that says that the file of this size was checked: some time in 2001 to
// 2017, so that nothing that is written now has it.
int64_t MarkOf(const std::string& digest, uint64_t size) {
  constexpr int64_t kFirst = 1'000'000'000;
  constexpr uint32_t kSpan = 500'000'000;
  uint32_t bits = 0;
  std::from_chars(digest.data(), digest.data() + 8, bits, 16);
  bits ^= static_cast<uint32_t>(size * 2'654'435'761u);
  return kFirst + bits % kSpan;
}

bool IsMarked(const struct stat& info, const std::string& digest) {
  return S_ISREG(info.st_mode) && info.st_mtim.tv_nsec == 0 &&
         info.st_mtim.tv_sec == MarkOf(digest, static_cast<uint64_t>(info.st_size));
}

// Bytes of the disk that a file takes; 0 if there is none.
uint64_t BytesOnDisk(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
}

// Digests of the files in `folder` that this process has mapped: removing them would free nothing.
std::set<std::string> MappedFiles(const std::string& folder) {
  std::set<std::string> digests;
  std::ifstream maps("/proc/self/maps");
  const std::string prefix = folder + "/files/";
  for (std::string line; std::getline(maps, line);) {
    const size_t at = line.find(prefix);
    if (at != std::string::npos) digests.insert(line.substr(at + prefix.size(), kDigestChars));
  }
  return digests;
}

}  // namespace

BlobCache::Room::~Room() { cache_->Release(*this); }

BlobCache::BlobCache(BlobCacheOptions options) : options_(std::move(options)) {}

absl::StatusOr<std::shared_ptr<BlobCache>> BlobCache::Open(BlobCacheOptions options) {
  if (!options.free_bytes) options.free_bytes = FreeDiskBytes;
  if (!options.steady_ms) options.steady_ms = SteadyMs;
  for (const char* part : {"/files", "/partial", "/uploads"}) RETURN_IF_ERROR(CreateDirectories(options.folder + part));
  RETURN_IF_ERROR(RemoveAll(options.folder + "/incoming"));
  RETURN_IF_ERROR(CreateDirectories(options.folder + "/incoming"));
  std::error_code error;
  // As /proc/self/maps names it.
  const fs::path canonical = fs::canonical(options.folder, error);
  if (!error) options.folder = canonical.string();
  std::shared_ptr<BlobCache> cache(new BlobCache(std::move(options)));
  RETURN_IF_ERROR(cache->Scan());
  return cache;
}

absl::Status BlobCache::Scan() {
  struct Found {
    std::string digest;
    uint64_t size;
    int64_t used_ns;
  };
  std::vector<Found> found;
  std::error_code error;
  absl::MutexLock lock(&mutex_);
  for (fs::directory_iterator it(options_.folder + "/files", error), end; !error && it != end; it.increment(error)) {
    const std::string path = it->path().string();
    const std::string digest = it->path().filename().string();
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) continue;
    if (!IsSha256(digest) || !IsMarked(info, digest)) {
      // Altered since it was checked.
      if (IsSha256(digest)) options_.observer->OnCorruptBlob();
      ::unlink(path.c_str());
      continue;
    }
    found.push_back({.digest = digest,
                     .size = static_cast<uint64_t>(info.st_size),
                     .used_ns = int64_t{info.st_atim.tv_sec} * 1'000'000'000 + info.st_atim.tv_nsec});
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.used_ns < b.used_ns; });
  for (const Found& file : found) {
    Entry& entry = entries_[file.digest];
    entry.size = file.size;
    entry.order = ++order_;
    used_ += file.size;
  }
  for (const char* part : {"/partial", "/uploads"}) {
    if (error) break;
    for (fs::directory_iterator it(options_.folder + part, error), end; !error && it != end; it.increment(error)) {
      if (!IsSha256(it->path().filename().string())) continue;
      const std::string path = it->path().string();
      left_over_ += leftovers_[path] = BytesOnDisk(path);
    }
  }
  TellSizeLocked();
  if (!error) return absl::OkStatus();
  errno = error.value();
  return ErrnoToStatus("list", options_.folder);
}

void BlobCache::TellSizeLocked() const { options_.observer->OnCacheSize(used_, options_.max_bytes); }

// --- Room ---

bool BlobCache::FitsLocked(uint64_t bytes, uint64_t on_disk) const {
  if (options_.max_bytes > 0 && used_ + left_over_ + promised_ + bytes > options_.max_bytes) return false;
  const absl::StatusOr<uint64_t> free = options_.free_bytes(options_.folder);
  if (!free.ok()) return true;  // writing will tell
  uint64_t wanted = options_.reserve_bytes + (bytes - std::min(bytes, on_disk));
  for (const Room* room : rooms_) wanted += room->bytes_ - std::min(room->bytes_, BytesOnDisk(room->path_));
  return wanted <= *free;
}

bool BlobCache::HeldLocked(const std::string& digest, const Entry& entry, std::optional<Digests>& mapped) const {
  if (entry.held_until_ms > options_.steady_ms()) return true;
  if (!mapped) mapped = MappedFiles(options_.folder);
  return mapped->contains(digest);
}

bool BlobCache::EvictLocked(std::optional<Digests>& mapped) {
  if (!leftovers_.empty()) {
    const auto [path, bytes] = *leftovers_.begin();
    ::unlink(path.c_str());
    ::unlink((path + ".parts").c_str());
    left_over_ -= bytes;
    leftovers_.erase(path);
    return true;
  }
  const std::pair<const std::string, Entry>* oldest = nullptr;
  for (const auto& entry : entries_) {
    if (oldest != nullptr && entry.second.order > oldest->second.order) continue;
    if (!HeldLocked(entry.first, entry.second, mapped)) oldest = &entry;
  }
  if (oldest == nullptr) return false;
  const uint64_t size = oldest->second.size;
  DropLocked(std::string(oldest->first));
  options_.observer->OnCacheEviction(size);
  return true;
}

void BlobCache::DropLocked(const std::string& digest) {
  const auto it = entries_.find(digest);
  if (it == entries_.end()) return;
  ::unlink(FilePath(digest).c_str());
  used_ -= it->second.size;
  entries_.erase(it);
  TellSizeLocked();
}

absl::Status BlobCache::MakeRoomLocked(const std::string& path, uint64_t bytes, uint64_t on_disk) {
  std::optional<Digests> mapped;
  while (!FitsLocked(bytes, on_disk)) {
    // What cannot fit at all is no reason to throw everything else out.
    const bool possible = options_.max_bytes == 0 || bytes <= options_.max_bytes;
    if (possible && EvictLocked(mapped)) continue;
    const absl::StatusOr<uint64_t> free = options_.free_bytes(options_.folder);
    return ResourceExhausted(
        "DISK_FULL",
        "{} of {} bytes does not fit into the cache {}: its limit is {}, {} bytes of files in use and {} on their way "
        "stay; the disk has {} bytes free, {} of them reserved",
        fs::path(path).filename().string(), bytes, options_.folder,
        options_.max_bytes == 0 ? "the disk" : fmt::format("{} bytes", options_.max_bytes), used_, promised_,
        free.value_or(0), options_.reserve_bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<BlobCache::Room>> BlobCache::Reserve(const std::string& path, uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const auto left = leftovers_.find(path);
  if (left != leftovers_.end()) {
    left_over_ -= left->second;
    leftovers_.erase(left);
  }
  const uint64_t on_disk = BytesOnDisk(path);
  if (absl::Status status = MakeRoomLocked(path, bytes, on_disk); !status.ok()) {
    if (on_disk > 0) left_over_ += leftovers_[path] = on_disk;
    return status;
  }
  std::unique_ptr<Room> room(new Room(shared_from_this(), path, bytes));
  rooms_.insert(room.get());
  promised_ += bytes;
  return room;
}

void BlobCache::Release(const Room& room) {
  absl::MutexLock lock(&mutex_);
  rooms_.erase(&room);
  promised_ -= room.bytes_;
  struct stat info {};
  if (::stat(room.path_.c_str(), &info) == 0) left_over_ += leftovers_[room.path_] = BytesOnDisk(room.path_);
}

void BlobCache::FreeDisk(uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  std::optional<Digests> mapped;
  for (;;) {
    const absl::StatusOr<uint64_t> free = options_.free_bytes(options_.folder);
    if (!free.ok() || *free >= options_.reserve_bytes + bytes || !EvictLocked(mapped)) return;
  }
}

// --- Files ---

void BlobCache::UseLocked(const std::string& digest, Entry& entry) {
  entry.order = ++order_;
  entry.held_until_ms = options_.steady_ms() + options_.hold_ms;
  // The next process sees the order by it.
  const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_NOW}, {.tv_sec = 0, .tv_nsec = UTIME_OMIT}};
  ::utimensat(AT_FDCWD, FilePath(digest).c_str(), times, 0);
}

absl::StatusOr<std::string> BlobCache::Find(const std::string& digest) {
  std::string path = FilePath(digest);
  {
    absl::MutexLock lock(&mutex_);
    const auto it = entries_.find(digest);
    if (it == entries_.end()) return std::string();
    struct stat info {};
    const bool there = ::stat(path.c_str(), &info) == 0;
    if (!there || !IsMarked(info, digest) || static_cast<uint64_t>(info.st_size) != it->second.size) {
      if (there) options_.observer->OnCorruptBlob();
      DropLocked(digest);
      return std::string();
    }
    UseLocked(digest, it->second);
    if (it->second.hashed || it->second.size > options_.hash_bytes) return path;
  }
  // Held, so it stays while it is read.
  const absl::StatusOr<std::string> found = Sha256OfFile(path);
  absl::MutexLock lock(&mutex_);
  const auto it = entries_.find(digest);
  if (it == entries_.end()) return std::string();
  if (found.ok() && *found == digest) {
    it->second.hashed = true;
    return path;
  }
  options_.observer->OnCorruptBlob();
  DropLocked(digest);
  return std::string();
}

absl::StatusOr<std::string> BlobCache::Get(const std::string& digest, BlobSource& source) {
  for (int tries = 0; tries < kTries; ++tries) {
    ASSIGN_OR_RETURN(std::string path, Find(digest));
    if (tries == 0) options_.observer->OnCacheLookup(!path.empty());
    if (!path.empty()) return path;
    std::shared_ptr<Fetching> fetching;
    bool mine = false;
    {
      absl::MutexLock lock(&mutex_);
      std::shared_ptr<Fetching>& slot = fetching_[digest];
      mine = slot == nullptr;
      if (mine) slot = std::make_shared<Fetching>();
      fetching = slot;
    }
    absl::Status status;
    if (mine) {
      status = Fetch(digest, source);
      absl::MutexLock lock(&mutex_);
      fetching->done = true;
      fetching->status = status;
      fetching_.erase(digest);
    } else {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&fetching->done));
      status = fetching->status;
    }
    RETURN_IF_ERROR(status);
  }
  return Unavailable("FILE_IO", "blob {}: its copy in {} is altered again and again", digest, options_.folder);
}

absl::Status BlobCache::Fetch(const std::string& digest, BlobSource& source) {
  ASSIGN_OR_RETURN(const uint64_t size, source.Size());
  BlobDownload download{.path = PartialPath(digest),
                        .digest = digest,
                        .size = size,
                        .part_bytes = options_.part_bytes,
                        .transfers = options_.transfers};
  ASSIGN_OR_RETURN(const std::unique_ptr<Room> room, Reserve(download.path, size));
  absl::Status status = DownloadBlob(download, source);
  // Once more from the start: parts that an earlier process had fetched may have been lost with the power.
  if (ReasonOf(status) == "BLOB_CORRUPT") status = DownloadBlob(download, source);
  if (ReasonOf(status) == "BLOB_CORRUPT") options_.observer->OnCorruptBlob();
  if (ReasonOf(status) == "DISK_FULL") {
    ::unlink(download.path.c_str());
    ::unlink(download.parts_path().c_str());
  }
  RETURN_IF_ERROR(status);
  return Seal(download.path, digest);
}

absl::Status BlobCache::Seal(const std::string& path, const std::string& digest) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoToStatus("open", path);
  absl::Status status;
  struct stat info {};
  if (::fstat(fd, &info) != 0) status = ErrnoToStatus("stat", path);
  const auto size = static_cast<uint64_t>(info.st_size);
  const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_NOW},
                             {.tv_sec = static_cast<time_t>(MarkOf(digest, size)), .tv_nsec = 0}};
  if (status.ok() && ::fchmod(fd, 0444) != 0) status = ErrnoToStatus("protect", path);
  if (status.ok() && ::futimens(fd, times) != 0) status = ErrnoToStatus("mark", path);
  if (status.ok() && ::fsync(fd) != 0) status = ErrnoToStatus("sync", path);
  ::close(fd);
  RETURN_IF_ERROR(status);
  {
    absl::MutexLock lock(&mutex_);
    if (::rename(path.c_str(), FilePath(digest).c_str()) != 0) return ErrnoToStatus("rename to", FilePath(digest));
    Entry& entry = entries_[digest];
    used_ += size - entry.size;
    entry.size = size;
    entry.hashed = true;
    UseLocked(digest, entry);
    TellSizeLocked();
  }
  return SyncDirectory(options_.folder + "/files");
}

void BlobCache::Take(const std::string& path, const std::string& digest) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return;
  bool there = false;
  {
    absl::MutexLock lock(&mutex_);
    there = entries_.contains(digest);
  }
  if (!there) {
    const auto room = Reserve(path, static_cast<uint64_t>(info.st_size));
    if (room.ok()) (void)Seal(path, digest);
    ::unlink(path.c_str());
    return;
  }
  ::unlink(path.c_str());
}

void BlobCache::Remove(const std::string& digest) {
  absl::MutexLock lock(&mutex_);
  DropLocked(digest);
}

absl::StatusOr<std::vector<BlobInfo>> BlobCache::ListUploads() const {
  std::vector<BlobInfo> uploads;
  std::error_code error;
  for (fs::directory_iterator it(options_.folder + "/uploads", error), end; !error && it != end; it.increment(error)) {
    struct stat info {};
    const std::string digest = it->path().filename().string();
    if (!IsSha256(digest) || ::stat(it->path().c_str(), &info) != 0) continue;
    uploads.push_back({.digest = digest,
                       .size = static_cast<uint64_t>(info.st_size),
                       .modified_ms = int64_t{info.st_mtim.tv_sec} * 1000 + info.st_mtim.tv_nsec / 1'000'000});
  }
  if (!error) return uploads;
  errno = error.value();
  return ErrnoToStatus("list", options_.folder + "/uploads");
}

void BlobCache::RemoveUpload(const std::string& digest) {
  const std::string path = UploadPath(digest);
  ::unlink(path.c_str());
  absl::MutexLock lock(&mutex_);
  const auto left = leftovers_.find(path);
  if (left == leftovers_.end()) return;
  left_over_ -= left->second;
  leftovers_.erase(left);
}

}  // namespace qamserve
