// An S3 server of a test's own: SeaweedFS (scripts/fetch_seaweedfs.sh) on loopback, with its data in a temporary
// folder. The server is a child process and ends with this object. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <array>
#include <memory>
#include <string>

#include "core/base/status.h"
#include "server/fetch/http_client.h"

namespace qamserve {

class S3Server {
 public:
  // Why there can be none here; empty if there can. The program is QAMSERVE_WEED, or where the script puts it.
  static std::string Missing();
  // Starts one, with a bucket kBucket.
  static absl::StatusOr<std::unique_ptr<S3Server>> Start();
  ~S3Server();
  S3Server(const S3Server&) = delete;
  S3Server& operator=(const S3Server&) = delete;

  std::string endpoint() const;
  static SigningKey key();     // may do everything
  static SigningKey reader();  // may read and list

  void Kill();                    // kill -9
  void Pause(bool paused) const;  // SIGSTOP, SIGCONT
  // After Kill; ready when it returns. From the thread that is to live as long as the server: it dies with it.
  absl::Status Restart();

  static constexpr char kBucket[] = "blobs";

 private:
  S3Server() = default;
  absl::Status WaitUntilReady();

  std::string folder_;
  std::array<int, 4> ports_{};  // S3, master, volumes, filer
  pid_t pid_ = -1;
};

}  // namespace qamserve
