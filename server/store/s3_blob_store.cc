#include "server/store/s3_blob_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/fetch/remote_source.h"
#include "server/store/s3_blob_writer.h"

namespace qamserve {
namespace {

constexpr size_t kCopyBytes = size_t{1} << 20;
constexpr size_t kMaxKnownSizes = 4096;

// "https://HOST[:PORT]" and nothing else, above all no password.
absl::Status CheckEndpoint(const std::string& endpoint) {
  std::string_view rest = endpoint;
  for (const std::string_view scheme : {"https://", "http://"}) {
    if (!rest.starts_with(scheme)) continue;
    rest.remove_prefix(scheme.size());
    if (rest.ends_with('/')) rest.remove_suffix(1);
    if (!rest.empty() && rest.find_first_of("/@?#% ") == std::string_view::npos) return absl::OkStatus();
  }
  return FailedPrecondition("S3_ENDPOINT",
                            "the endpoint of the S3 store must be http(s)://HOST[:PORT], without a path or a password");
}

class ObjectSource final : public BlobSource {
 public:
  ObjectSource(S3Objects& objects, const std::string& digest) : objects_(objects), digest_(digest) {}
  absl::StatusOr<uint64_t> Size() override {
    ASSIGN_OR_RETURN(const S3Object object, objects_.Head(digest_));
    return object.size;
  }
  absl::Status Read(uint64_t offset, uint64_t size, const Piece& piece) override {
    return objects_.Read(digest_, offset, size, piece);
  }

 private:
  S3Objects& objects_;
  const std::string& digest_;
};

absl::Status OutOfBlob(const std::string& digest, uint64_t size, uint64_t offset, size_t bytes) {
  return OutOfRange("BLOB_RANGE", "blob {} has {} bytes; {} bytes at {} were asked for", digest, size, bytes, offset);
}

absl::Status CopyTo(const std::string& from, const std::string& to) {
  ASSIGN_OR_RETURN(const File source, File::OpenForRead(from));
  ASSIGN_OR_RETURN(AtomicFile target, AtomicFile::Create(to));
  std::vector<std::byte> buffer(static_cast<size_t>(std::min<uint64_t>(kCopyBytes, source.size())));
  for (uint64_t offset = 0; offset < source.size();) {
    const auto part =
        std::span(buffer).first(static_cast<size_t>(std::min<uint64_t>(buffer.size(), source.size() - offset)));
    RETURN_IF_ERROR(source.ReadAt(offset, part));
    RETURN_IF_ERROR(target.Append(std::span<const std::byte>(part)));
    offset += part.size();
  }
  return target.Commit();
}

}  // namespace

absl::StatusOr<S3Location> ParseS3Location(const std::string& uri) {
  absl::StatusOr<ObjectName> name = ParseObjectName(uri);
  if (!name.ok()) return InvalidArgument("BLOB_STORE_URI", "{}", MessageOf(name.status()));
  return S3Location{.bucket = name->bucket, .prefix = name->prefix.empty() ? "" : name->prefix + "/"};
}

S3BlobStore::S3BlobStore(S3BlobStoreOptions options, std::shared_ptr<S3Shared> shared)
    : options_(std::move(options)), shared_(std::move(shared)) {}

absl::StatusOr<std::unique_ptr<S3BlobStore>> S3BlobStore::Open(S3BlobStoreOptions options) {
  ASSIGN_OR_RETURN(const S3Location location, ParseS3Location(options.uri));
  RETURN_IF_ERROR(CheckEndpoint(options.client.endpoint));
  if (options.client.key.access_key.empty() || options.client.key.secret_key.empty()) {
    return FailedPrecondition("S3_CREDENTIALS",
                              "the store {} needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
                              options.uri);
  }
  options.client.bucket = location.bucket;
  options.objects.prefix = location.prefix;
  if (!options.exclusive) {
    const auto mutex = std::make_shared<std::mutex>();
    options.exclusive = [mutex](absl::FunctionRef<absl::Status()> body) {
      const std::lock_guard lock(*mutex);
      return body();
    };
  }
  options.objects.exclusive = options.exclusive;
  ASSIGN_OR_RETURN(std::shared_ptr<BlobCache> cache, BlobCache::Open(options.cache));
  auto shared = std::make_shared<S3Shared>(options.objects, options.client, std::move(cache));
  if (options.create_bucket) RETURN_IF_ERROR(shared->objects.client().CreateBucket());
  RETURN_IF_ERROR(shared->objects.client().CheckBucket());
  return std::unique_ptr<S3BlobStore>(new S3BlobStore(std::move(options), std::move(shared)));
}

// --- What is there ---

absl::StatusOr<bool> S3BlobStore::Has(const std::string& digest) {
  const absl::Status status = Size(digest).status();
  if (absl::IsNotFound(status)) return false;
  RETURN_IF_ERROR(status);
  return true;
}

absl::StatusOr<uint64_t> S3BlobStore::Size(const std::string& digest) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  ASSIGN_OR_RETURN(const S3Object object, shared_->objects.Head(digest));
  return object.size;
}

absl::StatusOr<uint64_t> S3BlobStore::CommittedBytes(const std::string& digest) {
  const absl::StatusOr<uint64_t> size = Size(digest);
  if (!absl::IsNotFound(size.status())) return size;
  ASSIGN_OR_RETURN(const S3Objects::Pieces pieces, shared_->objects.ListPieces(digest));
  struct stat info {};
  const bool local = ::stat(shared_->cache->UploadPath(digest).c_str(), &info) == 0;
  return std::max(pieces.end(), local ? static_cast<uint64_t>(info.st_size) : 0);
}

absl::StatusOr<std::vector<BlobInfo>> S3BlobStore::List() { return shared_->objects.List(); }

absl::StatusOr<std::vector<BlobInfo>> S3BlobStore::ListPartials() {
  std::map<std::string, BlobInfo> partials;
  ASSIGN_OR_RETURN(const std::vector<BlobInfo> pieces, shared_->objects.ListPartials());
  ASSIGN_OR_RETURN(const std::vector<BlobInfo> uploads, shared_->cache->ListUploads());
  for (const auto& list : {pieces, uploads}) {
    for (const BlobInfo& info : list) {
      BlobInfo& known = partials[info.digest];
      known = {.digest = info.digest,
               .size = std::max(known.size, info.size),
               .modified_ms = std::max(known.modified_ms, info.modified_ms)};
    }
  }
  std::vector<BlobInfo> list;
  list.reserve(partials.size());
  for (auto& [digest, info] : partials) list.push_back(std::move(info));
  return list;
}

absl::Status S3BlobStore::CheckSpace(uint64_t bytes) {
  shared_->cache->FreeDisk(bytes);
  return absl::OkStatus();
}

// --- In ---

absl::StatusOr<std::unique_ptr<BlobWriter>> S3BlobStore::BeginWrite(const std::string& digest, uint64_t size) {
  ASSIGN_OR_RETURN(const bool there, Has(digest));
  if (there) return AlreadyExists("BLOB_EXISTS", "blob {} is there already", digest);
  {
    absl::MutexLock lock(&shared_->mutex);
    if (!shared_->writing.insert(digest).second) {
      return Aborted("UPLOAD_BUSY", "file {} is being written by another call", digest);
    }
  }
  auto writer = std::make_unique<S3BlobWriter>(shared_, digest, size);
  RETURN_IF_ERROR(writer->Open());
  return writer;
}

absl::StatusOr<BlobInfo> S3BlobStore::CommitFile(const std::string& path) {
  BlobInfo info;
  ASSIGN_OR_RETURN(info.digest, Sha256OfFile(path));
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoToStatus("open", path);
  struct stat status {};
  absl::Status committed = ::fstat(fd, &status) == 0 ? absl::OkStatus() : ErrnoToStatus("stat", path);
  info.size = static_cast<uint64_t>(status.st_size);
  if (committed.ok()) {
    const absl::StatusOr<bool> there = shared_->objects.Renew(info.digest, info.size);
    committed = there.status();
    if (there.ok() && !*there) committed = shared_->objects.Upload(info.digest, fd, path, info.size, {});
  }
  ::close(fd);
  RETURN_IF_ERROR(committed);
  shared_->cache->Take(path, info.digest);
  info.modified_ms = options_.client.now_ms();
  return info;
}

absl::StatusOr<BlobInfo> S3BlobStore::CopyFile(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) shared_->cache->FreeDisk(static_cast<uint64_t>(status.st_size));
  const std::string copy = shared_->cache->IncomingPath(RandomId());
  RETURN_IF_ERROR(CopyTo(path, copy));
  absl::StatusOr<BlobInfo> info = CommitFile(copy);
  if (!info.ok()) ::unlink(copy.c_str());
  return info;
}

absl::StatusOr<BlobInfo> S3BlobStore::CommitBytes(std::string_view bytes) {
  shared_->cache->FreeDisk(bytes.size());
  const std::string path = shared_->cache->IncomingPath(RandomId());
  RETURN_IF_ERROR(WriteFileAtomically(path, bytes));
  absl::StatusOr<BlobInfo> info = CommitFile(path);
  if (!info.ok()) ::unlink(path.c_str());
  return info;
}

// --- Out ---

absl::Status S3BlobStore::Explain(const absl::Status& status) {
  if (absl::IsNotFound(status)) RETURN_IF_ERROR(shared_->objects.client().CheckBucket());
  return status;
}

absl::StatusOr<std::string> S3BlobStore::LocalPath(const std::string& digest) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  ObjectSource source(shared_->objects, digest);
  absl::StatusOr<std::string> path = shared_->cache->Get(digest, source);
  if (!path.ok()) return Explain(path.status());
  return path;
}

absl::StatusOr<uint64_t> S3BlobStore::SizeForRead(const std::string& digest) {
  {
    absl::MutexLock lock(&sizes_mutex_);
    const auto known = sizes_.find(digest);
    if (known != sizes_.end()) return known->second;
  }
  const absl::StatusOr<uint64_t> size = Size(digest);
  if (!size.ok()) return Explain(size.status());
  absl::MutexLock lock(&sizes_mutex_);
  if (sizes_.size() >= kMaxKnownSizes) sizes_.clear();
  return sizes_[digest] = *size;
}

bool S3BlobStore::IsHere(const std::string& digest) {
  const absl::StatusOr<std::string> path = shared_->cache->Find(digest);
  return path.ok() && !path->empty();
}

absl::Status S3BlobStore::Read(const std::string& digest, uint64_t offset, std::span<std::byte> out) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  // Whoever has begun without a copy goes on so.
  if (auto sha256 = offset > 0 ? digests_.Take(digest, offset) : std::nullopt; sha256) {
    return ReadFromStore(digest, offset, out, std::move(sha256));
  }
  const absl::StatusOr<std::string> path = LocalPath(digest);
  // A cache that has no room is no reason not to read.
  if (ReasonOf(path.status()) == "DISK_FULL") return ReadFromStore(digest, offset, out, std::nullopt);
  RETURN_IF_ERROR(path.status());
  ASSIGN_OR_RETURN(const File file, File::OpenForRead(*path));
  if (offset > file.size() || out.size() > file.size() - offset) {
    return OutOfBlob(digest, file.size(), offset, out.size());
  }
  return file.ReadAt(offset, out);
}

absl::Status S3BlobStore::ReadFromStore(const std::string& digest, uint64_t offset, std::span<std::byte> out,
                                        std::optional<Sha256> sha256) {
  ASSIGN_OR_RETURN(const uint64_t size, SizeForRead(digest));
  if (offset > size || out.size() > size - offset) {
    ForgetSize(digest);  // it may be the object that is too short
    return OutOfBlob(digest, size, offset, out.size());
  }
  if (out.empty() && size > 0) return absl::OkStatus();
  if (!sha256) {
    sha256.emplace();
    RETURN_IF_ERROR(ReadObject(digest, 0, offset, [&](std::span<const std::byte> bytes) {
      sha256->Update(bytes);
      return absl::OkStatus();
    }));
  }
  size_t filled = 0;
  const absl::Status read =
      ReadObject(digest, offset, out.size(), [&](std::span<const std::byte> bytes) -> absl::Status {
        std::memcpy(out.data() + filled, bytes.data(), bytes.size());
        filled += bytes.size();
        return absl::OkStatus();
      });
  if (!read.ok()) {
    // For the next try.
    digests_.Put(digest, offset, *std::move(sha256));
    return read;
  }
  sha256->Update(out);
  if (offset + out.size() < size) {
    digests_.Put(digest, offset + out.size(), *std::move(sha256));
    return absl::OkStatus();
  }
  const std::string found = sha256->Finish();
  if (found == digest) return absl::OkStatus();
  return Corrupt(digest, fmt::format("the {} bytes that the store has under this name have SHA-256 {}", size, found));
}

absl::Status S3BlobStore::ReadObject(const std::string& digest, uint64_t offset, uint64_t size,
                                     const S3Client::Piece& piece) {
  if (size == 0) return absl::OkStatus();
  const absl::Status read = shared_->objects.Read(digest, offset, size, piece);
  if (ReasonOf(read) == "S3_RANGE") return Corrupt(digest, MessageOf(read));
  return Explain(read);
}

absl::Status S3BlobStore::Corrupt(const std::string& digest, const std::string& what) {
  options_.client.observer->OnCorruptBlob();
  ForgetSize(digest);
  return DataLoss("BLOB_CORRUPT", "blob {}: {}", digest, what);
}

void S3BlobStore::ForgetSize(const std::string& digest) {
  absl::MutexLock lock(&sizes_mutex_);
  sizes_.erase(digest);
}

// --- Gone ---

absl::Status S3BlobStore::Delete(const std::string& digest) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  RETURN_IF_ERROR(shared_->objects.Delete(digest));
  shared_->cache->Remove(digest);
  return absl::OkStatus();
}

absl::StatusOr<bool> S3BlobStore::DeleteIfOlder(const std::string& digest, int64_t before_ms) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  ASSIGN_OR_RETURN(const bool deleted, shared_->objects.DeleteIfOlder(digest, before_ms));
  if (deleted) shared_->cache->Remove(digest);
  return deleted;
}

absl::Status S3BlobStore::DeletePartial(const std::string& digest) {
  RETURN_IF_ERROR(CheckBlobDigest(digest));
  {
    // Kept from beginning a writer meanwhile, as if it were one itself.
    absl::MutexLock lock(&shared_->mutex);
    if (!shared_->writing.insert(digest).second) {
      return Aborted("UPLOAD_BUSY", "file {} is being written by another call", digest);
    }
  }
  shared_->cache->RemoveUpload(digest);
  const absl::Status deleted = shared_->objects.DeletePieces(digest);
  absl::MutexLock lock(&shared_->mutex);
  shared_->writing.erase(digest);
  return deleted;
}

absl::Status S3BlobStore::SweepLeftovers(int64_t before_ms) { return shared_->objects.SweepLeftovers(before_ms); }

}  // namespace qamserve
