// The folder of the stores, owned by one server at a time.
#pragma once

#include <string>
#include <utility>

#include "core/base/status.h"

namespace qamserve {

// Holds the lock of a data folder while it lives. The lock goes with the process, however it ends.
class DataDir {
 public:
  // Makes the folder if it is not there. FAILED_PRECONDITION: DATA_DIR_LOCKED if another server has it, DATA_DIR if it
  // cannot be made or written.
  static absl::StatusOr<DataDir> Open(const std::string& path);
  DataDir(DataDir&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  DataDir& operator=(DataDir&&) = delete;
  ~DataDir();

  const std::string& path() const { return path_; }
  std::string database() const { return path_ + "/metadata.sqlite"; }
  std::string blobs() const { return path_ + "/store"; }
  std::string cache() const { return path_ + "/cache"; }  // of blobs that lie elsewhere
  std::string work() const { return path_ + "/work"; }
  std::string imports() const { return path_ + "/imports"; }  // files on their way in

 private:
  DataDir(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_ = -1;
};

}  // namespace qamserve
