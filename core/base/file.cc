#include "core/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace qamserve {
namespace {

std::string FolderOf(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

struct OpenedFile {
  int fd;
  uint64_t size;
};

// O_NONBLOCK: opening a FIFO would otherwise wait for a writer before it could be refused. Regular files ignore it.
absl::StatusOr<OpenedFile> OpenRegularFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoToStatus("open", path);
  struct stat info {};
  absl::Status status = ::fstat(fd, &info) == 0 ? absl::OkStatus() : ErrnoToStatus("stat", path);
  if (status.ok() && !S_ISREG(info.st_mode)) {
    status = InvalidArgument("FILE_NOT_REGULAR", "{} is not a regular file", path);
  }
  if (status.ok()) return OpenedFile{fd, static_cast<uint64_t>(info.st_size)};
  ::close(fd);
  return status;
}

}  // namespace

absl::Status ErrnoToStatus(std::string_view action, const std::string& path) {
  const int error = errno;
  const std::string message = fmt::format("{} {}: {}", action, path, std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return MakeError(absl::StatusCode::kNotFound, "FILE_NOT_FOUND", message);
  if (error == ENOSPC || error == EDQUOT) return MakeError(absl::StatusCode::kResourceExhausted, "DISK_FULL", message);
  if (error == EACCES || error == EPERM) {
    return MakeError(absl::StatusCode::kPermissionDenied, "FILE_PERMISSION", message);
  }
  return MakeError(absl::StatusCode::kUnavailable, "FILE_IO", message);
}

absl::StatusOr<File> File::OpenForRead(const std::string& path) {
  ASSIGN_OR_RETURN(const OpenedFile opened, OpenRegularFile(path));
  return File(path, opened.fd, opened.size);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status File::ReadAt(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoToStatus("read", path_);
    if (n == 0) {
      return DataLoss("FILE_TRUNCATED", "{} ends at byte {}, but {} bytes at {} were expected", path_, offset + done,
                      out.size(), offset);
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(const OpenedFile opened, OpenRegularFile(path));
  absl::Status status;
  void* data = nullptr;
  if (opened.size > 0) {
    data = ::mmap(nullptr, opened.size, PROT_READ, MAP_PRIVATE, opened.fd, 0);
    if (data == MAP_FAILED) status = ErrnoToStatus("map", path);
  }
  ::close(opened.fd);
  RETURN_IF_ERROR(status);
  return MappedFile(path, data, opened.size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

void MappedFile::DropPages() const {
  // Advice: where it is not taken the pages stay, which is no error.
  if (data_ != nullptr) (void)::madvise(data_, size_, MADV_DONTNEED);
}

absl::StatusOr<AtomicFile> AtomicFile::Create(const std::string& path) {
  std::string temporary = path + ".partial-XXXXXX";
  const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return ErrnoToStatus("create", temporary);
  ::fchmod(fd, 0644);
  return AtomicFile(path, std::move(temporary), fd);
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_),
      status_(std::move(other.status_)) {}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

absl::Status AtomicFile::Append(std::span<const std::byte> bytes) {
  RETURN_IF_ERROR(status_);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return status_ = ErrnoToStatus("write", temporary_);
    done += static_cast<size_t>(n);
  }
  size_ += bytes.size();
  return absl::OkStatus();
}

absl::Status AtomicFile::Commit() {
  RETURN_IF_ERROR(status_);
  if (::fsync(fd_) != 0) return status_ = ErrnoToStatus("sync", temporary_);
  ::close(std::exchange(fd_, -1));
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return status_ = ErrnoToStatus("rename to", path_);
  temporary_.clear();
  return status_ = SyncDirectory(FolderOf(path_));
}

absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) {
  ASSIGN_OR_RETURN(File file, File::OpenForRead(path));
  if (file.size() > max_bytes) {
    return ResourceExhausted("FILE_TOO_LARGE", "{} has {} bytes; the limit is {}", path, file.size(), max_bytes);
  }
  std::string text(file.size(), '\0');
  RETURN_IF_ERROR(file.ReadAt(0, std::as_writable_bytes(std::span(text.data(), text.size()))));
  return text;
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view text) {
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  RETURN_IF_ERROR(file.Append(text));
  return file.Commit();
}

absl::Status CreateDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error) return absl::OkStatus();
  errno = error.value();
  return ErrnoToStatus("create folder", path);
}

absl::Status SyncDirectory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoToStatus("open folder", path);
  absl::Status status = ::fsync(fd) == 0 ? absl::OkStatus() : ErrnoToStatus("sync folder", path);
  ::close(fd);
  return status;
}

absl::Status RemoveAll(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (!error) return absl::OkStatus();
  errno = error.value();
  return ErrnoToStatus("remove", path);
}

absl::StatusOr<uint64_t> FreeDiskBytes(const std::string& path) {
  struct statvfs info {};
  if (::statvfs(path.c_str(), &info) != 0) return ErrnoToStatus("statvfs", path);
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace qamserve
