#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <memory>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/fetch/remote_source.h"
#include "server/store/catalog.h"
#include "server/store/catalog_internal.h"
#include "server/store/parallel.h"
#include "server/store/request_ids.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;

// Files that are fetched at a time; one connection seldom fills a line.
constexpr size_t kTransfers = 4;

// A file on its way in whose digest is not known yet. What is there when it is opened again is gone on with.
class SpoolFile {
 public:
  // ABORTED (UPLOAD_BUSY) while another import fetches it.
  static absl::StatusOr<std::unique_ptr<SpoolFile>> Open(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return ErrnoToStatus("open", path);
    auto file = std::unique_ptr<SpoolFile>(new SpoolFile(path, fd));
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      return Aborted("UPLOAD_BUSY", "another import of the same file is under way");
    }
    struct stat info {};
    if (::fstat(fd, &info) != 0) return ErrnoToStatus("stat", path);
    file->size_ = static_cast<uint64_t>(info.st_size);
    return file;
  }
  ~SpoolFile() { ::close(fd_); }
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

  absl::Status Append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t wrote = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return ErrnoToStatus("write", path_);
      size_ += static_cast<uint64_t>(wrote);
      bytes = bytes.subspan(static_cast<size_t>(wrote));
    }
    return absl::OkStatus();
  }
  absl::Status Sync() const { return ::fsync(fd_) == 0 ? absl::OkStatus() : ErrnoToStatus("fsync", path_); }
  void Discard() const { ::unlink(path_.c_str()); }

 private:
  SpoolFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  const std::string path_;
  const int fd_;
  uint64_t size_ = 0;
};

// Hex digest of `prefix` and a file's content.
absl::StatusOr<std::string> DigestOfFile(const EVP_MD* kind, std::string_view prefix, const std::string& path) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoToStatus("open", path);
  bool ok = context != nullptr && EVP_DigestInit_ex(context.get(), kind, nullptr) == 1 &&
            EVP_DigestUpdate(context.get(), prefix.data(), prefix.size()) == 1;
  std::vector<char> buffer(size_t{1} << 20);
  ssize_t got = 0;
  while (ok && (got = ::read(fd, buffer.data(), buffer.size())) > 0) {
    ok = EVP_DigestUpdate(context.get(), buffer.data(), static_cast<size_t>(got)) == 1;
  }
  ::close(fd);
  if (got < 0) return ErrnoToStatus("read", path);
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned size = 0;
  ok = ok && EVP_DigestFinal_ex(context.get(), bytes.data(), &size) == 1;
  if (!ok) return Unavailable("IMPORT_DIGEST", "this OpenSSL computes no {}", EVP_MD_get0_name(kind));
  std::string hex;
  for (unsigned i = 0; i < size; ++i) fmt::format_to(std::back_inserter(hex), "{:02x}", bytes[i]);
  return hex;
}

// What the source says of the content besides SHA-256, if it says anything.
absl::Status CheckSourceDigest(const RemoteFile& file, const std::string& path) {
  std::string expected = file.git_sha1;
  std::string found;
  if (!file.git_sha1.empty()) {
    ASSIGN_OR_RETURN(found, DigestOfFile(EVP_sha1(), fmt::format("blob {}{}", file.size, '\0'), path));
  } else if (!file.md5.empty()) {
    expected = file.md5;
    ASSIGN_OR_RETURN(found, DigestOfFile(EVP_md5(), "", path));
  }
  if (found == expected) return absl::OkStatus();
  return DataLoss("UPLOAD_DIGEST",
                  "{}: what arrived has the digest {}, the source says {}; it is fetched anew next time", file.name,
                  found, expected);
}

// Gathers small pieces into the chunks that Catalog::Append takes.
class Chunks {
 public:
  using Send = std::function<absl::Status(std::span<const std::byte>)>;
  explicit Chunks(Send send) : send_(std::move(send)) { buffer_.reserve(kMaxAppendBytes); }
  absl::Status Add(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const size_t n = std::min(bytes.size(), kMaxAppendBytes - buffer_.size());
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n));
      bytes = bytes.subspan(n);
      if (buffer_.size() == kMaxAppendBytes) RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }
  absl::Status Flush() {
    if (buffer_.empty()) return absl::OkStatus();
    const absl::Status sent = send_(buffer_);
    buffer_.clear();
    return sent;
  }

 private:
  const Send send_;
  std::vector<std::byte> buffer_;
};

// Names what is left of earlier tries that nobody came back for.
void RemoveOldSpool(const std::string& folder, int64_t before_ms) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    struct stat info {};
    if (::stat(entry.path().c_str(), &info) == 0 && MtimeNs(info) / 1'000'000 < before_ms) fs::remove(entry, error);
  }
}

}  // namespace

absl::StatusOr<FileRecord> Catalog::Spool(const RemoteSource& source, const RemoteFile& file,
                                          const std::function<bool()>& cancelled) {
  const std::string key = Sha256Hex(fmt::format("{}\n{}\n{}\n{}", source.name(), file.name, file.size, file.version));
  ASSIGN_OR_RETURN(const std::unique_ptr<SpoolFile> spool, SpoolFile::Open(options_.import_spool + "/" + key));
  if (spool->size() > file.size) {
    spool->Discard();
    return Aborted("IMPORT_CHANGED", "{}: more bytes are there than the source has; try again", file.name);
  }
  RETURN_IF_ERROR(source.Read(file, spool->size(), cancelled,
                              [&](std::span<const std::byte> bytes) { return spool->Append(bytes); }));
  RETURN_IF_ERROR(spool->Sync());
  if (const absl::Status checked = CheckSourceDigest(file, spool->path()); !checked.ok()) {
    spool->Discard();
    return checked;
  }
  ASSIGN_OR_RETURN(const BlobInfo blob, blobs_.CommitFile(spool->path()));
  return FileRecord{.name = file.name, .sha256 = blob.digest, .size_bytes = blob.size};
}

absl::Status Catalog::FetchInto(const std::string& upload, const UploadFileState& state, const RemoteSource& source,
                                const RemoteFile& file, const std::function<bool()>& cancelled) {
  uint64_t offset = state.committed_bytes;
  Chunks chunks([&](std::span<const std::byte> bytes) -> absl::Status {
    ASSIGN_OR_RETURN(const UploadFileState now, Append(upload, file.sha256, offset, bytes));
    offset = now.committed_bytes;
    return absl::OkStatus();
  });
  const absl::Status read =
      source.Read(file, offset, cancelled, [&](std::span<const std::byte> bytes) { return chunks.Add(bytes); });
  // What came before a cut is kept, so that the next try goes on behind it.
  const absl::Status flushed = chunks.Flush();
  return read.ok() ? flushed : read;
}

absl::StatusOr<std::string> Catalog::FetchAll(UploadKind kind, const RemoteSource& source,
                                              const std::string& display_name, const std::function<bool()>& cancelled) {
  const std::vector<RemoteFile>& found = source.files();
  if (found.size() > kMaxFiles || (kind == UploadKind::kText && found.size() != 1)) {
    return InvalidArgument("IMPORT_PATH", "{} has {} usable files; {} can be imported", source.name(), found.size(),
                           kind == UploadKind::kText ? "one" : fmt::format("1 to {}", kMaxFiles));
  }
  uint64_t unnamed = 0;
  std::vector<FileRecord> files;
  for (const RemoteFile& file : found) {
    const std::string digest = file.sha256.empty() ? std::string(64, '0') : file.sha256;
    files.push_back({.name = file.name, .sha256 = digest, .size_bytes = file.size});
    RETURN_IF_ERROR(CheckUploadFiles(kind, {files.back()}));
    if (file.sha256.empty()) unnamed += file.size;
  }
  RETURN_IF_ERROR(blobs_.CheckSpace(unnamed));
  std::error_code error;
  fs::create_directories(options_.import_spool, error);
  RemoveOldSpool(options_.import_spool, options_.now_ms() - options_.upload_retention_ms);

  // First what has no SHA-256 yet, since an upload is named by those of all its files.
  std::atomic<bool> stopped{false};
  const auto stop = [&] { return stopped || (cancelled && cancelled()); };
  RETURN_IF_ERROR(ForEachAtOnce(kTransfers, found.size(), stopped, [&](size_t i) -> absl::Status {
    if (!found[i].sha256.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(files[i], Spool(source, found[i], stop));
    return absl::OkStatus();
  }));
  ASSIGN_OR_RETURN(const UploadView upload, CreateUpload(kind, files, display_name, ""));
  RETURN_IF_ERROR(ForEachAtOnce(kTransfers, upload.files.size(), stopped, [&](size_t i) -> absl::Status {
    const UploadFileState& state = upload.files[i];
    if (state.complete) return absl::OkStatus();
    const auto file = std::find_if(found.begin(), found.end(),
                                   [&](const RemoteFile& remote) { return remote.name == state.file.name; });
    if (file == found.end()) return Internal("IMPORT_SOURCE", "{}: {} was not listed", source.name(), state.file.name);
    return FetchInto(upload.id, state, source, *file, stop);
  }));
  return upload.id;
}

absl::StatusOr<CheckpointOrText> Catalog::ImportRemote(UploadKind kind, const std::string& source,
                                                       const std::string& display_name, const std::string& request_id,
                                                       const std::function<bool()>& cancelled) {
  RETURN_IF_ERROR(CheckDisplayName(display_name));
  auto action = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const std::unique_ptr<RemoteSource> remote, OpenRemoteSource(source, options_.remote, cancelled));
    const std::string plain = source.substr(0, source.find('@'));
    const std::string name = display_name.empty() ? plain.substr(plain.rfind('/') + 1) : display_name;
    ASSIGN_OR_RETURN(const std::string upload, FetchAll(kind, *remote, name, cancelled));
    ASSIGN_OR_RETURN(const CheckpointOrText made, CompleteUpload(upload, ""));
    const auto* checkpoint = std::get_if<CheckpointRecord>(&made);
    return checkpoint != nullptr ? ResourceName("checkpoints", checkpoint->digest)
                                 : ResourceName("texts", std::get<TextRecord>(made).digest);
  };
  ASSIGN_OR_RETURN(
      const std::string name,
      RunOnce(store_, request_id, "ImportCheckpoint",
              fmt::format("{} {} {}", static_cast<int>(kind), source, display_name), options_.now_ms(), action));
  return ResultOf(name);
}

}  // namespace qamserve
