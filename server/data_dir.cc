#include "server/data_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/file.h"

namespace qamserve {

absl::StatusOr<DataDir> DataDir::Open(const std::string& path) {
  if (const absl::Status made = CreateDirectories(path); !made.ok()) {
    return FailedPrecondition("DATA_DIR", "--data-dir {} cannot be made: {}", path, MessageOf(made));
  }
  const std::string lock = path + "/lock";
  const int fd = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return FailedPrecondition("DATA_DIR", "--data-dir {} cannot be written: {}: {}", path, lock, std::strerror(errno));
  }
  DataDir dir(path, fd);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return dir;
  if (errno == EWOULDBLOCK) {
    return FailedPrecondition("DATA_DIR_LOCKED", "--data-dir {} is in use by another server; stop it or choose another "
                              "folder", path);
  }
  return FailedPrecondition("DATA_DIR", "--data-dir {} cannot be locked: {}", path, std::strerror(errno));
}

DataDir::~DataDir() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace qamserve
