// A PostgreSQL server of a test's own: a new cluster in a temporary folder, reached by a Unix socket there and nothing
// else. Needs Debian's package postgresql (or the same programs elsewhere); never touches a cluster of the system.
// The server is a child process and ends with this object. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

class PostgresServer {
 public:
  // Why there can be none here; empty if there can.
  static std::string Missing();
  // Makes a cluster and starts it. `settings`: lines of postgresql.conf.
  static absl::StatusOr<std::unique_ptr<PostgresServer>> Start(const std::vector<std::string>& settings = {});
  // A running copy of this server that follows it and cannot be written to until Promote.
  absl::StatusOr<std::unique_ptr<PostgresServer>> StartStandby() const;
  absl::Status Promote() const;
  ~PostgresServer();
  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  // A new database, empty, encoded in UTF-8, whose texts are ordered as in a dictionary and not by their bytes. It
  // belongs to kUser, who has no other rights. Returns its URI.
  absl::StatusOr<std::string> NewDatabase() const;
  // Of a database and one of the users.
  std::string Uri(std::string_view database, std::string_view user = kUser,
                  std::string_view password = kPassword) const;
  // SQL as the superuser, by psql; returns what it prints, values alone.
  absl::StatusOr<std::string> Psql(std::string_view database, std::string_view sql) const;

  // kill -9 of the server and all of its processes.
  void Kill();
  // SIGSTOP and SIGCONT of the same.
  void Pause(bool paused) const;
  // An orderly end that interrupts transactions ("fast").
  void Stop();
  // After Kill or Stop; ready when it returns. From the thread that is to live as long as the server: it dies with it.
  absl::Status Restart();

  // Processor time that it has used so far.
  double CpuSeconds() const;

  const std::string& folder() const { return folder_; }  // of the socket, which is named after port 5432
  bool running() const { return pid_ > 0; }

  static constexpr std::string_view kUser = "qamserve_test";
  static constexpr std::string_view kPassword = "pass/w\xc3\xb6rd:@?";  // as awkward as one may be

 private:
  PostgresServer() = default;
  absl::Status Initialize(const std::vector<std::string>& settings);
  std::vector<pid_t> Processes() const;

  std::string folder_;
  pid_t pid_ = -1;
};

}  // namespace qamserve
