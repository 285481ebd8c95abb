// Files that are read at offsets, mapped, or written so that a reader sees all of them or nothing.
// Thread safety: a const File or MappedFile may be used from any thread; an AtomicFile belongs to one.
// Errors: NOT_FOUND (FILE_NOT_FOUND), INVALID_ARGUMENT (FILE_NOT_REGULAR) for folders, FIFOs and devices,
// RESOURCE_EXHAUSTED (DISK_FULL) for ENOSPC and EDQUOT, PERMISSION_DENIED (FILE_PERMISSION), else UNAVAILABLE
// (FILE_IO); each names the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace qamserve {

// A file opened for reading; ReadAt never moves a shared position.
class File {
 public:
  static absl::StatusOr<File> OpenForRead(const std::string& path);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  // Fills `out` from `offset`. Reading past the end is DATA_LOSS (FILE_TRUNCATED).
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const;

 private:
  File(std::string path, int fd, uint64_t size) : path_(std::move(path)), fd_(fd), size_(size) {}
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// A whole file mapped read-only.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  // Its pages no longer count as this process's memory until they are read again, from the page cache or the disk. Any
  // thread may read meanwhile.
  void DropPages() const;

 private:
  MappedFile(std::string path, void* data, size_t size) : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Writes beside `path` and appears there at Commit: fsync, rename, fsync of the folder. Destroyed before Commit,
// nothing is left. The first error sticks: later calls return it.
class AtomicFile {
 public:
  static absl::StatusOr<AtomicFile> Create(const std::string& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  uint64_t size() const { return size_; }
  absl::Status Append(std::span<const std::byte> bytes);
  absl::Status Append(std::string_view text) { return Append(std::as_bytes(std::span(text.data(), text.size()))); }
  absl::Status Commit();

 private:
  AtomicFile(std::string path, std::string temporary, int fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}
  std::string path_;
  std::string temporary_;
  int fd_ = -1;
  uint64_t size_ = 0;
  absl::Status status_;
};

// The whole file as a string; more than `max_bytes` is RESOURCE_EXHAUSTED (FILE_TOO_LARGE).
absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes);
// AtomicFile in one call.
absl::Status WriteFileAtomically(const std::string& path, std::string_view text);
// mkdir -p.
absl::Status CreateDirectories(const std::string& path);
// Makes renames and removals in a folder durable.
absl::Status SyncDirectory(const std::string& path);
// Removes a folder and all below it; a path that is not there is fine.
absl::Status RemoveAll(const std::string& path);
// Free bytes on the file system that holds `path`.
absl::StatusOr<uint64_t> FreeDiskBytes(const std::string& path);
// The status of the current errno, for a call `action` on `path`.
absl::Status ErrnoToStatus(std::string_view action, const std::string& path);

}  // namespace qamserve
