// Client::DownloadArtifact.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "client/client.h"
#include "client/local_files.h"
#include "client/stubs.h"
#include "core/base/digest.h"
#include "core/base/file.h"

namespace qamserve {
namespace {

constexpr char kPartial[] = ".partial";

// A server must not choose a path outside the folder.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

// Size of a regular file, or -1.
int64_t SizeOf(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) ? static_cast<int64_t>(info.st_size) : -1;
}

// A file that grows at its end and stays when the program dies: what makes a download resumable.
class PartialFile {
 public:
  static absl::StatusOr<PartialFile> Open(const std::string& path) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) return ErrnoToStatus("open", path);
    return PartialFile(path, fd);
  }
  PartialFile(PartialFile&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  PartialFile& operator=(PartialFile&&) = delete;
  ~PartialFile() {
    if (fd_ >= 0) ::close(fd_);
  }

  absl::Status Append(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoToStatus("write", path_);
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }

  absl::Status Sync() { return ::fsync(fd_) == 0 ? absl::OkStatus() : ErrnoToStatus("sync", path_); }

 private:
  PartialFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
};

}  // namespace

// One download from beginning to end. Used once, by one thread.
class Downloader {
 public:
  using Progress = absl::FunctionRef<void(const TransferProgress&)>;
  Downloader(Client& client, std::string folder, Progress progress, Cancellation* cancellation)
      : client_(client),
        folder_(std::move(folder)),
        report_(progress),
        cancellation_(cancellation),
        backoff_(client.options_, cancellation) {}

  absl::StatusOr<v1::Artifact> Run(const std::string& name) {
    ASSIGN_OR_RETURN(v1::Artifact artifact, client_.GetArtifact(name));
    for (const auto& file : artifact.files()) {
      if (!IsPlainName(file.name()) || file.size_bytes() < 0) {
        return DataLoss("DOWNLOAD_NAME", "{} lists a file \"{}\" of {} bytes, which cannot be a file of an artifact",
                        name, file.name(), file.size_bytes());
      }
      progress_.total_bytes += static_cast<uint64_t>(file.size_bytes());
    }
    RETURN_IF_ERROR(CreateDirectories(folder_));
    RETURN_IF_ERROR(CheckSpace(artifact));
    for (const auto& file : artifact.files()) RETURN_IF_ERROR(FetchFile(artifact.name(), file));
    for (const auto& file : artifact.files()) RETURN_IF_ERROR(Publish(file));
    RETURN_IF_ERROR(SyncDirectory(folder_));
    return artifact;
  }

 private:
  std::string Final(const v1::FileInfo& file) const { return folder_ + "/" + file.name(); }
  std::string Partial(const v1::FileInfo& file) const { return Final(file) + kPartial; }

  absl::Status CheckSpace(const v1::Artifact& artifact) const {
    uint64_t needed = 0;
    for (const auto& file : artifact.files()) {
      const int64_t present = std::max(SizeOf(Final(file)), SizeOf(Partial(file)));
      needed += static_cast<uint64_t>(std::max<int64_t>(0, file.size_bytes() - std::max<int64_t>(0, present)));
    }
    ASSIGN_OR_RETURN(const uint64_t free_bytes, FreeDiskBytes(folder_));
    if (needed <= free_bytes) return absl::OkStatus();
    return ResourceExhausted("DISK_FULL", "{} needs {} more bytes in {}, where {} are free", artifact.name(), needed,
                             folder_, free_bytes);
  }

  // Leaves the file checked under its partial name, unless a checked one has its final name already.
  absl::Status FetchFile(const std::string& artifact, const v1::FileInfo& file) {
    progress_.file = file.name();
    if (SizeOf(Final(file)) == file.size_bytes()) {
      ASSIGN_OR_RETURN(const std::string digest, Digest(Final(file), TransferProgress::Phase::kHash));
      if (digest == file.sha256()) return absl::OkStatus();
      progress_.done_bytes -= static_cast<uint64_t>(file.size_bytes());
      progress_.skipped_bytes -= static_cast<uint64_t>(file.size_bytes());
    }
    if (SizeOf(Partial(file)) > file.size_bytes()) RETURN_IF_ERROR(Remove(Partial(file)));
    RETURN_IF_ERROR(Receive(artifact, file));
    return Check(file);
  }

  // Bytes that are there already count as done and skipped.
  absl::StatusOr<std::string> Digest(const std::string& path, TransferProgress::Phase phase) {
    LocalFile local{.name = progress_.file, .path = path, .size = static_cast<uint64_t>(SizeOf(path))};
    RETURN_IF_ERROR(HashFile(local, [&](uint64_t bytes) {
      if (phase == TransferProgress::Phase::kHash) {
        progress_.done_bytes += bytes;
        progress_.skipped_bytes += bytes;
      }
      Announce(phase);
      return cancellation_ == nullptr || !cancellation_->cancelled();
    }));
    return local.sha256;
  }

  absl::Status Receive(const std::string& artifact, const v1::FileInfo& file) {
    ASSIGN_OR_RETURN(PartialFile partial, PartialFile::Open(Partial(file)));
    int64_t offset = SizeOf(Partial(file));
    progress_.done_bytes += static_cast<uint64_t>(offset);
    progress_.skipped_bytes += static_cast<uint64_t>(offset);
    while (offset < file.size_bytes()) {
      absl::Status status = ReceiveFrom(artifact, file, partial, offset);
      if (status.ok() && offset < file.size_bytes()) {
        status = Unavailable("DOWNLOAD_SHORT", "{}: the server ended the stream at byte {} of {}", file.name(), offset,
                             file.size_bytes());
      }
      if (status.ok()) break;
      if (!backoff_.ShouldRetry(status)) return status;
      RETURN_IF_ERROR(PauseAfter(status));
    }
    return partial.Sync();
  }

  absl::Status ReceiveFrom(const std::string& artifact, const v1::FileInfo& file, PartialFile& partial,
                           int64_t& offset) {
    v1::DownloadFileRequest request;
    request.set_artifact(artifact);
    request.set_file(file.name());
    request.set_offset(offset);
    grpc::ClientContext context;
    PrepareCall(client_.options_, CallKind::kStream, context);
    CancellableCall guard(cancellation_, context);
    const auto reader = client_.stubs_->artifacts->DownloadFile(&context, request);
    v1::DownloadFileResponse response;
    absl::Status status;
    while (status.ok() && reader->Read(&response)) {
      const auto bytes = static_cast<int64_t>(response.data().size());
      if (bytes > file.size_bytes() - offset) {
        status = DataLoss("DOWNLOAD_SIZE", "{}: the server sent more than the {} bytes that {} lists", file.name(),
                          file.size_bytes(), artifact);
        break;
      }
      status = partial.Append(response.data());
      offset += bytes;
      progress_.done_bytes += static_cast<uint64_t>(bytes);
      if (bytes > 0) backoff_.Reset();
      Announce(TransferProgress::Phase::kTransfer);
    }
    if (!status.ok()) context.TryCancel();
    const absl::Status stream_status = FromGrpc(reader->Finish());
    return status.ok() ? stream_status : status;
  }

  absl::Status Check(const v1::FileInfo& file) {
    ASSIGN_OR_RETURN(const std::string digest, Digest(Partial(file), TransferProgress::Phase::kCheck));
    if (digest == file.sha256()) return absl::OkStatus();
    RETURN_IF_ERROR(Remove(Partial(file)));
    return DataLoss("DOWNLOAD_DIGEST",
                    "{} has SHA-256 {}, but the artifact lists {}; the damaged copy was removed, download again",
                    file.name(), digest, file.sha256());
  }

  absl::Status Publish(const v1::FileInfo& file) const {
    if (SizeOf(Partial(file)) < 0) return absl::OkStatus();
    if (::rename(Partial(file).c_str(), Final(file).c_str()) != 0) return ErrnoToStatus("rename to", Final(file));
    return absl::OkStatus();
  }

  static absl::Status Remove(const std::string& path) {
    return ::unlink(path.c_str()) == 0 ? absl::OkStatus() : ErrnoToStatus("remove", path);
  }

  absl::Status PauseAfter(const absl::Status& status) {
    progress_.error = status;
    progress_.retry_in_ms = backoff_.NextPauseMs();
    Announce(TransferProgress::Phase::kRetry);
    progress_.error = absl::OkStatus();
    return backoff_.Pause() ? absl::OkStatus() : Cancelled("CANCELLED", "download to {} stopped", folder_);
  }

  void Announce(TransferProgress::Phase phase) {
    progress_.phase = phase;
    report_(progress_);
  }

  Client& client_;
  std::string folder_;
  Progress report_;
  Cancellation* cancellation_;
  RetryPauses backoff_;
  TransferProgress progress_;
};

absl::StatusOr<v1::Artifact> Client::DownloadArtifact(const std::string& name, const std::string& folder,
                                                      absl::FunctionRef<void(const TransferProgress&)> progress,
                                                      Cancellation* cancellation) {
  return Downloader(*this, folder, progress, cancellation).Run(name);
}

}  // namespace qamserve
