#include "server/store/blob_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/store/records.h"

namespace qamserve {

// Large enough that system calls do not matter beside SHA-256 (about 1.5 GB/s with its instructions).
constexpr size_t kCopyBytes = size_t{1} << 20;

absl::Status CheckBlobDigest(const std::string& digest) {
  if (IsSha256(digest)) return absl::OkStatus();
  return InvalidArgument("BLOB_DIGEST", "'{}' is not a SHA-256 of 64 lower-case hex digits", digest.substr(0, 80));
}

namespace {

int64_t ModifiedMs(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1000 + info.st_mtim.tv_nsec / 1'000'000;
}

// No value if there is no such file.
absl::StatusOr<std::optional<struct stat>> StatFile(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) return info;
  if (errno == ENOENT) return std::nullopt;
  return ErrnoToStatus("stat", path);
}

absl::Status SyncFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoToStatus("open", path);
  absl::Status status = ::fsync(fd) == 0 ? absl::OkStatus() : ErrnoToStatus("sync", path);
  ::close(fd);
  return status;
}

absl::Status Unlink(const std::string& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return ErrnoToStatus("remove", path);
}

}  // namespace

class DirectoryBlobWriter : public BlobWriter {
 public:
  DirectoryBlobWriter(DirectoryBlobStore& store, std::shared_ptr<DirectoryBlobStore::Writers> writers,
                      std::string digest, uint64_t size)
      : store_(store),
        writers_(std::move(writers)),
        digest_(std::move(digest)),
        size_(size),
        path_(store.PartialPath(digest_)) {}

  ~DirectoryBlobWriter() override {
    if (fd_ >= 0) ::close(fd_);
    std::lock_guard lock(writers_->mutex);
    writers_->digests.erase(digest_);
  }

  // Opens the partial file and feeds what is in it to the digest.
  absl::Status Open() {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd_ < 0) return ErrnoToStatus("open", path_);
    std::vector<std::byte> buffer(kCopyBytes);
    for (;;) {
      const ssize_t n = ::read(fd_, buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoToStatus("read", path_);
      if (n == 0) break;
      Feed(std::span(buffer.data(), static_cast<size_t>(n)));
    }
    // More than was declared cannot be the beginning of this blob.
    return committed_ > size_ ? Empty() : absl::OkStatus();
  }

  uint64_t committed() const override { return committed_; }
  std::span<const std::byte> head() const override {
    return {head_.data(), static_cast<size_t>(std::min<uint64_t>(committed_, head_.size()))};
  }

  absl::Status Append(uint64_t offset, std::span<const std::byte> bytes) override {
    if (offset != committed_) {
      return OutOfRange("UPLOAD_OFFSET", "file {}: offset {} does not follow what is in; expected offset {}", digest_,
                        offset, committed_);
    }
    if (bytes.size() > size_ - committed_) {
      return InvalidArgument("UPLOAD_SIZE", "file {}: {} bytes at offset {} pass the declared size of {}", digest_,
                             bytes.size(), offset, size_);
    }
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        absl::Status status = ErrnoToStatus("write", path_);
        if (::ftruncate(fd_, static_cast<off_t>(committed_)) != 0) return Annotate(status, "and could not be cut back");
        return status;
      }
      done += static_cast<size_t>(n);
    }
    Feed(bytes);
    return absl::OkStatus();
  }

  absl::Status Commit() override {
    if (committed_ != size_) {
      return OutOfRange("UPLOAD_INCOMPLETE", "file {}: {} of {} bytes are in", digest_, committed_, size_);
    }
    const std::string found = sha256_.Finish();
    if (found != digest_) {
      RETURN_IF_ERROR(Discard());
      return DataLoss("UPLOAD_DIGEST", "file {}: the {} bytes that came have SHA-256 {}; send it again from offset 0",
                      digest_, size_, found);
    }
    if (::fsync(fd_) != 0) return ErrnoToStatus("sync", path_);
    return store_.Place(path_, digest_);
  }

  absl::Status Discard() override {
    RETURN_IF_ERROR(Empty());
    return Unlink(path_);
  }

 private:
  absl::Status Empty() {
    committed_ = 0;
    sha256_ = Sha256();
    return ::ftruncate(fd_, 0) == 0 ? absl::OkStatus() : ErrnoToStatus("truncate", path_);
  }

  void Feed(std::span<const std::byte> bytes) {
    for (size_t i = 0; i < bytes.size() && committed_ + i < head_.size(); ++i) head_[committed_ + i] = bytes[i];
    sha256_.Update(bytes);
    committed_ += bytes.size();
  }

  DirectoryBlobStore& store_;
  std::shared_ptr<DirectoryBlobStore::Writers> writers_;
  const std::string digest_;
  const uint64_t size_;
  const std::string path_;
  int fd_ = -1;
  uint64_t committed_ = 0;
  std::array<std::byte, 16> head_{};
  Sha256 sha256_;
};

DirectoryBlobStore::DirectoryBlobStore(DirectoryBlobStoreOptions options) : options_(std::move(options)) {
  if (!options_.free_bytes) options_.free_bytes = FreeDiskBytes;
}

absl::StatusOr<std::unique_ptr<DirectoryBlobStore>> DirectoryBlobStore::Open(const DirectoryBlobStoreOptions& options) {
  std::unique_ptr<DirectoryBlobStore> store(new DirectoryBlobStore(options));
  RETURN_IF_ERROR(CreateDirectories(options.root + "/blobs"));
  RETURN_IF_ERROR(CreateDirectories(options.root + "/partial"));
  RETURN_IF_ERROR(RemoveAll(options.root + "/incoming"));
  RETURN_IF_ERROR(CreateDirectories(options.root + "/incoming"));
  RETURN_IF_ERROR(SyncDirectory(options.root));
  return store;
}

std::string DirectoryBlobStore::BlobPath(const std::string& digest) const {
  return fmt::format("{}/blobs/{}/{}", options_.root, digest.substr(0, 2), digest.substr(2));
}

std::string DirectoryBlobStore::PartialPath(const std::string& digest) const {
  return fmt::format("{}/partial/{}", options_.root, digest);
}

absl::StatusOr<bool> DirectoryBlobStore::Has(const std::string& digest) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  ASSIGN_OR_RETURN(auto info, StatFile(BlobPath(digest)));
  return info.has_value();
}

absl::StatusOr<uint64_t> DirectoryBlobStore::Size(const std::string& digest) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  ASSIGN_OR_RETURN(auto info, StatFile(BlobPath(digest)));
  if (!info) return NotFound("BLOB_NOT_FOUND", "there is no blob {}", digest);
  return static_cast<uint64_t>(info->st_size);
}

absl::StatusOr<uint64_t> DirectoryBlobStore::CommittedBytes(const std::string& digest) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  for (const std::string& path : {BlobPath(digest), PartialPath(digest)}) {
    ASSIGN_OR_RETURN(auto info, StatFile(path));
    if (info) return static_cast<uint64_t>(info->st_size);
  }
  return uint64_t{0};
}

absl::StatusOr<std::unique_ptr<BlobWriter>> DirectoryBlobStore::BeginWrite(const std::string& digest, uint64_t size) {
  ASSIGN_OR_RETURN(const bool there, Has(digest));
  if (there) return AlreadyExists("BLOB_EXISTS", "blob {} is there already", digest);
  {
    std::lock_guard lock(writers_->mutex);
    if (!writers_->digests.insert(digest).second) {
      return Aborted("UPLOAD_BUSY", "file {} is being written by another call", digest);
    }
  }
  auto writer = std::make_unique<DirectoryBlobWriter>(*this, writers_, digest, size);
  RETURN_IF_ERROR(writer->Open());
  RETURN_IF_ERROR(CheckSpace(size - writer->committed()));
  return writer;
}

absl::Status DirectoryBlobStore::Place(const std::string& path, const std::string& digest) {
  std::lock_guard lock(place_mutex_);
  const std::string target = BlobPath(digest);
  if (::access(target.c_str(), F_OK) == 0) {
    // The blob's age starts anew, so that garbage collection waits for the row that will refer to it.
    if (::utimensat(AT_FDCWD, target.c_str(), nullptr, 0) != 0) return ErrnoToStatus("touch", target);
    return Unlink(path);
  }
  const std::string folder = std::filesystem::path(target).parent_path().string();
  if (::mkdir(folder.c_str(), 0755) == 0) {
    RETURN_IF_ERROR(SyncDirectory(options_.root + "/blobs"));
  } else if (errno != EEXIST) {
    return ErrnoToStatus("create folder", folder);
  }
  // A moved file keeps its age otherwise.
  if (::utimensat(AT_FDCWD, path.c_str(), nullptr, 0) != 0) return ErrnoToStatus("touch", path);
  if (::rename(path.c_str(), target.c_str()) != 0) return ErrnoToStatus("rename to", target);
  return SyncDirectory(folder);
}

// A synced copy under root/incoming.
absl::StatusOr<std::string> DirectoryBlobStore::CopyIn(const std::string& path) {
  ASSIGN_OR_RETURN(File source, File::OpenForRead(path));
  RETURN_IF_ERROR(CheckSpace(source.size()));
  const std::string copy = fmt::format("{}/incoming/{}", options_.root, RandomId());
  ASSIGN_OR_RETURN(AtomicFile target, AtomicFile::Create(copy));
  std::vector<std::byte> buffer(kCopyBytes);
  for (uint64_t offset = 0; offset < source.size();) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(buffer.size(), source.size() - offset));
    RETURN_IF_ERROR(source.ReadAt(offset, std::span(buffer.data(), n)));
    RETURN_IF_ERROR(target.Append(std::span<const std::byte>(buffer.data(), n)));
    offset += n;
  }
  RETURN_IF_ERROR(target.Commit());
  return copy;
}

absl::StatusOr<BlobInfo> DirectoryBlobStore::CommitFile(const std::string& path) {
  BlobInfo info;
  ASSIGN_OR_RETURN(info.digest, Sha256OfFile(path));
  RETURN_IF_ERROR(SyncFile(path));
  struct stat source {
  }, root{};
  if (::stat(path.c_str(), &source) != 0) return ErrnoToStatus("stat", path);
  if (::stat(options_.root.c_str(), &root) != 0) return ErrnoToStatus("stat", options_.root);
  info.size = static_cast<uint64_t>(source.st_size);
  if (source.st_dev == root.st_dev) {
    RETURN_IF_ERROR(Place(path, info.digest));
  } else {
    ASSIGN_OR_RETURN(const std::string copy, CopyIn(path));
    RETURN_IF_ERROR(Place(copy, info.digest));
    RETURN_IF_ERROR(Unlink(path));
  }
  info.modified_ms = 0;
  ASSIGN_OR_RETURN(auto placed, StatFile(BlobPath(info.digest)));
  if (placed) info.modified_ms = ModifiedMs(*placed);
  return info;
}

absl::StatusOr<BlobInfo> DirectoryBlobStore::CopyFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string copy, CopyIn(path));
  auto info = CommitFile(copy);
  if (!info.ok()) (void)Unlink(copy);
  return info;
}

absl::StatusOr<BlobInfo> DirectoryBlobStore::CommitBytes(std::string_view bytes) {
  RETURN_IF_ERROR(CheckSpace(bytes.size()));
  const std::string digest = Sha256Hex(bytes);
  std::string path = fmt::format("{}/incoming/{}", options_.root, digest);
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  RETURN_IF_ERROR(file.Append(bytes));
  RETURN_IF_ERROR(file.Commit());
  RETURN_IF_ERROR(Place(path, digest));
  return BlobInfo{.digest = digest, .size = bytes.size(), .modified_ms = 0};
}

absl::Status DirectoryBlobStore::Read(const std::string& digest, uint64_t offset, std::span<std::byte> out) {
  ASSIGN_OR_RETURN(const std::string path, LocalPath(digest));
  ASSIGN_OR_RETURN(File file, File::OpenForRead(path));
  if (offset > file.size() || out.size() > file.size() - offset) {
    return OutOfRange("BLOB_RANGE", "blob {} has {} bytes; {} bytes at {} were asked for", digest, file.size(),
                      out.size(), offset);
  }
  return file.ReadAt(offset, out);
}

absl::StatusOr<std::string> DirectoryBlobStore::LocalPath(const std::string& digest) {
  RETURN_IF_ERROR(Size(digest).status());
  return BlobPath(digest);
}

absl::Status DirectoryBlobStore::Delete(const std::string& digest) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  std::lock_guard lock(place_mutex_);
  return Unlink(BlobPath(digest));
}

absl::StatusOr<bool> DirectoryBlobStore::DeleteIfOlder(const std::string& digest, int64_t before_ms) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  std::lock_guard lock(place_mutex_);
  ASSIGN_OR_RETURN(auto info, StatFile(BlobPath(digest)));
  if (!info || ModifiedMs(*info) >= before_ms) return false;
  RETURN_IF_ERROR(Unlink(BlobPath(digest)));
  return true;
}

namespace {

// Files of `folder`, named prefix + file name, that are digests; anything else is left alone.
absl::Status ListFolder(const std::string& folder, const std::string& prefix, std::vector<BlobInfo>& out) {
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    const std::string digest = prefix + it->path().filename().string();
    if (!IsSha256(digest)) continue;
    ASSIGN_OR_RETURN(auto info, StatFile(it->path().string()));
    // It may have been deleted since it was listed.
    if (!info) continue;
    out.push_back({.digest = digest, .size = static_cast<uint64_t>(info->st_size), .modified_ms = ModifiedMs(*info)});
  }
  if (!error) return absl::OkStatus();
  errno = error.value();
  return ErrnoToStatus("list", folder);
}

}  // namespace

absl::StatusOr<std::vector<BlobInfo>> DirectoryBlobStore::List() {
  std::vector<BlobInfo> blobs;
  constexpr char kHex[] = "0123456789abcdef";
  for (int i = 0; i < 256; ++i) {
    const std::string prefix = {kHex[i / 16], kHex[i % 16]};
    const std::string folder = options_.root + "/blobs/" + prefix;
    if (::access(folder.c_str(), F_OK) == 0) RETURN_IF_ERROR(ListFolder(folder, prefix, blobs));
  }
  std::sort(blobs.begin(), blobs.end(), [](const BlobInfo& a, const BlobInfo& b) { return a.digest < b.digest; });
  return blobs;
}

absl::StatusOr<std::vector<BlobInfo>> DirectoryBlobStore::ListPartials() {
  std::vector<BlobInfo> blobs;
  RETURN_IF_ERROR(ListFolder(options_.root + "/partial", "", blobs));
  std::sort(blobs.begin(), blobs.end(), [](const BlobInfo& a, const BlobInfo& b) { return a.digest < b.digest; });
  return blobs;
}

absl::Status DirectoryBlobStore::DeletePartial(const std::string& digest) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  std::lock_guard lock(writers_->mutex);
  if (writers_->digests.contains(digest)) {
    return Aborted("UPLOAD_BUSY", "file {} is being written by another call", digest);
  }
  return Unlink(PartialPath(digest));
}

absl::Status DirectoryBlobStore::CheckSpace(uint64_t bytes) {
  ASSIGN_OR_RETURN(const uint64_t free, options_.free_bytes(options_.root));
  const uint64_t usable = free > options_.reserve_bytes ? free - options_.reserve_bytes : 0;
  if (bytes <= usable) return absl::OkStatus();
  return ResourceExhausted("DISK_FULL", "{} bytes are needed, but {} has {} bytes free, {} of them reserved", bytes,
                           options_.root, free, options_.reserve_bytes);
}

}  // namespace qamserve
