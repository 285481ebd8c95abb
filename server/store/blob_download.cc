#include "server/store/blob_download.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "core/base/digest.h"
#include "core/base/file.h"

namespace qamserve {
namespace {

constexpr size_t kHashBytes = size_t{1} << 20;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::Status WriteAt(int fd, uint64_t offset, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoToStatus("write", path);
    offset += static_cast<uint64_t>(wrote);
    bytes = bytes.subspan(static_cast<size_t>(wrote));
  }
  return absl::OkStatus();
}

class Downloader {
 public:
  Downloader(const BlobDownload& download, BlobSource& source)
      : download_(download),
        source_(source),
        file_(::open(download.path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)),
        marks_(::open(download.parts_path().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)),
        count_(static_cast<size_t>((download.size + download.part_bytes - 1) / download.part_bytes)) {}

  absl::Status Run() {
    RETURN_IF_ERROR(Begin());
    {
      std::vector<std::thread> threads;
      const size_t helpers = std::min(download_.transfers, missing_.size());
      threads.reserve(helpers);
      for (size_t t = 0; t < helpers; ++t) threads.emplace_back([this] { FetchParts(); });
      // Parts are fed to the digest in order, while later ones are still coming.
      const absl::Status hashed = HashParts();
      if (!hashed.ok()) Stop(hashed);
      for (std::thread& thread : threads) thread.join();
    }
    absl::MutexLock lock(&mutex_);
    return error_;
  }

  std::string Digest() { return digest_.Finish(); }

 private:
  // What is remembered beside the file: size, part size, one byte a part.
  using Header = std::array<uint64_t, 2>;

  absl::Status Begin() {
    if (file_.get() < 0) return ErrnoToStatus("open", download_.path);
    if (marks_.get() < 0) return ErrnoToStatus("open", download_.parts_path());
    const Header header = {download_.size, download_.part_bytes};
    std::vector<std::byte> known(sizeof(header) + count_);
    const ssize_t got = ::pread(marks_.get(), known.data(), known.size(), 0);
    absl::MutexLock lock(&mutex_);
    done_.assign(count_, false);
    if (got == static_cast<ssize_t>(known.size()) && std::memcmp(known.data(), header.data(), sizeof(header)) == 0) {
      for (size_t i = 0; i < count_; ++i) done_[i] = known[sizeof(header) + i] == std::byte{1};
    } else {
      std::vector<std::byte> fresh(sizeof(header) + count_);
      std::memcpy(fresh.data(), header.data(), sizeof(header));
      if (::ftruncate(file_.get(), 0) != 0) return ErrnoToStatus("truncate", download_.path);
      RETURN_IF_ERROR(WriteAt(marks_.get(), 0, fresh, download_.parts_path()));
    }
    if (::ftruncate(file_.get(), static_cast<off_t>(download_.size)) != 0) {
      return ErrnoToStatus("extend", download_.path);
    }
    for (size_t i = 0; i < count_; ++i) {
      if (!done_[i]) missing_.push_back(i);
    }
    return absl::OkStatus();
  }

  uint64_t SizeOf(size_t part) const {
    return std::min(download_.part_bytes, download_.size - part * download_.part_bytes);
  }

  void FetchParts() {
    for (size_t m = next_++; m < missing_.size() && !stopped_; m = next_++) {
      const size_t part = missing_[m];
      const absl::Status status = Fetch(part);
      if (!status.ok()) return Stop(status);
      absl::MutexLock lock(&mutex_);
      done_[part] = true;
    }
  }

  absl::Status Fetch(size_t part) {
    uint64_t at = part * download_.part_bytes;
    const auto write = [&](std::span<const std::byte> bytes) -> absl::Status {
      RETURN_IF_ERROR(WriteAt(file_.get(), at, bytes, download_.path));
      at += bytes.size();
      return stopped_ ? Cancelled("CANCELLED", "another part of blob {} failed", download_.digest) : absl::OkStatus();
    };
    RETURN_IF_ERROR(source_.Read(at, SizeOf(part), write));
    constexpr std::array<std::byte, 1> kDone = {std::byte{1}};
    return WriteAt(marks_.get(), sizeof(Header) + part, kDone, download_.parts_path());
  }

  absl::Status HashParts() {
    std::vector<std::byte> buffer(kHashBytes);
    for (size_t part = 0; part < count_; ++part) {
      {
        absl::MutexLock lock(&mutex_);
        const auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return done_[part] || !error_.ok(); };
        mutex_.Await(absl::Condition(&ready));
        if (!done_[part]) return error_;
      }
      const uint64_t end = part * download_.part_bytes + SizeOf(part);
      for (uint64_t at = part * download_.part_bytes; at < end;) {
        const size_t n = static_cast<size_t>(std::min<uint64_t>(buffer.size(), end - at));
        const ssize_t got = ::pread(file_.get(), buffer.data(), n, static_cast<off_t>(at));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return ErrnoToStatus("read", download_.path);
        if (got == 0) return Unavailable("FILE_IO", "{} was cut short at byte {}", download_.path, at);
        digest_.Update(std::span(buffer).first(static_cast<size_t>(got)));
        at += static_cast<uint64_t>(got);
      }
    }
    return absl::OkStatus();
  }

  void Stop(const absl::Status& status) {
    stopped_ = true;
    absl::MutexLock lock(&mutex_);
    if (error_.ok()) error_ = status;
  }

  const BlobDownload& download_;
  BlobSource& source_;
  const Fd file_;
  const Fd marks_;
  const size_t count_;           // of parts
  std::vector<size_t> missing_;  // const once threads run
  std::atomic<size_t> next_{0};  // into missing_
  std::atomic<bool> stopped_{false};
  Sha256 digest_;
  absl::Mutex mutex_;
  std::vector<bool> done_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status DownloadBlob(const BlobDownload& download, BlobSource& source) {
  std::string found;
  {
    Downloader downloader(download, source);
    RETURN_IF_ERROR(downloader.Run());
    found = downloader.Digest();
  }
  ::unlink(download.parts_path().c_str());
  if (found == download.digest) return absl::OkStatus();
  ::unlink(download.path.c_str());
  return DataLoss("BLOB_CORRUPT", "blob {}: the {} bytes that the store has under this name have SHA-256 {}",
                  download.digest, download.size, found);
}

}  // namespace qamserve
